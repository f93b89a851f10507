"""Requests of the services as typed values, and their bytes.

All numbers are little endian; each body has a fixed part, and then a text (UTF-8) or bytes to its end::

    kvp        op u8, 0 u8, key length u16, 0 u32                        | key, value
    freeze     op u8, 0 u8, 0 u16, time-out in ms u32
    file       op u8, 0 u8, mode u16, transfer u32, size, offset or crc u64  | name or data
    heartbeat  number u64
    time       ns since 1970 u64
    shutdown   op u8, 0 u8, 0 u16, grace in ms u32

A reply's body is a value (kvp), keys that each end with a 0 byte (a list), the number (heartbeat), a reason
(a failure), or nothing.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TypeAlias, TypeVar

from msgspec import Struct

from hfsched.services.wire import BODY_MAX, ServiceId, WireError

__all__ = [
    "DATA_MAX",
    "KEY_MAX",
    "NAME_MAX",
    "VALUE_MAX",
    "FileOp",
    "FileRequest",
    "FreezeOp",
    "FreezeRequest",
    "Heartbeat",
    "KvpOp",
    "KvpRequest",
    "Request",
    "SetTime",
    "ShutdownOp",
    "ShutdownRequest",
    "keys_of",
    "pack",
    "parse",
]

_KVP = struct.Struct("<BBHI")
_TIMED = struct.Struct("<BBHI")
_FILE = struct.Struct("<BBHIQ")
_U64 = struct.Struct("<Q")
KEY_MAX = 512  # bytes
DATA_MAX = BODY_MAX - _FILE.size
NAME_MAX = 255  # bytes of a file's name
VALUE_MAX = BODY_MAX - _KVP.size - KEY_MAX  # bytes, whatever its key is


class KvpOp(IntEnum):
    """What to do with a key."""

    GET = 1
    SET = 2
    DELETE = 3
    LIST = 4  # the keys after this one, in their order, as many as an answer holds


class KvpRequest(Struct, frozen=True):
    """Key-value exchange."""

    op: KvpOp
    key: str
    value: bytes = b""


class FreezeOp(IntEnum):
    """What to do with file systems."""

    FREEZE = 1
    THAW = 2


class FreezeRequest(Struct, frozen=True):
    """Freeze for at most `timeout_ms`, or thaw."""

    op: FreezeOp
    timeout_ms: int = 0


class FileOp(IntEnum):
    """A step of a file's copy."""

    BEGIN = 1  # `number` is the size in bytes
    DATA = 2  # `number` is the offset in bytes
    END = 3  # `number` is the CRC-32 of the whole
    CANCEL = 4


class FileRequest(Struct, frozen=True):
    """One step of the copy `transfer`; the name has no `/`."""

    op: FileOp
    transfer: int
    number: int = 0
    mode: int = 0o644
    name: str = ""
    data: bytes = b""


class Heartbeat(Struct, frozen=True):
    """Answered with the same number."""

    number: int


class SetTime(Struct, frozen=True):
    """The host's time, in ns since 1970."""

    ns: int


class ShutdownOp(IntEnum):
    """How to end."""

    POWER_OFF = 1
    REBOOT = 2


class ShutdownRequest(Struct, frozen=True):
    """End orderly, within `grace_ms`."""

    op: ShutdownOp
    grace_ms: int = 0


Request: TypeAlias = (
    KvpRequest | FreezeRequest | FileRequest | Heartbeat | SetTime | ShutdownRequest
)
Op = TypeVar("Op", bound=IntEnum)


def pack(request: Request) -> tuple[ServiceId, bytes]:
    """Return a request's service and body."""
    match request:
        case KvpRequest(op, key, value):
            name = key.encode()
            return ServiceId.KVP, _KVP.pack(op, 0, len(name), 0) + name + value
        case FreezeRequest(op, timeout):
            return ServiceId.FREEZE, _TIMED.pack(op, 0, 0, timeout)
        case FileRequest(op, transfer, number, mode, name, data):
            rest = name.encode() if op is FileOp.BEGIN else data
            return ServiceId.FILE, _FILE.pack(op, 0, mode, transfer, number) + rest
        case Heartbeat(number):
            return ServiceId.HEARTBEAT, _U64.pack(number)
        case SetTime(ns):
            return ServiceId.TIME, _U64.pack(ns)
        case ShutdownRequest(op, grace):
            return ServiceId.SHUTDOWN, _TIMED.pack(op, 0, 0, grace)


