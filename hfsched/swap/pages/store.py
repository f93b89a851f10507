"""What a controller asks of the page store, and what it is told: the types alone.

`hfsched.swap.pages.entries` has the pages' states, which these count.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

__all__ = ["EVENTS", "REGIONS_MAX", "Counts", "Pages", "Phase", "Progress"]

REGIONS_MAX = 1024  # of one page store


class Phase(Enum):
    """How far enabling has come; it is kept beside the table and outlives a monitor."""

    OFF = "off"  # nothing is registered, no page is anywhere else
    MARKED = "marked"  # after `stage`: a staged page may still be mapped somewhere
    SETTLED = "settled"  # after `zapped`


@dataclass(frozen=True, slots=True)
class Progress:
    """What one bounded piece of work did.

    `moved`: pages it brought where they should go.  `done`: nothing is left of this work.
    `problem`: one line about what stopped it; the pages concerned stay where they were, and the
    same call may be made again later.
    """

    moved: int
    done: bool
    problem: str | None = None
    zero: int = 0  # of `trim`: how many of `moved` were zero,
    clean: int = 0  # and how many equal to their copy in the file


@dataclass(frozen=True, slots=True)
class Counts:
    """Pages by state, as they are now; and what has happened since the table was made."""

    pages: int
    resident: int  # RESIDENT: in the guest's memory, or never touched
    staged: int
    busy: int  # WRITING, PUNCHING and MOVING
    file: int
    compressed: int
    zero: int
    stale: int  # slots of the file that hold a page which is in memory too
    phase: Phase
    tier_used: int = 0  # bytes of the compressed tier
    tier_size: int = 0  # 0: there is none
    events: dict[str, int] = field(default_factory=dict)  # name: number; see `EVENTS`


EVENTS = (
    "faults",  # events read
    "from_file",  # pages brought by faults: read from the file,
    "from_staging",  # given back from staging,
    "decompressed",  # from the compressed tier,
    "zeroed",  # as zero pages,
    "mapped",  # that were in memory, but not for the one who asked
    "around",  # of all these: not asked for, but beside one that was
    "redundant",  # faults on a page that was there already
    "waited",  # faults that waited for a page to be published
    "cancelled",  # writes that a fault came before
    "written",  # pages written to the file
    "compressed",  # pages put into the compressed tier
    "trimmed_zero",
    "trimmed_clean",
    "read_errors",  # of the file, while a fault waited; it is tried again
    "lost",  # members found dead
)


class Pages(Protocol):
    """What the controller asks of the page store; one thread calls it.

    Faults are served all the while by somebody else.  Work is done in pieces, so that whatever else
    there is may come between two of them.  Nothing here blocks for longer than a piece takes.
    """

    def stage(self) -> int:
        """Register every member's ranges and stage what is resident; return the pages staged.

        The guests stand still.  Pages that are swapped out already stay so.  Afterwards with minor
        staging each member unmaps its memory, and then comes `zapped`; with copy staging `zapped`
        comes at once.  Raises UserError; then nothing is registered that was not before.
        """
        ...

    def zapped(self) -> None:
        """Say that nobody has a staged page mapped any more; trim and swap_out are possible now."""
        ...

    def trim(self, limit: int) -> Progress:
        """Drop the zero and the clean pages among the next `limit` staged ones.

        After `done` the next call starts over with the first page, as after `stage`.
        """
        ...

    def swap_out(self, limit: int) -> Progress:
        """Write up to `limit` staged pages, lowest first, in runs of at most 2 MiB.

        It lets faults go first.
        """
        ...

    def swap_in(self, limit: int) -> Progress:
        """Bring up to `limit` pages in: first staged ones, then compressed ones, then the file's.

        `done`: every page is resident or zero.
        """
        ...

    def release(self, *, slow: bool = False) -> None:
        """Unregister every member, after `swap_in` was done; empty the stores.

        `slow`: the file keeps its size, and `shrink` takes it away piece by piece.  Raises UserError
        when that alone could not be done: the file's room is not given back.
        """
        ...

    def shrink(self, limit: int) -> Progress:
        """Cut up to `limit` unused pages from the end of the file."""
        ...

    def counts(self) -> Counts:
        """Count; at any time."""
        ...
