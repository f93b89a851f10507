"""A VM's memory: regions of intermediate physical addresses (IPAs), each backed by a part of a RAM.

All ranges are half-open: [ipa, ipa + size).  The map of a VM does not change while it runs; what the
VM may do with a page is kept elsewhere (`hfsched.hypervisor.pages`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from msgspec import Struct

from hfsched.errors import InternalError
from hfsched.memory.ram import PAGE_SIZE, Ram

__all__ = ["GuestMemory", "Region"]


class Region(Struct, frozen=True):
    """IPAs [ipa, ipa + size) are bytes [offset, offset + size) of `ram`; all multiples of 4096."""

    ipa: int
    ram: Ram
    offset: int
    size: int

    @property
    def end(self) -> int:
        """The first IPA behind it."""
        return self.ipa + self.size


class GuestMemory:
    """The regions of one VM, in the order of their IPAs.

    Raises InternalError for regions that overlap, are empty, or are not made of whole pages.
    """

    __slots__ = ("_spans", "regions")

    def __init__(self, regions: Iterable[Region]) -> None:
        self.regions = tuple(sorted(regions, key=lambda region: region.ipa))
        end = 0
        for region in self.regions:
            if region.size <= 0 or (region.ipa | region.offset | region.size) % PAGE_SIZE:
                raise InternalError(f"memory region at {region.ipa:#x}: not whole pages")
            if region.ipa < end:
                raise InternalError(f"memory region at {region.ipa:#x} overlaps the one before")
            end = region.end
        # {first IPA, IPA of the end, RAM, offset - IPA}: every message is read and written by these.
        self._spans = tuple((r.ipa, r.end, r.ram, r.offset - r.ipa) for r in self.regions)

    @classmethod
    def whole(cls, ram: Ram, ipa: int) -> Self:
        """Return the memory that has all of one RAM at `ipa`."""
        return cls([Region(ipa, ram, 0, ram.size)])

    @property
    def size(self) -> int:
        """The bytes of all regions."""
        return sum(region.size for region in self.regions)

    def find(self, ipa: int) -> Region | None:
        """Return the region that holds `ipa`, None without one."""
        for region in self.regions:
            if region.ipa <= ipa < region.end:
                return region
        return None

    def read(self, ipa: int, size: int) -> bytes:
        """Return `size` bytes from `ipa`; they lie in one region.  No permission is checked."""
        for first, end, ram, shift in self._spans:
            if first <= ipa and ipa + size <= end:
                return ram.read(ipa + shift, size)
        raise _outside(ipa, size)

    def write(self, ipa: int, data: bytes) -> None:
        """Write bytes at `ipa`; they lie in one region.  No permission is checked."""
        after = ipa + len(data)
        for first, end, ram, shift in self._spans:
            if first <= ipa and after <= end:
                ram.write(ipa + shift, data)
                return
        raise _outside(ipa, len(data))


def _outside(ipa: int, size: int) -> InternalError:
    return InternalError(f"guest memory [{ipa:#x}, {ipa + size:#x}) is in no region")
