"""What the guest knows: a node for each file that it has looked up and not forgotten, held by an O_PATH descriptor.

A descriptor goes with its file wherever it is renamed to, and can open nothing but that file.  While it is held, the host does not
use the file's inode number again: {device, inode number} is one node.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from hfsched.errors import UserError
from hfsched.vhost.devices.fs.wire import ROOT, fault

__all__ = ["Inodes", "Node", "Root", "key_of"]

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

Key = tuple[int, int]  # {device, inode number}


def key_of(found: os.stat_result) -> Key:
    """Return what tells files apart."""
    return found.st_dev, found.st_ino


class Root:
    """The shared directory, and the way from a descriptor to what can be done by a path alone.

    Raises UserError for a directory that cannot be used.
    """

    def __init__(self, path: str) -> None:
        try:
            self.proc = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            raise UserError(f"/proc/self/fd: {exc.strerror}; a shared directory needs it") from None
        try:
            self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as exc:
            os.close(self.proc)
            raise UserError(f"{path}: {exc.strerror}") from None

    def step(self, directory: int, name: bytes) -> int:
        """Return a descriptor of an entry of a directory, never of what a symbolic link leads to."""
        return os.open(name, _STEP, dir_fd=directory)

    def reopen(self, fd: int, flags: int) -> int:
        """Open the file of an O_PATH descriptor, which must be a regular file or a directory."""
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFLNK:
            raise fault(errno.ELOOP)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise fault(errno.EPERM)  # a device or a FIFO is none of the guest's
        # Never waiting: for a lease of another process, or for what comes from a file of /proc.
        return os.open(self.name(fd), flags | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.proc)

    @staticmethod
    def name(fd: int) -> bytes:
        """Return the name in `proc` that leads to the file of a descriptor."""
        return b"%d" % fd

    def path_of(self, fd: int) -> bytes | None:
        """Return where a file is now, from the root on; None: nowhere."""
        with suppress(OSError):
            base = os.readlink(self.name(self.fd), dir_fd=self.proc).rstrip(b"/") + b"/"
            path = os.readlink(self.name(fd), dir_fd=self.proc)
            if path.startswith(base) and self.leads_to(path[len(base) :], key_of(os.fstat(fd))):
                return path[len(base) :]
        return None

    def leads_to(self, path: bytes, key: Key) -> bool:
        """Whether a path leads to a certain file."""
        with suppress(OSError):
            return key_of(os.stat(path, dir_fd=self.fd, follow_symlinks=False)) == key
        return False

    def close(self) -> None:
        """Close both."""
        os.close(self.fd)
        os.close(self.proc)


class Node:
    """A file that the guest knows; without a descriptor it is gone, and the guest has yet to notice."""

    __slots__ = ("fd", "id", "key", "kind", "lookups")

    def __init__(self, number: int, fd: int, key: Key | None, kind: int, lookups: int) -> None:
        self.id = number
        self.fd = fd  # -1: none
        self.key = key
        self.kind = kind  # S_IFMT
        self.lookups = lookups


class Inodes:
    """Nodes by id, at most `limit` of them; the root is there always and not counted."""

    def __init__(self, root: Root, limit: int, following: int = ROOT + 1) -> None:
        self.root = root
        self.limit = limit
        self.following = following  # the next id; none is used twice
        found = os.fstat(root.fd)
        self._root = Node(ROOT, root.fd, key_of(found), stat.S_IFDIR, 0)
        self._nodes: dict[int, Node] = {}
        self._by_key: dict[Key, Node] = {key_of(found): self._root}

    def get(self, number: int) -> Node:
        """Return a node; ESTALE when there is none."""
        node = self._root if number == ROOT else self._nodes.get(number)
        if node is None or node.fd < 0:
            raise fault(errno.ESTALE)
        return node

    def check_room(self) -> None:
        """Raise ENFILE when there is no room for a node more."""
        if len(self._nodes) >= self.limit:
            raise fault(errno.ENFILE)

    def look_up(self, parent: Node, name: bytes) -> tuple[Node, os.stat_result]:
        """Return the node of an entry of a directory, once more looked up."""
        return self.remember(self.root.step(parent.fd, name))

    def remember(self, fd: int) -> tuple[Node, os.stat_result]:
        """Return the node of an O_PATH descriptor, which is this object's from now on, once more looked up."""
        try:
            found = os.fstat(fd)
            node = self._by_key.get(key_of(found))
            if node is None:
                self.check_room()
                node = self.adopt(self.following, fd, 0)
                self.following += 1
                fd = -1
        finally:
            if fd >= 0:
                os.close(fd)
        node.lookups += 1
        return node, found

    def adopt(self, number: int, fd: int, lookups: int, kind: int = 0) -> Node:
        """Have a node of this id; without a descriptor (-1) it is gone."""
        found = os.fstat(fd) if fd >= 0 else None
        key = None if found is None else key_of(found)
        kind = kind if found is None else stat.S_IFMT(found.st_mode)
        node = Node(number, fd, key, kind, lookups)
        self._nodes[number] = node
        if key is not None:
            self._by_key.setdefault(key, node)
        return node

    def forget(self, number: int, lookups: int) -> None:
        """Forget so many lookups of a node, and the node with the last one."""
        node = self._nodes.get(number)
        if node is None:
            return
        node.lookups -= min(node.lookups, lookups)
        if not node.lookups:
            self._drop(node)

    def _drop(self, node: Node) -> None:
        del self._nodes[node.id]
        if node.key is not None and self._by_key.get(node.key) is node:
            del self._by_key[node.key]
        if node.fd >= 0:
            os.close(node.fd)

    def __iter__(self) -> Iterator[Node]:
        """Yield all nodes but the root, those that are gone included."""
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def clear(self) -> None:
        """Know nothing but the root; ids go on."""
        for node in list(self):
            self._drop(node)
