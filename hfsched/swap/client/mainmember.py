"""Main, the process that runs the VMs, as a member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.swap.client.member import first_mapped_of
from hfsched.swap.core.guestpages import zap
from hfsched.swap.core.pagemap import mapped_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hfsched.swap.protocol.messages import Region

__all__ = ["MainMember"]


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

    def zap_mapped(self) -> None:
        """See `Member`."""
        for region in self.regions:
            for address, size in mapped_ranges(self.pagemap, region.base, region.size):
                zap(address, size)

    def still_mapped(self, staged: Callable[[int], bool]) -> int | None:
        """See `Member`."""
        return first_mapped_of(self.regions, self.pagemap, staged)
