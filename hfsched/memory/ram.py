"""RAM of a VM: a memfd, mapped once, accessed only through bounds-checked copies.

The copies release the interpreter lock: a page may be swapped out, and the thread that brings it back
may need the lock.  For the same reason no file I/O is ever done on the memfd's pages.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os

from hfsched.errors import InternalError
from hfsched.runtime.declared import uncompared

__all__ = ["PAGE_SIZE", "Ram", "sealed_memfd"]

PAGE_SIZE = 4096

# A CFUNCTYPE call releases the interpreter lock, unlike ctypes.string_at or slicing an mmap.
_copy = ctypes.memmove
# A process that is given the memfd could truncate it, and the others would get a SIGBUS.
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_Page = ctypes.c_char * PAGE_SIZE


@uncompared(idle="scratch memory: what it has is written before it is read")
class _PageBuffers:
    """Page buffers that nobody uses, each with its address: making one costs more than a short copy."""

    def __init__(self) -> None:
        self.idle: list[tuple[memoryview, int]] = []


_buffers = _PageBuffers()


def _page_buffer() -> tuple[memoryview, int]:
    try:
        return _buffers.idle.pop()
    except IndexError:
        page = _Page()
        return memoryview(page).cast("B"), ctypes.addressof(page)


def sealed_memfd(name: str, size: int) -> int:
    """Return a new memfd of `size` bytes, which nobody can resize; raises OSError."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


class Ram:
    """`size` bytes (a multiple of 4096) of zeroed guest memory.

    `fd` is the memfd, for engines and processes that map it themselves; `address` is where this
    process has it.  A process that received the memfd passes it as `fd`, which the object then owns.
    """

    def __init__(self, name: str, size: int, fd: int | None = None) -> None:
        if size <= 0 or size % PAGE_SIZE:
            raise InternalError(f"RAM of {name}: {size} is not a positive multiple of {PAGE_SIZE}")
        self.name = name
        self.size = size
        self.fd = sealed_memfd(f"hfsched:{name}"[:200], size) if fd is None else fd
        try:
            self._map = mmap.mmap(self.fd, size)
        except BaseException:
            os.close(self.fd)
            raise
        # A child would read zeros from swapped-out pages and put them into the page cache.
        self._map.madvise(mmap.MADV_DONTFORK)
        self._anchor: ctypes.Array[ctypes.c_char] | None = (ctypes.c_char * size).from_buffer(
            self._map
        )
        self.address = ctypes.addressof(self._anchor)

    def _check(self, offset: int, size: int) -> int:
        if self._anchor is None:
            raise InternalError(f"RAM of {self.name} is closed")
        if offset < 0 or size < 0 or offset + size > self.size:
            raise InternalError(
                f"RAM of {self.name}: [{offset:#x}, +{size:#x}) is outside {self.size:#x} bytes"
            )
        return self.address + offset

    def read(self, offset: int, size: int) -> bytes:
        """Return a copy of `size` bytes at `offset`."""
        source = self._check(offset, size)
        if size <= PAGE_SIZE:
            buffer = _page_buffer()
            view, address = buffer
            _copy(address, source, size)
            data = bytes(view[:size])
            _buffers.idle.append(buffer)
            return data
        out = ctypes.create_string_buffer(size)
        _copy(out, source, size)
        return out.raw

    def copy_out(self, offset: int, room: memoryview) -> None:
        """Copy as many bytes at `offset` as there are in `room`, which can be written."""
        target = (ctypes.c_char * len(room)).from_buffer(room)
        _copy(ctypes.addressof(target), self._check(offset, len(room)), len(room))

    def write(self, offset: int, data: bytes) -> None:
        """Copy `data` to `offset`."""
        target = self._check(offset, len(data))
        if data:
            _copy(target, data, len(data))

    def copy_to(self, offset: int, target: Ram, target_offset: int, size: int) -> None:
        """Copy `size` bytes at `offset` to `target_offset` of `target` (which may be this one)."""
        source = self._check(offset, size)
        destination = target._check(target_offset, size)
        if size:
            _copy(destination, source, size)

    def zero(self, offset: int, size: int) -> None:
        """Fill `size` bytes at `offset` with zero."""
        ctypes.memset(self._check(offset, size), 0, size)

    def close(self) -> None:
        """Unmap and close; engines must not use `address` any more."""
        if self._anchor is not None:
            self._anchor = None
            self._map.close()
            os.close(self.fd)

    def __del__(self) -> None:
        """Free what was not closed; a constructor that failed has closed it already."""
        if getattr(self, "_anchor", None) is not None:
            self.close()
