"""System calls that `os` has not, or not all of; each raises OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple

__all__ = [
    "NOW",
    "OMIT",
    "Listed",
    "list_directory",
    "rename",
    "set_times",
    "sync_all",
]

NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2  # ns that stand for: now; as it is
_LISTED = struct.Struct("=QqHB")  # inode number, offset of the next one, bytes of the record, type

_libc = ctypes.CDLL(None, use_errno=True)
_int, _name, _size = ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
_libc.renameat2.argtypes = [_int, _name, _int, _name, ctypes.c_uint]
_libc.getdents64.argtypes = [_int, ctypes.c_void_p, _size]
_libc.getdents64.restype = ctypes.c_ssize_t
_libc.utimensat.argtypes = [_int, _name, ctypes.c_void_p, _int]
_libc.syncfs.argtypes = [_int]


class Listed(NamedTuple):
    """An entry of a directory; `following` is the offset of the next one."""

    inode: int
    following: int
    kind: int
    name: bytes


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno() or errno.EIO
        raise OSError(number, os.strerror(number))
    return result


def rename(fd: int, name: bytes, to: int, to_name: bytes, flags: int) -> None:
    """Rename an entry of a directory; the flags are those of renameat2."""
    _checked(_libc.renameat2(fd, name, to, to_name, flags))


def set_times(fd: int, name: bytes, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Set the times {s, ns} of what a name in a directory leads to."""
    times = (ctypes.c_long * 4)(*atime, *mtime)
    _checked(_libc.utimensat(fd, name, times, 0))


def sync_all(fd: int) -> None:
    """Have all that was written to the file system of an open file be on its disk."""
    _checked(_libc.syncfs(fd))


def list_directory(fd: int, offset: int, room: int) -> list[Listed]:
    """Return entries of an open directory from an offset on, of at most about `room` bytes; none at its end."""
    os.lseek(fd, offset, os.SEEK_SET)
    buffer = ctypes.create_string_buffer(room)
    end = _checked(_libc.getdents64(fd, buffer, room))
    data = buffer.raw
    found, at = [], 0
    while at < end:
        inode, following, size, kind = _LISTED.unpack_from(data, at)
        name = data[at + _LISTED.size : at + size].split(b"\0", 1)[0]
        found.append(Listed(inode, following, kind, name))
        at += size
    return found
