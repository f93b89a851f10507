"""A block device (virtio 1.3, section 5.2) on a file or a disk."""

from __future__ import annotations

import errno
import os
import struct
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any

from hfsched.errors import UserError
from hfsched.vhost.device import Device
from hfsched.vhost.devices.allocation import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, fallocate
from hfsched.vhost.errors import ChainError, RefusedError

if TYPE_CHECKING:
    from hfsched.vhost.queue import Queue
    from hfsched.vhost.request import Request

__all__ = ["SECTOR", "SERIAL_MAX", "Block"]

SECTOR = 512  # bytes
SERIAL_MAX = 20  # bytes
_HEADER = struct.Struct("<IIQ")  # type, reserved, sector
_RANGE = struct.Struct("<QII")  # sector, sectors, flags
_UNMAP = 1
_SEGMENTS_MAX = 126  # of a request, that fits the smallest rings that front-ends use
_RANGE_SECTORS_MAX = 1 << 15  # to discard or zero at once
_RANGES_MAX = 1
_PART = 1 << 20  # bytes that are read or written at once
_CANNOT = (errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL)  # of a file system or a disk
_CONFIG = struct.Struct("<QIIHBBIBBHIBBHIIIIIB3x")


class _Type(IntEnum):
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8
    DISCARD = 11
    WRITE_ZEROES = 13


class _Status(IntEnum):
    OK = 0
    IOERR = 1
    UNSUPPORTED = 2


class _Feature(IntFlag):
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    TOPOLOGY = 1 << 10
    CONFIG_WCE = 1 << 11
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


