"""Operations on files and on attributes."""

from __future__ import annotations

import errno
import os
import stat
import struct
from typing import TYPE_CHECKING

from hfsched.vhost.devices.allocation import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from hfsched.vhost.devices.fs import calls, wire
from hfsched.vhost.devices.fs.handles import KEPT_FLAGS, Handle
from hfsched.vhost.devices.fs.share import Operation
from hfsched.vhost.devices.fs.wire import Opcode, SetAttr, SetAttrRequest, fault

if TYPE_CHECKING:
    from hfsched.vhost.devices.fs.inodes import Node
    from hfsched.vhost.devices.fs.share import Share
    from hfsched.vhost.devices.fs.wire import Header

__all__ = ["WRITE_MAX", "Contents"]

WRITE_MAX = 1 << 20  # bytes of a read or a write

_OPEN = struct.Struct("<II")  # flags
_OPENED = struct.Struct("<QII")  # handle, flags
_CREATE = struct.Struct("<IIII")  # flags, mode, umask
_IO = struct.Struct("<QQIIQII")  # handle, offset, size, write's own flags, lock owner, flags
_HANDLE = struct.Struct("<Q")
_FSYNC = struct.Struct("<QI")  # handle, flags
_FALLOCATE = struct.Struct("<QQQII")  # handle, offset, size, mode
_LSEEK = struct.Struct("<QQII")  # handle, offset, whence
_OFFSET = struct.Struct("<Q")
_WRITTEN = struct.Struct("<II")
_STATFS = struct.Struct("<QQQQQIII28x")
_ENTRY_SIZE = wire.ENTRY.size + wire.ATTR.size
_ATTR_SIZE = wire.ATTR_HEAD.size + wire.ATTR.size

_WRITE_CACHE = (
    1  # it comes from the guest's page cache, whose offset is right whatever the file's flags are
)
_FSYNC_DATA = 1
_FALLOCATE_MODES = KEEP_SIZE | PUNCH_HOLE | ZERO_RANGE
_UNCHANGED = 0xFFFFFFFF  # an owner that is none


