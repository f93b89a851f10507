"""The statistics of a vCPU as KVM gives them by a file: whether a guest sleeps in the kernel.

Format: Linux, Documentation/virt/kvm/api.rst 4.133, KVM_GET_STATS_FD.
"""

from __future__ import annotations

import os
import struct

__all__ = ["Stats", "offset_of"]

_HEADER = struct.Struct("<6I")  # flags, name size, descriptors, offsets of id, descriptors, data
_DESCRIPTOR = struct.Struct("<IhHII")  # flags, exponent, size, offset, bucket size; the name
_VALUE = struct.Struct("<Q")
_DESCRIPTORS_MAX = 4096


def offset_of(data: bytes, name: str) -> int | None:
    """Return where in the file the value of a statistic is, None without one.

    `data` is the file from its beginning, as far as its descriptors reach.
    """
    if len(data) < _HEADER.size:
        return None
    _, name_size, count, _, start, values = _HEADER.unpack_from(data)
    step = _DESCRIPTOR.size + name_size
    if count > _DESCRIPTORS_MAX or start + count * step > len(data):
        return None
    for place in range(start, start + count * step, step):
        _, _, _, offset, _ = _DESCRIPTOR.unpack_from(data, place)
        said = data[place + _DESCRIPTOR.size : place + step].split(b"\0", 1)[0]
        if said.decode("ascii", "replace") == name:
            return int(values + offset)
    return None


class Stats:
    """The statistics file of a vCPU; the descriptor is its own."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._blocking = offset_of(os.pread(fd, 1 << 16, 0), "blocking")

    def blocking(self) -> bool:
        """Return whether the vCPU sleeps in the kernel now."""
        if self._fd < 0 or self._blocking is None:
            return False
        data = os.pread(self._fd, _VALUE.size, self._blocking)
        return len(data) == _VALUE.size and _VALUE.unpack(data)[0] != 0

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