class Block(Device):
    """The file at a path, whole sectors of it; with `serial` the driver can ask which one it is.

    Raises UserError for a file that cannot be used.
    """

    type_id = 2

    def __init__(
        self, path: str, *, read_only: bool = False, serial: str = "", queues: int = 1
    ) -> None:
        if len(serial.encode()) > SERIAL_MAX:
            raise UserError(f"serial {serial!r}: at most {SERIAL_MAX} bytes")
        self.queues = queues
        self._read_only = read_only
        self._serial = serial.encode()
        self._write_back = True
        self.features = (
            _Feature.SEG_MAX
            | _Feature.BLK_SIZE
            | _Feature.FLUSH
            | _Feature.TOPOLOGY
            | _Feature.CONFIG_WCE
        )
        self.features |= _Feature.MQ if queues > 1 else 0
        self.features |= _Feature.RO if read_only else _Feature.DISCARD | _Feature.WRITE_ZEROES
        try:
            self._fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            try:
                self._size = os.lseek(self._fd, 0, os.SEEK_END) // SECTOR * SECTOR
            except BaseException:
                os.close(self._fd)
                raise
        except OSError as exc:
            raise UserError(f"{path}: {exc.strerror}") from None

    # Configuration.

    def config(self) -> bytes:
        """See `Device`."""
        return _CONFIG.pack(
            self._size // SECTOR,
            0,  # the largest segment: any
            _SEGMENTS_MAX,
            0, 0, 0,  # no geometry
            SECTOR,
            0, 0, 0, 0,  # no topology but the block's
            self._write_back,
            0,
            self.queues,
            _RANGE_SECTORS_MAX, _RANGES_MAX, 1,  # discard
            _RANGE_SECTORS_MAX, _RANGES_MAX, 1,  # zeros: they may unmap
        )  # fmt: skip

    def write_config(self, offset: int, data: bytes) -> None:
        """Switch the write cache."""
        if offset != 32 or len(data) != 1 or data[0] > 1:
            raise RefusedError(
                f"configuration [{offset}, +{len(data)}): only the write cache can be set"
            )
        self._write_back = bool(data[0])

    # Requests.

    def process(self, queue: Queue, request: Request) -> None:  # noqa: ARG002
        """Carry out a request; its last byte is the status."""
        room = request.write_size - 1
        if room < 0 or request.read_size < _HEADER.size:
            chain = request.chain
            raise ChainError(
                chain.head, chain.descriptors, f"chain {chain.head}: it has no header, or no status"
            )
        kind, _, sector = _HEADER.unpack(request.read(_HEADER.size))
        try:
            status = self._carry_out(request, kind, sector * SECTOR, room)
        except OSError:
            status = _Status.IOERR
        request.write(bytes((status,)), room)
        request.complete(room + 1 if kind in (_Type.IN, _Type.GET_ID) else 1)

    def _carry_out(self, request: Request, kind: int, offset: int, room: int) -> _Status:
        data = request.read_size - _HEADER.size
        match kind:
            case _Type.IN:
                return self._read(request, offset, room)
            case _Type.FLUSH:
                os.fdatasync(self._fd)
                return _Status.OK
            case _Type.GET_ID:
                request.write(self._serial[:room].ljust(min(room, SERIAL_MAX), b"\0"))
                return _Status.OK
            case _Type.OUT | _Type.DISCARD | _Type.WRITE_ZEROES if self._read_only:
                return _Status.IOERR
            case _Type.OUT:
                return self._write(request, offset, data)
            case _Type.DISCARD | _Type.WRITE_ZEROES:
                return self._change(request, data, discard=kind == _Type.DISCARD)
        return _Status.UNSUPPORTED

    def _inside(self, offset: int, size: int) -> bool:
        return not size % SECTOR and offset + size <= self._size

    def _read(self, request: Request, offset: int, size: int) -> _Status:
        if not self._inside(offset, size):
            return _Status.IOERR
        for at in range(0, size, _PART):
            want = min(_PART, size - at)
            data = os.pread(self._fd, want, offset + at)
            request.write(data.ljust(want, b"\0"), at)  # a file that was cut short
        return _Status.OK

    def _write(self, request: Request, offset: int, size: int) -> _Status:
        if not self._inside(offset, size):
            return _Status.IOERR
        for at in range(0, size, _PART):
            data = memoryview(request.read(min(_PART, size - at), _HEADER.size + at))
            done = 0
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + at + done)
        if not self._write_back:
            os.fdatasync(self._fd)
        return _Status.OK

    def _change(self, request: Request, size: int, *, discard: bool) -> _Status:
        """Discard, or write zeros to, ranges of sectors."""
        if not size or size % _RANGE.size or size // _RANGE.size > _RANGES_MAX:
            return _Status.UNSUPPORTED
        ranges = [
            (sector * SECTOR, sectors * SECTOR, flags)
            for sector, sectors, flags in _RANGE.iter_unpack(request.read(offset=_HEADER.size))
        ]
        for _, length, flags in ranges:
            if flags & ~(0 if discard else _UNMAP) or length > _RANGE_SECTORS_MAX * SECTOR:
                return _Status.UNSUPPORTED
        if not all(self._inside(start, length) for start, length, _ in ranges):
            return _Status.IOERR
        for start, length, flags in ranges:
            if length:
                self._empty(start, length, keep=not discard and not flags & _UNMAP)
        if not self._write_back:
            os.fdatasync(self._fd)
        return _Status.OK

    def _empty(self, start: int, size: int, *, keep: bool) -> None:
        """Have zeros there; with `keep` its room stays allocated."""
        for mode in (ZERO_RANGE,) if keep else (PUNCH_HOLE, ZERO_RANGE):
            try:
                fallocate(self._fd, mode | KEEP_SIZE, start, size)
            except OSError as exc:
                if exc.errno not in _CANNOT:
                    raise
            else:
                return
        for at in range(0, size, _PART):
            os.pwrite(self._fd, bytes(min(_PART, size - at)), start + at)

    # Its life.

    def suspend(self) -> None:
        """See `Device`."""
        if not self._read_only:
            os.fdatasync(self._fd)

    def save(self) -> Any:
        """See `Device`: the disk's contents are not in it."""
        return {"write_back": self._write_back, "size": self._size}

    def restore(self, state: Any) -> None:
        """See `Device`."""
        if not isinstance(state, dict) or not isinstance(state.get("write_back"), bool):
            raise RefusedError("a block device's state without its write cache")
        if state.get("size") != self._size:
            raise RefusedError(f"a disk of {state.get('size')!r} bytes; this one has {self._size}")
        self._write_back = state["write_back"]

    def close(self) -> None:
        """See `Device`."""
        os.close(self._fd)