def parse(service: ServiceId, body: bytes) -> Request:
    """Parse a request's body; raises WireError."""
    try:
        return _PARSERS[service](body)
    except struct.error:
        raise WireError(f"{service.name}: {len(body)} bytes: too short") from None
    except UnicodeDecodeError:
        raise WireError(f"{service.name}: a text that is no UTF-8") from None


def keys_of(body: bytes) -> list[str]:
    """Return the keys in a list's answer; what is no UTF-8 in them is replaced."""
    return [each.decode(errors="replace") for each in body.split(b"\0")[:-1]]


def _kvp(body: bytes) -> Request:
    op, pad, length, rest = _KVP.unpack_from(body)
    end = _KVP.size + length
    _need(not pad and not rest, "a reserved field is not 0")
    _need(length <= KEY_MAX and end <= len(body), f"a key of {length} bytes")
    key = body[_KVP.size : end].decode()
    _need("\0" not in key, "a key with a 0 byte")
    known = _op(KvpOp, op)
    _need(known is KvpOp.SET or end == len(body), "a value that is not to be set")
    return KvpRequest(known, key, body[end:])


def _freeze(body: bytes) -> Request:
    op, milliseconds = _timed(body)
    return FreezeRequest(_op(FreezeOp, op), milliseconds)


def _shutdown(body: bytes) -> Request:
    op, milliseconds = _timed(body)
    return ShutdownRequest(_op(ShutdownOp, op), milliseconds)


def _timed(body: bytes) -> tuple[int, int]:
    _need(len(body) <= _TIMED.size, "bytes behind the request")
    op, pad, more, milliseconds = _TIMED.unpack_from(body)
    _need(not pad and not more, "a reserved field is not 0")
    return op, milliseconds


def _file(body: bytes) -> Request:
    op, pad, mode, transfer, number = _FILE.unpack_from(body)
    rest = body[_FILE.size :]
    _need(not pad, "a reserved field is not 0")
    _need(mode <= 0o7777, f"mode {mode:o}")
    match _op(FileOp, op):
        case FileOp.BEGIN:
            name = rest.decode()
            _need(0 < len(rest) <= NAME_MAX, f"a name of {len(rest)} bytes")
            wrong = name in (".", "..") or "/" in name or "\0" in name
            _need(not wrong, f"{name!r} is no name of a file")
            return FileRequest(FileOp.BEGIN, transfer, number, mode, name)
        case FileOp.DATA:
            return FileRequest(FileOp.DATA, transfer, number, mode, data=rest)
        case known:
            _need(not rest, "bytes behind the request")
            return FileRequest(known, transfer, number, mode)


def _heartbeat(body: bytes) -> Request:
    return Heartbeat(_number(body))


def _time(body: bytes) -> Request:
    return SetTime(_number(body))


def _number(body: bytes) -> int:
    _need(len(body) <= _U64.size, "bytes behind the request")
    number: int = _U64.unpack_from(body)[0]
    return number


def _op(kind: type[Op], op: int) -> Op:
    try:
        return kind(op)
    except ValueError:
        raise WireError(f"unknown operation {op}") from None


def _need(holds: bool, what: str) -> None:  # noqa: FBT001 - reads like an assertion
    if not holds:
        raise WireError(what)


_PARSERS = {
    ServiceId.KVP: _kvp,
    ServiceId.FREEZE: _freeze,
    ServiceId.FILE: _file,
    ServiceId.HEARTBEAT: _heartbeat,
    ServiceId.TIME: _time,
    ServiceId.SHUTDOWN: _shutdown,
}
