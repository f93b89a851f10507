"""Operations on the entries of directories."""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from hfsched.vhost.devices.fs import calls, wire
from hfsched.vhost.devices.fs.handles import Handle
from hfsched.vhost.devices.fs.share import Operation
from hfsched.vhost.devices.fs.wire import Opcode, fault

if TYPE_CHECKING:
    from hfsched.vhost.devices.fs.inodes import Node
    from hfsched.vhost.devices.fs.share import Share
    from hfsched.vhost.devices.fs.wire import Header

__all__ = ["Names"]

_MKNOD = struct.Struct("<IIII")  # mode, device, umask
_MKDIR = struct.Struct("<II")  # mode, umask
_RENAME = struct.Struct("<Q")  # the other directory
_RENAME2 = struct.Struct("<QII")  # the other directory, flags
_LINK = struct.Struct("<Q")  # the node
_READDIR = struct.Struct("<QQIIQII")  # handle, offset, size
_OPENED = struct.Struct("<QII")  # handle, flags
_RENAME_FLAGS = 1 | 2  # NOREPLACE, EXCHANGE; a whiteout would be a device
_ENTRY_SIZE = wire.ENTRY.size + wire.ATTR.size
_LISTED_LEAST = 512  # bytes: the longest name fits
_LISTED_MOST = 1 << 16


