"""What a guest knows and has open, as it travels to another process that shares the same directory.

Files travel as paths.  One that is not there any more makes no restore fail: the guest is answered ESTALE until it looks the name up
again.  A file without a name (deleted while open) is lost in this way.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from hfsched.vhost.devices.fs.handles import KEPT_FLAGS, Handle, Handles
from hfsched.vhost.devices.fs.inodes import Inodes, Node, Root, key_of
from hfsched.vhost.devices.fs.wire import MINOR, MINOR_LEAST, ROOT
from hfsched.vhost.errors import RefusedError

if TYPE_CHECKING:
    from hfsched.vhost.devices.fs.share import Share

__all__ = ["restore", "save"]

VERSION = 1
_NUMBER_MAX = (1 << 64) - 1
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_KINDS = (stat.S_IFREG, stat.S_IFDIR)  # what can be open


class _Node(Struct, forbid_unknown_fields=True):
    id: int
    lookups: int
    kind: int
    path: bytes | None  # from the root on; None: it had none


class _Handle(Struct, forbid_unknown_fields=True):
    id: int
    node: int
    flags: int
    directory: bool


class _State(Struct, forbid_unknown_fields=True):
    version: int
    minor: int
    next_node: int
    next_handle: int
    nodes: list[_Node]
    handles: list[_Handle]


def save(share: Share, minor: int) -> Any:
    """Return the state: numbers, bytes, lists and dicts of them."""
    paths = {node.id: share.root.path_of(node.fd) for node in share.inodes if node.fd >= 0}
    _find(share, paths)
    state = _State(
        VERSION,
        minor,
        share.inodes.following,
        share.handles.following,
        [_Node(node.id, node.lookups, node.kind, paths.get(node.id)) for node in share.inodes],
        [
            _Handle(number, handle.node, handle.flags, handle.directory)
            for number, handle in share.handles
        ],
    )
    return msgspec.to_builtins(state, builtin_types=(bytes,))


def _find(share: Share, paths: dict[int, bytes | None]) -> None:
    """Find files that have lost the name they were looked up by and have another one in a directory that the guest knows."""
    lost = {
        node.key: node.id
        for node in share.inodes
        if node.key is not None
        and paths.get(node.id) is None
        and node.kind != stat.S_IFDIR
        and os.fstat(node.fd).st_nlink
    }
    if not lost:
        return
    directories = [(share.inodes.get(ROOT), b"")]
    for node in share.inodes:
        path = paths.get(node.id)
        if node.kind == stat.S_IFDIR and path is not None:
            directories.append((node, path + b"/"))
    for node, path in directories:
        with suppress(OSError):
            for name in _names(share.root, node):
                key = key_of(os.stat(name, dir_fd=node.fd, follow_symlinks=False))
                if key in lost:
                    paths[lost[key]] = path + name


def _names(root: Root, node: Node) -> list[bytes]:
    fd = root.reopen(node.fd, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return [os.fsencode(name) for name in os.listdir(fd)]  # noqa: PTH208 - a descriptor
    finally:
        os.close(fd)


def restore(
    root: Root, found: Any, limits: tuple[int, int], *, read_only: bool
) -> tuple[Inodes, Handles, int]:
    """Return what a state has, and the protocol's minor; raises RefusedError."""
    try:
        state = msgspec.convert(found, _State)
    except msgspec.ValidationError as exc:
        raise RefusedError(f"a file system's state: {exc}") from None
    _check(state, limits, read_only=read_only)
    inodes = Inodes(root, limits[0], state.next_node)
    handles = Handles(limits[1], state.next_handle)
    try:
        _restore_nodes(root, state, inodes)
        for each in state.handles:
            fd = _reopen(root, inodes, each)
            handles.adopt(each.id, Handle(fd, each.node, each.flags, each.directory))
    except OSError as exc:
        handles.clear()
        inodes.clear()
        raise RefusedError(f"a file system's state: {exc.strerror}") from None
    return inodes, handles, state.minor


def _check(state: _State, limits: tuple[int, int], *, read_only: bool) -> None:
    """Raise RefusedError for a state that makes no sense here."""
    if state.version != VERSION:
        raise RefusedError(f"a file system's state of version {state.version}, not {VERSION}")
    if state.minor and not MINOR_LEAST <= state.minor <= MINOR:
        raise RefusedError(f"FUSE protocol 7.{state.minor}: 7.{MINOR_LEAST} to 7.{MINOR}")
    for what, items, least, following, limit in (
        ("node", state.nodes, ROOT + 1, state.next_node, limits[0]),
        ("handle", state.handles, 1, state.next_handle, limits[1]),
    ):
        if len(items) > limit:
            raise RefusedError(
                f"{len(items)} {what}s: at most {limit}, by the limit of open files (ulimit -n)"
            )
        numbers = {each.id for each in items}
        if len(numbers) != len(items) or not _between(numbers, least, following - 1):
            raise RefusedError(f"{what}s whose ids are no {what}'s")
        if not least <= following <= _NUMBER_MAX >> 1:
            raise RefusedError(f"a next {what} of id {following}")
    if not _between({each.lookups for each in state.nodes}, 1, _NUMBER_MAX):
        raise RefusedError("nodes that were never looked up")
    for each in state.handles:
        if each.flags & ~KEPT_FLAGS or each.flags & os.O_ACCMODE == os.O_ACCMODE:
            raise RefusedError(f"handle {each.id}: it was opened by {each.flags:#x}")
        if read_only and each.flags & os.O_ACCMODE:
            raise RefusedError(f"handle {each.id} is open for writing; this share is read-only")


def _between(numbers: set[int], least: int, most: int) -> bool:
    return not numbers or (min(numbers) >= least and max(numbers) <= most)


def _restore_nodes(root: Root, state: _State, inodes: Inodes) -> None:
    """Find the files again, directories before what is in them."""
    known: dict[bytes, int] = {b"": root.fd}
    for each in sorted(state.nodes, key=lambda node: node.path or b""):
        fd = -1 if each.path is None else _walk(root, known, each.path)
        if fd >= 0 and stat.S_IFMT(os.fstat(fd).st_mode) != each.kind:
            os.close(fd)
            fd = -1
        inodes.adopt(each.id, fd, each.lookups, each.kind)
        if fd >= 0 and each.path is not None:
            known[each.path] = fd


def _walk(root: Root, known: dict[bytes, int], path: bytes) -> int:
    """Return a descriptor of what is at a path, by steps that follow no symbolic link; -1: nothing."""
    parts = path.split(b"/")
    if any(part in (b"", b".", b"..") or b"\0" in part for part in parts):
        return -1
    parent, _, name = path.rpartition(b"/")
    at, rest = (known[parent], [name]) if parent in known else (root.fd, parts)
    held = -1
    try:
        for part in rest:
            at, before = root.step(at, part), held
            held = at
            if before >= 0:
                os.close(before)
    except OSError as exc:
        if held >= 0:
            os.close(held)
        if exc.errno in _EXHAUSTED:
            raise
        return -1
    return held


def _reopen(root: Root, inodes: Inodes, handle: _Handle) -> int:
    """Open a handle's file again; -1: it cannot be."""
    try:
        node = inodes.get(handle.node)
        if node.kind not in _KINDS or (node.kind == stat.S_IFDIR) != handle.directory:
            return -1
        return root.reopen(node.fd, handle.flags | (os.O_DIRECTORY if handle.directory else 0))
    except OSError as exc:
        if exc.errno in _EXHAUSTED:
            raise
        return -1
