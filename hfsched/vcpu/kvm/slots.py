"""Guest memory as KVM has it: slots, each a range of IPAs backed by host memory.

Pure: `Slots` keeps what is mapped, page by page where it must, and returns which slots to delete and
which to add.  A slot is readable and executable, and writable or not; memory that may not even be
read has no slot, and an access to it ends the run as one to nothing does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hfsched.errors import InternalError
from hfsched.vcpu.engine import Permissions

__all__ = ["Change", "Region", "Slots"]

PAGE = 4096


@dataclass(frozen=True, slots=True)
class Region:
    """`size` bytes at `ipa`, backed by host memory at `host`."""

    ipa: int
    size: int
    host: int
    permissions: Permissions

    @property
    def end(self) -> int:
        """The first IPA beyond."""
        return self.ipa + self.size

    def part(self, start: int, end: int) -> Region:
        """Return its part in [start, end), with which it overlaps."""
        start, end = max(start, self.ipa), min(end, self.end)
        return Region(start, end - start, self.host + start - self.ipa, self.permissions)


@dataclass(frozen=True, slots=True)
class Change:
    """A slot to set: `region` None takes it away."""

    slot: int
    region: Region | None

    @property
    def read_only(self) -> bool:
        """Whether the guest may not write there."""
        return self.region is not None and Permissions.WRITE not in self.region.permissions


def _as_slot(region: Region) -> tuple[int, int, int, bool]:
    return (region.ipa, region.size, region.host, Permissions.WRITE in region.permissions)


class Slots:
    """The memory of one VM; slot numbers begin at 0."""

    def __init__(self) -> None:
        self._regions: list[Region] = []  # sorted, apart
        self._slots: dict[int, Region] = {}  # what the kernel was told

    def map(self, region: Region) -> None:
        """Map a region, replacing what was there."""
        self.unmap(region.ipa, region.size)
        self._regions = sorted([*self._regions, region], key=lambda each: each.ipa)

    def unmap(self, ipa: int, size: int) -> None:
        """Remove what is in [ipa, ipa + size)."""
        _check(ipa, size)
        self._regions = [
            part for region in self._regions for part in _without(region, ipa, ipa + size)
        ]

    def protect(self, ipa: int, size: int, permissions: Permissions) -> None:
        """Change the permissions of what is in [ipa, ipa + size); holes stay holes."""
        _check(ipa, size)
        inside = [
            region.part(ipa, ipa + size)
            for region in self._regions
            if region.ipa < ipa + size and ipa < region.end
        ]
        for part in inside:
            self.map(Region(part.ipa, part.size, part.host, permissions))

    def changes(self) -> list[Change]:
        """Return the changes of slots since the last call, in order."""
        wanted = {_as_slot(region): region for region in self._merged()}
        gone = [slot for slot, region in self._slots.items() if _as_slot(region) not in wanted]
        for slot in gone:
            del self._slots[slot]
        had = {_as_slot(region) for region in self._slots.values()}
        changes = [Change(slot, None) for slot in gone]
        number = 0
        for key, region in wanted.items():
            if key in had:
                continue
            while number in self._slots:
                number += 1
            self._slots[number] = region
            changes.append(Change(number, region))
        return changes

    def find(self, ipa: int) -> Region | None:
        """Return the region that holds `ipa`."""
        return next((each for each in self._regions if each.ipa <= ipa < each.end), None)

    def top(self) -> list[tuple[int, int]]:
        """Return [start, end) of each region."""
        return [(region.ipa, region.end) for region in self._regions]

    def _merged(self) -> Iterator[Region]:
        """Return the regions as slots: neighbours that are contiguous in host memory too are merged."""
        before: Region | None = None
        for region in self._regions:
            if Permissions.READ not in region.permissions:
                continue
            if (
                before is not None
                and before.end == region.ipa
                and before.host + before.size == region.host
                and (before.permissions ^ region.permissions) & Permissions.WRITE == 0
            ):
                before = Region(
                    before.ipa, before.size + region.size, before.host, before.permissions
                )
                continue
            if before is not None:
                yield before
            before = region
        if before is not None:
            yield before


def _check(ipa: int, size: int) -> None:
    if ipa < 0 or size <= 0 or (ipa | size) % PAGE:
        raise InternalError(f"[{ipa:#x}, +{size:#x}) is not a range of pages")


def _without(region: Region, start: int, end: int) -> Iterator[Region]:
    if region.ipa < start:
        yield region.part(region.ipa, min(start, region.end))
    if end < region.end:
        yield region.part(max(end, region.ipa), region.end)
