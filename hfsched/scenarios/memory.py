"""RAM for explored machines: cheap to create and discard, or cheap to rewind."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Hashable
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.explore.thing import Thing
from hfsched.memory.ram import Ram

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["ComparedRam", "HeapRam", "RewindRam"]


class HeapRam(Ram):
    """A `Ram` in this process's heap; no other process can map it."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.fd = -1
        self.address = 0
        self._bytes = bytearray(size)

    def contents(self) -> bytes:
        """Return all bytes."""
        return bytes(self._bytes)

    def _inside(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self.size:
            raise InternalError(
                f"RAM of {self.name}: [{offset:#x}, +{size:#x}) is outside {self.size:#x} bytes"
            )

    def read(self, offset: int, size: int) -> bytes:
        """See `Ram.read`."""
        self._inside(offset, size)
        return bytes(self._bytes[offset : offset + size])

    def write(self, offset: int, data: bytes) -> None:
        """See `Ram.write`."""
        self._inside(offset, len(data))
        self._bytes[offset : offset + len(data)] = data

    def copy_to(self, offset: int, target: Ram, target_offset: int, size: int) -> None:
        """See `Ram.copy_to`."""
        target.write(target_offset, self.read(offset, size))

    def zero(self, offset: int, size: int) -> None:
        """See `Ram.zero`."""
        self.write(offset, bytes(size))

    def close(self) -> None:
        """See `Ram.close`."""


class ComparedRam(HeapRam, Thing):
    """A `HeapRam` whose bytes are a part of the state of the scenario."""

    what = "memory"

    def __init__(self, runtime: ExploreRuntime, name: str, size: int) -> None:
        HeapRam.__init__(self, name, size)
        Thing.__init__(self, runtime, f"{name}.ram")

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return self.contents()


class RewindRam(Ram):
    """A `Ram` with a snapshot, restored at a cost that is proportional to the pages written since.

    It is a private mapping of a memfd: writes copy pages, and `rewind` drops the copies.
    """

    def __init__(self, name: str, size: int) -> None:
        super().__init__(name, size)
        self._anchor = None
        self._map.close()
        self._map = mmap.mmap(self.fd, size, flags=mmap.MAP_PRIVATE)
        self._map.madvise(mmap.MADV_DONTFORK)
        self._anchor = (ctypes.c_char * size).from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)

    def take_snapshot(self) -> None:
        """Take the snapshot that `rewind` restores."""
        os.pwrite(self.fd, self.read(0, self.size), 0)
        self.rewind()

    def rewind(self) -> None:
        """Discard all writes since `take_snapshot`."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def digest(self) -> int:
        """Return a 64-bit digest of all bytes."""
        return hash(self.read(0, self.size))
