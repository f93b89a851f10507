"""RAM for explored machines: plain bytes, quick to make and to throw away."""

from __future__ import annotations

from hfsched.errors import InternalError
from hfsched.memory.ram import Ram

__all__ = ["HeapRam"]


class HeapRam(Ram):
    """A `Ram` in this process's heap; nobody else can map it."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.fd = -1
        self.address = 0
        self._bytes = bytearray(size)

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
