"""Members: the processes that map guest memory, as main knows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.core.pagemap import first_mapped
from hfsched.swap.protocol.messages import Region, Register

if TYPE_CHECKING:
    from hfsched.memory.writeprotect import Run

__all__ = ["Member", "RegisteredMember", "first_mapped_of"]


class Member(Protocol):
    """A process that maps guest memory, as main knows it.

    A static one must live as long as the machine; a dynamic one may die.
    """

    @property
    def number(self) -> int:
        """Its number, unique, below `hfsched.swap.protocol.messages.MEMBERS_MAX`."""

    @property
    def dynamic(self) -> bool:
        """Whether it may die."""

    @property
    def dead(self) -> bool:
        """Whether main knows that it is dead."""

    @property
    def regions(self) -> Sequence[Region]:
        """Its mappings of guest memory; constant."""

    @property
    def tracked(self) -> int | None:
        """Its page tables, if its dirty pages can be tracked (`hfsched.memory.writeprotect.tracks`)."""

    def descriptors(self) -> Sequence[int]:
        """Return its uffd, `tracked` if there is that, its pidfd if it is dynamic; main keeps them open."""

    def still_mapped(self, matters: Callable[[int], bool]) -> int | None:
        """Return an address of a page that it has mapped and that `matters`; None: there is none.

        By its page tables as the kernel shows them, not by what it says.  `matters` takes the number of
        a page: one that a fault has taken back meanwhile may be mapped.  Raises OSError.
        """

    def zap(self) -> None:
        """Have it zap its page tables over its regions; raises OSError, with ESRCH if it is dead."""

    def zap_mapped(self, pages: Sequence[Run] | None = None) -> None:
        """Zap what is mapped alone: where that is little, it takes less time.

        `pages`: of these runs at least, of all pages; None: of everything.
        """


@dataclass(frozen=True, slots=True)
class RegisteredMember:
    """A member that is registered, and whether it has zapped since the last enable."""

    member: Member
    zapped: bool = True

    def request(self) -> Register:
        """Return the request that registers it."""
        return Register(
            member=self.member.number,
            dynamic=self.member.dynamic,
            zapped=self.zapped,
            pagemap=self.member.tracked is not None,
            regions=tuple(self.member.regions),
        )


def first_mapped_of(
    regions: Sequence[Region], pagemap: int, matters: Callable[[int], bool]
) -> int | None:
    """Return the address of the first page that is mapped and matters, None for none; raises OSError."""
    for region in regions:

        def there(address: int, region: Region = region) -> bool:
            return matters((region.offset + address - region.base) // PAGE_SIZE)

        found = first_mapped(pagemap, region.base, region.size, there)
        if found is not None:
            return found
    return None
