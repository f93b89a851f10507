"""The interface of a page store, which the monitor's controller uses: types, and its errors.

`hfsched.swap.pages.entries` has the states that are counted here.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from hfsched.errors import UserError

__all__ = [
    "EVENTS",
    "SHORTAGES",
    "Counts",
    "Pages",
    "Phase",
    "Progress",
    "ShortageError",
    "is_shortage",
]

SHORTAGES = frozenset((errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE))


class ShortageError(UserError):
    """Memory, descriptors or threads are short: it may work later."""


def is_shortage(error: BaseException) -> bool:
    """Return whether what failed may work later, since memory, descriptors or threads were short."""
    if isinstance(error, OSError):
        return error.errno in SHORTAGES
    return isinstance(error, ShortageError | MemoryError)


class Phase(Enum):
    """How far enabling has come; stored beside the page table, so it outlives a monitor."""

    OFF = "off"  # no range is registered, every page is in memory or zero
    MARKED = "marked"  # after `stage`: a process may still have a staged page mapped
    SETTLED = "settled"  # after `zapped`


@dataclass(frozen=True, slots=True)
class Progress:
    """What one bounded piece of work did.

    `moved`: pages moved.  `done`: nothing is left of this work.  `problem`: one line about what
    stopped it; the pages concerned stay where they were, and the same call may be made again.
    """

    moved: int
    done: bool
    problem: str | None = None
    zero: int = 0  # of `trim`: how many of `moved` were zero,
    clean: int = 0  # and how many equal to their copy in the file
    fills: bool = (
        False  # of `swap_in`: what comes next is in a snapshot's layers, and nobody waits for it
    )


@dataclass(frozen=True, slots=True)
class Counts:
    """Pages by state, now; and events since the table was made."""

    pages: int
    resident: int  # RESIDENT: in the guest's memory, or never touched
    staged: int
    busy: int  # WRITING, PUNCHING, MOVING and TAKING
    file: int
    compressed: int
    zero: int
    stale: int  # slots of the file that hold a page which is in memory too
    phase: Phase
    tier_used: int = 0  # bytes of the compressed tier
    tier_size: int = 0  # 0: there is none
    stored: int = 0  # in a snapshot's layers
    events: dict[str, int] = field(default_factory=dict)  # name: number; see `EVENTS`

    @property
    def out(self) -> int:
        """Pages that are staged or out, in a snapshot, or on the way."""
        return self.staged + self.busy + self.file + self.compressed + self.stored


EVENTS = (
    "faults",  # events read
    "from_file",  # pages brought by faults: read from the file,
    "from_staging",  # taken back from staging,
    "decompressed",  # from the compressed tier,
    "zeroed",  # as zero pages,
    "mapped",  # that were in memory, but not mapped in the faulting process
    "around",  # of all these: neighbours of a page that faulted
    "redundant",  # faults on a page that was mapped already
    "waited",  # faults that waited for a page to be published
    "cancelled",  # writes that a fault cancelled
    "written",  # pages written to the file
    "compressed",  # pages put into the compressed tier
    "trimmed_zero",
    "trimmed_clean",
    "read_errors",  # of the file, while a fault waited; it is tried again
    "lost",  # members found dead
    "no_memory",  # faults that memory was short for; they are tried again
    "discarded",  # pages
    "from_snapshot",  # pages brought by faults: from a snapshot's layers
)


class Pages(Protocol):
    """The page store, as the controller uses it; one thread calls it.

    Another thread serves faults meanwhile.  Work is done in bounded pieces, so that requests can be
    answered between two of them.  No method blocks for longer than a piece takes.
    """

    def stage(self, *, pages: bool = True) -> int:
        """Register every member's ranges and stage what is resident; return the pages staged.

        Without `pages` none is staged: faults on what is unmapped are served from then on, and that is all.
        The guests must be suspended.  Pages that are swapped out already stay so.  Afterwards, with
        minor staging, each member unmaps its memory before `zapped` is called; with copy staging
        `zapped` may be called at once.  Raises UserError; then no range is registered that was not
        before.
        """
        ...

    def zapped(self) -> None:
        """Note that no member has a staged page mapped; allows `trim` and `swap_out`."""
        ...

    def unstage(self) -> None:
        """Make staged pages resident again, at once; raises UserError."""
        ...

    def trim(self, limit: int) -> Progress:
        """Drop the zero and the clean pages among the next `limit` staged ones.

        After `done` the next call starts over with the first page, as after `stage`.
        """
        ...

    @property
    def has_file(self) -> bool:
        """Whether there is a swap file; without one `swap_out` must not be called."""
        ...

    def swap_out(self, limit: int) -> Progress:
        """Write up to `limit` staged pages, lowest first, in runs of at most 2 MiB.

        Faults have priority.
        """
        ...

    def swap_in(self, limit: int) -> Progress:
        """Bring up to `limit` pages in: staged ones, then compressed ones, then those of the file.

        `done`: every page is resident or zero.
        """
        ...

    def discard(self, first: int, count: int) -> Progress:
        """Make pages zero, wherever they are, and give their memory and copies back.

        `moved`: how many became zero; `done`: all of them.  Guests may run, and phase be any.
        """

    def release(self, *, slow: bool = False, final: bool = False) -> None:
        """Unregister every member, after `swap_in` was done; empty the stores.

        Members whose dirty pages are tracked stay registered, and are served, unless it is `final`.
        `slow`: the file keeps its size, and `shrink` truncates it piece by piece.  Raises UserError
        if only the file could not be truncated.
        """
        ...

    def shrink(self, limit: int) -> Progress:
        """Cut up to `limit` unused pages from the end of the file."""
        ...

    def faults(self) -> int:
        """Return how many faults there were so far."""
        ...

    def counts(self) -> Counts:
        """Count pages and events; callable at any time."""
        ...

    def quiesce(self) -> None:
        """Wait until each fault that is being served has been served."""
        ...