class Contents:
    """See the module's text."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.operations: dict[int, Operation] = {
            Opcode.GETATTR: Operation(self._get_attributes, _ATTR_SIZE),
            Opcode.SETATTR: Operation(self._set_attributes, _ATTR_SIZE, changes=True),
            Opcode.OPEN: Operation(self._open, _OPENED.size),
            Opcode.CREATE: Operation(self._create, _ENTRY_SIZE + _OPENED.size, changes=True),
            Opcode.READ: Operation(self._read),
            Opcode.WRITE: Operation(self._write, _WRITTEN.size, changes=True),
            Opcode.STATFS: Operation(self._file_system, _STATFS.size),
            Opcode.RELEASE: Operation(self._release),
            Opcode.FSYNC: Operation(self._sync),
            Opcode.FLUSH: Operation(self._flush),
            Opcode.FALLOCATE: Operation(self._allocate, changes=True),
            Opcode.LSEEK: Operation(self._seek, _OFFSET.size),
            Opcode.SYNCFS: Operation(self._sync_all),
        }

    # Attributes.

    def _get_attributes(self, header: Header, _body: bytes, _room: int) -> bytes:
        return wire.attributes_reply(os.fstat(self._share.inodes.get(header.node).fd))

    def _set_attributes(self, header: Header, body: bytes, _room: int) -> bytes:
        asked = SetAttrRequest.of(body)
        node = self._share.inodes.get(header.node)
        root = self._share.root
        path, proc = root.name(node.fd), root.proc
        times = [
            _time(asked.valid, SetAttr.ATIME, SetAttr.ATIME_NOW, asked.atime, asked.atime_ns),
            _time(asked.valid, SetAttr.MTIME, SetAttr.MTIME_NOW, asked.mtime, asked.mtime_ns),
        ]
        if asked.valid & SetAttr.MODE:
            if node.kind == stat.S_IFLNK:
                raise fault(errno.EOPNOTSUPP)
            os.chmod(path, asked.mode & 0o7777, dir_fd=proc)
        owners = [
            value if asked.valid & which and value != _UNCHANGED else -1
            for which, value in ((SetAttr.UID, asked.uid), (SetAttr.GID, asked.gid))
        ]
        if owners != [-1, -1]:
            os.chown(path, *owners, dir_fd=proc)
        if asked.valid & SetAttr.SIZE:
            self._truncate(node, asked)
        if times != [(0, calls.OMIT)] * 2:
            calls.set_times(proc, path, *times)
        return wire.attributes_reply(os.fstat(node.fd))

    def _truncate(self, node: Node, asked: SetAttrRequest) -> None:
        size = wire.signed(asked.size)
        if asked.valid & SetAttr.FH:
            os.ftruncate(self._share.handles.get(asked.handle, node.id).fd, size)
            return
        fd = self._reopen(node, os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)

    def _file_system(self, header: Header, _body: bytes, _room: int) -> bytes:
        found = os.statvfs(self._share.inodes.get(header.node).fd)
        return _STATFS.pack(
            found.f_blocks,
            found.f_bfree,
            found.f_bavail,
            found.f_files,
            found.f_ffree,
            found.f_bsize,
            min(found.f_namemax, wire.NAME_MAX),
            found.f_frsize,
        )

    # Open files.

    def _reopen(self, node: Node, flags: int) -> int:
        if node.kind == stat.S_IFDIR:
            raise fault(errno.EISDIR)
        return self._share.root.reopen(node.fd, flags)

    def _flags(self, flags: int) -> int:
        """Return the host's flags for a guest's."""
        kept = flags & (KEPT_FLAGS | os.O_TRUNC)
        if kept & os.O_ACCMODE == os.O_ACCMODE:
            raise fault(errno.EINVAL)
        if self._share.read_only and kept & (os.O_ACCMODE | os.O_TRUNC):
            raise fault(errno.EROFS)
        return kept

    def _opened(self, node: Node, fd: int, flags: int) -> bytes:
        handle = Handle(fd, node.id, flags & KEPT_FLAGS, directory=False)
        return _OPENED.pack(self._share.handles.add(handle), 0, 0)

    def _open(self, header: Header, body: bytes, _room: int) -> bytes:
        flags = self._flags(wire.fields(_OPEN, body)[0])
        node = self._share.inodes.get(header.node)
        self._share.handles.check_room()
        return self._opened(node, self._reopen(node, flags), flags)

    def _create(self, header: Header, body: bytes, _room: int) -> bytes:
        (asked, mode, *_), (name,) = wire.named(_CREATE, body)
        flags = self._flags(asked)
        share = self._share
        parent = share.inodes.get(header.node)
        if parent.kind != stat.S_IFDIR:
            raise fault(errno.ENOTDIR)
        share.handles.check_room()
        share.inodes.check_room()
        try:
            fd = share.create(parent, name, flags & ~os.O_TRUNC, mode, header)
        except FileExistsError:
            if asked & os.O_EXCL:
                raise
            return self._open_existing(parent, name, flags)
        try:
            # By the descriptor, not by the name, which may be another file's by now.
            again = os.open(share.root.name(fd), os.O_PATH | os.O_CLOEXEC, dir_fd=share.root.proc)
            node, found = share.inodes.remember(again)
        except OSError:
            os.close(fd)
            raise
        return wire.entry(node.id, found) + self._opened(node, fd, flags)

    def _open_existing(self, parent: Node, name: bytes, flags: int) -> bytes:
        node, _ = self._share.inodes.look_up(parent, name)
        try:
            fd = self._reopen(node, flags)
        except OSError:
            self._share.inodes.forget(node.id, 1)
            raise
        return wire.entry(node.id, os.fstat(fd)) + self._opened(node, fd, flags)

    def _read(self, header: Header, body: bytes, room: int) -> bytes:
        number, offset, size, *_ = wire.fields(_IO, body)
        handle = self._share.handles.get(number, header.node)
        if size > room:
            raise fault(errno.EINVAL)
        size = min(size, WRITE_MAX)
        wire.signed(offset + size)
        return os.pread(handle.fd, size, offset)

    def _write(self, header: Header, body: bytes, _room: int) -> bytes:
        number, offset, size, how, _, flags, _ = wire.fields(_IO, body)
        handle = self._share.handles.get(number, header.node)
        data = memoryview(body)[_IO.size :]
        if size != len(data):
            raise fault(errno.EINVAL)
        wire.signed(offset + size)
        appends = flags & os.O_APPEND and not how & _WRITE_CACHE
        done = 0
        while done < size:
            try:
                done += os.pwritev(
                    handle.fd, [data[done:]], offset + done, os.RWF_APPEND if appends else 0
                )
            except OSError:
                if not done:
                    raise
                break  # what was written is said; the rest is the guest's to write again
        return _WRITTEN.pack(done, 0)

    def _flush(self, header: Header, body: bytes, _room: int) -> bytes:
        (number,) = wire.fields(_HANDLE, body)
        os.close(os.dup(self._share.handles.get(number, header.node).fd))  # says what a close would
        return b""

    def _sync(self, header: Header, body: bytes, _room: int) -> bytes:
        number, flags = wire.fields(_FSYNC, body)
        fd = self._share.handles.get(number, header.node).fd
        (os.fdatasync if flags & _FSYNC_DATA else os.fsync)(fd)
        return b""

    def _allocate(self, header: Header, body: bytes, _room: int) -> bytes:
        number, offset, size, mode, _ = wire.fields(_FALLOCATE, body)
        handle = self._share.handles.get(number, header.node)
        if mode & ~_FALLOCATE_MODES:
            raise fault(errno.EOPNOTSUPP)
        wire.signed(offset + size)
        fallocate(handle.fd, mode, offset, size)
        return b""

    def _seek(self, header: Header, body: bytes, _room: int) -> bytes:
        number, offset, whence, _ = wire.fields(_LSEEK, body)
        handle = self._share.handles.get(number, header.node)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise fault(errno.EINVAL)
        return _OFFSET.pack(os.lseek(handle.fd, wire.signed(offset), whence))

    def _release(self, header: Header, body: bytes, _room: int) -> bytes:
        (number,) = wire.fields(_HANDLE, body)
        self._share.handles.release(number, header.node, directory=False)
        return b""

    def _sync_all(self, _header: Header, _body: bytes, _room: int) -> bytes:
        fd = self._share.root.reopen(self._share.root.fd, os.O_RDONLY | os.O_DIRECTORY)
        try:
            calls.sync_all(fd)
        finally:
            os.close(fd)
        return b""


def _time(valid: int, given: SetAttr, now: SetAttr, seconds: int, ns: int) -> tuple[int, int]:
    """Return a time {s, ns} that is to be set."""
    if valid & now:
        return 0, calls.NOW
    if not valid & given:
        return 0, calls.OMIT
    if ns >= 10**9:
        raise fault(errno.EINVAL)
    return seconds, ns
