"""Main, the process that runs the VMs, as a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.client.member import first_mapped_of
from hfsched.swap.core.guestpages import zap
from hfsched.swap.core.pagemap import mapped_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hfsched.memory.writeprotect import Run
    from hfsched.swap.protocol.messages import Region

__all__ = ["MainMember"]

_RUNS_MAX = 4096  # a request for each takes less time than all that is mapped


@dataclass(frozen=True, slots=True)
class MainMember:
    """See `hfsched.swap.client.member.Member`; it is member 0, and never dead."""

    uffd: int
    regions: Sequence[Region]
    pagemap: int
    number: int = 0
    dynamic: bool = False
    dead: bool = False
    tracked: int | None = None

    def descriptors(self) -> Sequence[int]:
        """See `Member`."""
        return (self.uffd,) if self.tracked is None else (self.uffd, self.tracked)

    def zap(self) -> None:
        """See `Member`."""
        for region in self.regions:
            zap(region.base, region.size)

    def zap_mapped(self, pages: Sequence[Run] | None = None) -> None:
        """See `Member`: with very many runs everything is zapped."""
        for region in self.regions:
            if pages is None or len(pages) > _RUNS_MAX:
                ranges = mapped_ranges(self.pagemap, region.base, region.size)
            else:
                ranges = _within(region, pages)
            for address, size in ranges:
                zap(address, size)

    def still_mapped(self, matters: Callable[[int], bool]) -> int | None:
        """See `Member`."""
        return first_mapped_of(self.regions, self.pagemap, matters)


def _within(region: Region, pages: Sequence[Run]) -> list[tuple[int, int]]:
    """Return {address, size} of what a region has of runs of all pages; none is in two regions."""
    first, last = region.offset // PAGE_SIZE, (region.offset + region.size) // PAGE_SIZE
    return [
        (region.base + (start - first) * PAGE_SIZE, count * PAGE_SIZE)
        for start, count in pages
        if first <= start < last
    ]
