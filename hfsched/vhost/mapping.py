"""A part of a file that another process has mapped too, and may shrink at any time."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
from typing import Any, Protocol

from hfsched.errors import UserError
from hfsched.vhost.errors import MemoryFaultError

__all__ = ["Bytes", "FileMapping", "Mapping", "core_problem", "map_file"]

Bytes = bytes | bytearray | memoryview

_HUGE = 2 << 20  # bytes: hugetlbfs maps whole pages of its own


class Mapping(Protocol):
    """`size` bytes; offsets are checked by the caller.  Every method raises MemoryFaultError for memory that is gone."""

    size: int

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy."""

    def write(self, offset: int, data: Bytes) -> None:
        """Copy `data` there."""

    def fill(self, offset: int, size: int) -> None:
        """Write zeros."""

    def load16(self, offset: int) -> int:
        """Return a little-endian u16 at an even offset; later accesses come after it (acquire)."""

    def store16(self, offset: int, value: int) -> None:
        """Store it; earlier accesses come before it (release)."""

    def or8(self, offset: int, bits: int) -> None:
        """Set bits in a byte, atomically."""

    def fence(self) -> None:
        """Order earlier stores before later loads."""

    def close(self) -> None:
        """Unmap it; the second call does nothing."""


def _core() -> Any:
    return importlib.import_module("hfsched.vhost.core._core")


def core_problem() -> str | None:
    """Return in a line why this process cannot serve vhost-user devices; None: it can."""
    try:
        error = _core().lib.hfv_open()
    except ImportError:
        return "its extension was not built: install gcc and Python's headers, then hfsched again"
    return os.strerror(-error) if error else None


class FileMapping:
    """Bytes [offset, offset + size) of a file; the descriptor stays the caller's.  Raises OSError, ValueError."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        core = _core()
        self._lib, self._ffi = core.lib, core.ffi
        error = self._lib.hfv_open()
        if error:
            raise OSError(-error, os.strerror(-error))
        found = os.fstat(fd)
        if offset + size > found.st_size:
            raise ValueError(f"[{offset:#x}, +{size:#x}) is not in a file of {found.st_size} bytes")
        unit = max(found.st_blksize, mmap.PAGESIZE) if found.st_blksize >= _HUGE else mmap.PAGESIZE
        before = offset % unit
        length = (
            (before + size + unit - 1) // unit * unit if unit > mmap.PAGESIZE else before + size
        )
        self.size = size
        self._map: mmap.mmap | None = mmap.mmap(fd, length, offset=offset - before)
        # What a child wrote there, nobody would know of; and it could not be brought in for one.
        self._map.madvise(mmap.MADV_DONTFORK)
        self._anchor: Any = (ctypes.c_char * length).from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor) + before

    def _done(self, result: int) -> int:
        if result < 0:
            raise MemoryFaultError("memory that is shared with the front-end is gone")
        return result

    def read(self, offset: int, size: int) -> bytes:
        """See `Mapping`."""
        room = bytearray(size)
        self._done(self._lib.hfv_read(self._ffi.from_buffer(room), self.address + offset, size))
        return bytes(room)

    def write(self, offset: int, data: Bytes) -> None:
        """See `Mapping`."""
        source = self._ffi.from_buffer("uint8_t[]", data)
        self._done(self._lib.hfv_write(self.address + offset, source, len(data)))

    def fill(self, offset: int, size: int) -> None:
        """See `Mapping`."""
        self._done(self._lib.hfv_fill(self.address + offset, 0, size))

    def load16(self, offset: int) -> int:
        """See `Mapping`."""
        return self._done(self._lib.hfv_load16(self.address + offset))

    def store16(self, offset: int, value: int) -> None:
        """See `Mapping`."""
        self._done(self._lib.hfv_store16(self.address + offset, value))

    def or8(self, offset: int, bits: int) -> None:
        """See `Mapping`."""
        self._done(self._lib.hfv_or8(self.address + offset, bits))

    def fence(self) -> None:
        """See `Mapping`."""
        self._lib.hfv_fence()

    def close(self) -> None:
        """See `Mapping`."""
        if self._map is not None:
            self._anchor = None
            self._map.close()
            self._map = None


def map_file(fd: int, offset: int, size: int) -> Mapping:
    """Return a mapping of a front-end's file; raises UserError with what is wrong with it."""
    try:
        return FileMapping(fd, offset, size)
    except (OSError, ValueError, OverflowError) as exc:
        text = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
        raise UserError(f"memory of {size} bytes at {offset:#x} of its file: {text}") from None
