"""The bytes of FUSE requests and replies (Linux, include/uapi/linux/fuse.h, protocol 7.31 to 7.38).

A request is a header and a body, a reply a header and a payload.  What is wrong with a body raises OSError, with the errno that
is to be answered.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import Any, NamedTuple

__all__ = [
    "ATTR",
    "ATTR_HEAD",
    "DIRENT",
    "ENTRY",
    "HEADER",
    "INIT",
    "MAJOR",
    "MINOR",
    "MINOR_LEAST",
    "NAME_MAX",
    "PATH_MAX",
    "REPLY_HEADER",
    "ROOT",
    "Header",
    "InitFlag",
    "Opcode",
    "SetAttr",
    "SetAttrRequest",
    "attributes",
    "attributes_reply",
    "body_names",
    "dirent",
    "entry",
    "fault",
    "fields",
    "forgotten",
    "named",
    "reply_header",
    "signed",
    "texts",
]

MAJOR, MINOR, MINOR_LEAST = 7, 38, 31
ROOT = 1  # the node id of the shared directory
NAME_MAX = 255  # bytes
PATH_MAX = 4095  # bytes of a symbolic link
_VALID = 1  # s that the guest may keep a name or attributes without asking again

HEADER = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions, 0
REPLY_HEADER = struct.Struct("<IiQ")  # length, 0 or a negative errno, unique
ATTR = struct.Struct("<QQQqqqIIIIIIIIII")
ENTRY = struct.Struct("<QQQQII")  # node, generation, and how long the name and attributes hold
ATTR_HEAD = struct.Struct("<QII")
DIRENT = struct.Struct("<QQII")  # inode number, offset of the next one, bytes of the name, type
INIT = struct.Struct("<IIIIHHIIHHI28x")
_SETATTR = struct.Struct("<IIQQQqqqIIIIIIII")
_FORGOTTEN = struct.Struct("<QQ")


class Opcode(IntEnum):
    """What is known of; others are answered with ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    SYNCFS = 50


class InitFlag(IntFlag):
    """What the two sides agree on when the guest mounts."""

    ASYNC_READ = 1 << 0
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23


class SetAttr(IntFlag):
    """Which attributes are to change."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class Header(NamedTuple):
    """The header of a request; `length` is that of the request with it."""

    length: int
    opcode: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    extensions: int
    padding: int


class SetAttrRequest(NamedTuple):
    """The body of SETATTR, as it comes."""

    valid: int
    padding: int
    handle: int
    size: int
    lock_owner: int
    atime: int
    mtime: int
    ctime: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    unused4: int
    uid: int
    gid: int
    unused5: int

    @classmethod
    def of(cls, body: bytes) -> SetAttrRequest:
        """Return a body's fields."""
        return cls(*fields(_SETATTR, body))


def fault(number: int) -> OSError:
    """Return the error of an errno."""
    return OSError(number, os.strerror(number))


def fields(layout: struct.Struct, body: bytes) -> tuple[Any, ...]:
    """Return the fields at a body's beginning; what follows them is for newer protocols."""
    if len(body) < layout.size:
        raise fault(errno.EINVAL)
    return layout.unpack_from(body)


def named(
    layout: struct.Struct, body: bytes, count: int = 1
) -> tuple[tuple[Any, ...], list[bytes]]:
    """Return the fields at a body's beginning and the names that follow."""
    return fields(layout, body), body_names(body[layout.size :], count)


def body_names(body: bytes, count: int = 1) -> list[bytes]:
    """Return so many names, each of which can be one entry of a directory."""
    found = texts(body, count)
    for name in found:
        if not name or name in (b".", b"..") or b"/" in name:
            raise fault(errno.EINVAL)
        if len(name) > NAME_MAX:
            raise fault(errno.ENAMETOOLONG)
    return found


def texts(body: bytes, count: int) -> list[bytes]:
    """Return so many texts, each of which ends with a NUL; nothing follows them."""
    found = body.split(b"\0")
    if len(found) != count + 1 or found.pop():
        raise fault(errno.EINVAL)
    return found


def forgotten(opcode: int, node: int, body: bytes) -> Iterator[tuple[int, int]]:
    """Yield {node, lookups} that a request forgets; nothing for one that makes no sense, for it has no answer."""
    if opcode == Opcode.FORGET:
        if len(body) >= 8:
            yield node, int.from_bytes(body[:8], "little")
        return
    items = body[8:]
    if len(body) >= 8 and len(items) == int.from_bytes(body[:4], "little") * _FORGOTTEN.size:
        yield from _FORGOTTEN.iter_unpack(items)


def signed(value: int) -> int:
    """Return an offset or a size, as the host's calls take it."""
    if value >= 1 << 63:
        raise fault(errno.EINVAL)
    return value


def reply_header(payload: int, unique: int, error: int = 0) -> bytes:
    """Return the header of a reply with so many bytes of payload."""
    return REPLY_HEADER.pack(REPLY_HEADER.size + payload, -error, unique)


def attributes(found: os.stat_result) -> bytes:
    """Return a file's attributes."""
    seconds = (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)
    return ATTR.pack(
        found.st_ino,
        found.st_size,
        found.st_blocks,
        *(each // 10**9 for each in seconds),
        *(each % 10**9 for each in seconds),
        found.st_mode,
        min(found.st_nlink, (1 << 32) - 1),
        found.st_uid,
        found.st_gid,
        _rdev(found),
        found.st_blksize,
        0,
    )


def _rdev(found: os.stat_result) -> int:
    """Return the number of a device as Linux encodes it in 32 bits."""
    if not stat.S_ISCHR(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        return 0
    major, minor = os.major(found.st_rdev), os.minor(found.st_rdev)
    return ((minor & 0xFF) | major << 8 | (minor & ~0xFF) << 12) & 0xFFFFFFFF


def attributes_reply(found: os.stat_result) -> bytes:
    """Return the payload that has attributes alone."""
    return ATTR_HEAD.pack(_VALID, 0, 0) + attributes(found)


def entry(node: int, found: os.stat_result) -> bytes:
    """Return the payload that has a node; 0: none, as an entry of READDIRPLUS."""
    valid = _VALID if node else 0
    return ENTRY.pack(node, 0, valid, valid, 0, 0) + attributes(found)


def dirent(inode: int, following: int, name: bytes, kind: int) -> bytes:
    """Return an entry of READDIR; `following` is the offset of the next one."""
    made = DIRENT.pack(inode, following, len(name), kind) + name
    return made.ljust((len(made) + 7) & ~7, b"\0")