class Names:
    """See the module's text."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.operations: dict[int, Operation] = {
            Opcode.LOOKUP: Operation(self._look_up, _ENTRY_SIZE),
            Opcode.READLINK: Operation(self._read_link),
            Opcode.SYMLINK: Operation(self._symlink, _ENTRY_SIZE, changes=True),
            Opcode.MKNOD: Operation(self._make_node, _ENTRY_SIZE, changes=True),
            Opcode.MKDIR: Operation(self._make_directory, _ENTRY_SIZE, changes=True),
            Opcode.UNLINK: Operation(self._unlink, changes=True),
            Opcode.RMDIR: Operation(self._remove_directory, changes=True),
            Opcode.RENAME: Operation(self._rename, changes=True),
            Opcode.RENAME2: Operation(self._rename, changes=True),
            Opcode.LINK: Operation(self._link, _ENTRY_SIZE, changes=True),
            Opcode.OPENDIR: Operation(self._open, _OPENED.size),
            Opcode.READDIR: Operation(self._read),
            Opcode.READDIRPLUS: Operation(self._read),
            Opcode.RELEASEDIR: Operation(self._release),
            Opcode.FSYNCDIR: Operation(self._sync),
        }

    def _directory(self, number: int) -> Node:
        node = self._share.inodes.get(number)
        if node.kind != stat.S_IFDIR:
            raise fault(errno.ENOTDIR)
        return node

    # One entry.

    def _look_up(self, header: Header, body: bytes, _room: int) -> bytes:
        (name,) = wire.body_names(body)
        node, found = self._share.inodes.look_up(self._directory(header.node), name)
        return wire.entry(node.id, found)

    def _read_link(self, header: Header, _body: bytes, room: int) -> bytes:
        node = self._share.inodes.get(header.node)
        if node.kind != stat.S_IFLNK:
            raise fault(errno.EINVAL)
        text = os.readlink(b"", dir_fd=node.fd)
        if len(text) > room:
            raise fault(errno.ENAMETOOLONG)
        return text

    def _symlink(self, header: Header, body: bytes, _room: int) -> bytes:
        name, target = wire.texts(body, 2)
        wire.body_names(name + b"\0")
        if not 1 <= len(target) <= wire.PATH_MAX:
            raise fault(errno.ENAMETOOLONG if target else errno.ENOENT)
        parent = self._directory(header.node)
        self._share.inodes.check_room()
        os.symlink(target, name, dir_fd=parent.fd)
        return self._made(parent, name, stat.S_IFLNK, 0o777, header)

    def _make_node(self, header: Header, body: bytes, _room: int) -> bytes:
        (mode, *_), (name,) = wire.named(_MKNOD, body)
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise fault(errno.EPERM)
        parent = self._directory(header.node)
        self._share.inodes.check_room()
        os.close(self._share.create(parent, name, os.O_WRONLY, mode, header))
        node, found = self._share.inodes.look_up(parent, name)
        return wire.entry(node.id, found)

    def _make_directory(self, header: Header, body: bytes, _room: int) -> bytes:
        (mode, _), (name,) = wire.named(_MKDIR, body)
        parent = self._directory(header.node)
        self._share.inodes.check_room()
        os.mkdir(name, 0o700, dir_fd=parent.fd)
        return self._made(parent, name, stat.S_IFDIR, mode, header)

    def _made(self, parent: Node, name: bytes, kind: int, mode: int, header: Header) -> bytes:
        """Return the payload for what was made; it gets its owner and mode."""
        node, found = self._share.inodes.look_up(parent, name)
        try:
            if node.kind != kind or node.lookups != 1:
                raise fault(errno.EIO)  # another process has put something else there
            self._share.own(parent, node.fd, mode, header)
            found = os.fstat(node.fd)
        except OSError:
            self._share.inodes.forget(node.id, 1)
            raise
        return wire.entry(node.id, found)

    def _unlink(self, header: Header, body: bytes, _room: int) -> bytes:
        (name,) = wire.body_names(body)
        os.unlink(name, dir_fd=self._directory(header.node).fd)
        return b""

    def _remove_directory(self, header: Header, body: bytes, _room: int) -> bytes:
        (name,) = wire.body_names(body)
        os.rmdir(name, dir_fd=self._directory(header.node).fd)
        return b""

    def _rename(self, header: Header, body: bytes, _room: int) -> bytes:
        layout = _RENAME if header.opcode == Opcode.RENAME else _RENAME2
        (to, *rest), (name, to_name) = wire.named(layout, body, 2)
        flags = rest[0] if rest else 0
        if flags & ~_RENAME_FLAGS:
            raise fault(errno.EINVAL)
        source, target = self._directory(header.node), self._directory(to)
        calls.rename(source.fd, name, target.fd, to_name, flags)
        return b""

    def _link(self, header: Header, body: bytes, _room: int) -> bytes:
        (number,), (name,) = wire.named(_LINK, body)
        node, parent = self._share.inodes.get(number), self._directory(header.node)
        root = self._share.root
        os.link(
            root.name(node.fd),
            name,
            src_dir_fd=root.proc,
            dst_dir_fd=parent.fd,
            follow_symlinks=True,  # that of /proc, which leads to the file
        )
        found_node, found = self._share.inodes.look_up(parent, name)
        return wire.entry(found_node.id, found)

    # All entries.

    def _open(self, header: Header, _body: bytes, _room: int) -> bytes:
        node, handles = self._directory(header.node), self._share.handles
        handles.check_room()
        fd = self._share.root.reopen(node.fd, os.O_RDONLY | os.O_DIRECTORY)
        return _OPENED.pack(handles.add(Handle(fd, node.id, os.O_RDONLY, directory=True)), 0, 0)

    def _read(self, header: Header, body: bytes, room: int) -> bytes:
        number, offset, size, *_ = wire.fields(_READDIR, body)
        handle = self._share.handles.get(number, header.node, directory=True)
        if size > room:
            raise fault(errno.EINVAL)
        plus = header.opcode == Opcode.READDIRPLUS
        wanted = min(max(size // (4 if plus else 1), _LISTED_LEAST), _LISTED_MOST)
        made = bytearray()
        listed = calls.list_directory(handle.fd, wire.signed(offset), wanted)
        for each in listed:
            inode = each.inode
            if each.name == b".." and header.node == wire.ROOT:
                inode = os.fstat(handle.fd).st_ino  # what is outside has no number
            entry = wire.dirent(inode, each.following, each.name, each.kind)
            if len(made) + len(entry) + (_ENTRY_SIZE if plus else 0) > size:
                break
            if plus:
                made += self._entry(handle.fd, each.name)
            made += entry
        if listed and not made:
            raise fault(errno.EINVAL)  # there is no room for one; none at all would be the end
        return bytes(made)

    def _entry(self, fd: int, name: bytes) -> bytes:
        """Return what LOOKUP would, of an entry of an open directory; that it is unknown if it cannot be looked up."""
        if name not in (b".", b".."):
            with suppress(OSError):
                inodes = self._share.inodes
                node, found = inodes.remember(self._share.root.step(fd, name))
                return wire.entry(node.id, found)
        return bytes(_ENTRY_SIZE)

    def _release(self, header: Header, body: bytes, _room: int) -> bytes:
        (number,) = wire.fields(struct.Struct("<Q"), body)
        self._share.handles.release(number, header.node, directory=True)
        return b""

    def _sync(self, header: Header, body: bytes, _room: int) -> bytes:
        (number,) = wire.fields(struct.Struct("<Q"), body)
        os.fsync(self._share.handles.get(number, header.node, directory=True).fd)
        return b""
