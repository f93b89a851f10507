"""The page table in C, with the methods of `hfsched.swap.pages.entries.PageTable`.

It is in a memfd, so that it outlives a monitor.  Production changes it through
`hfsched.swap.core.guestpages`; the single changes here are for tests and inspection.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections import Counter
from typing import Any

from hfsched.errors import InternalError
from hfsched.swap.core.device import core
from hfsched.swap.core.faultlog import ENTRY, LOG_MAX, LOGGED_OFFSET
from hfsched.swap.pages.entries import Entry, FaultAction, Staging, State
from hfsched.swap.pages.store import Phase

__all__ = [
    "DAMAGED_OFFSET",
    "PHASE_OFFSET",
    "SETTLED",
    "TRACKED_OFFSET",
    "CoreTable",
    "entry_offset",
    "table_size",
]

_HEADER = 4096
# Of the word that says whether main tracks dirty pages (`hfs_header.tracked`), which main writes.
TRACKED_OFFSET = LOGGED_OFFSET + 8
# Of 1 + the page of a fault that cannot be served from a snapshot (`hfs_header.damaged`).
DAMAGED_OFFSET = LOGGED_OFFSET + 16
PHASE_OFFSET = 20  # of the phase (`hfs_header.phase`)
SETTLED = struct.pack("=I", 2)
_PHASES = (Phase.OFF, Phase.MARKED, Phase.SETTLED)


def table_size(pages: int) -> int:
    """Return the size in bytes of the memfd of a table of `pages` pages."""
    return entry_offset(pages) + LOG_MAX * ENTRY.size


def entry_offset(page: int) -> int:
    """Return where the entry of a page is in that memfd; behind the last one is the log of faults."""
    return _HEADER + 8 * page


class CoreTable:
    """The table in the memfd `fd`, all zero at first; `fd` may be closed afterwards."""

    def __init__(self, fd: int, pages: int, staging: Staging = Staging.MINOR) -> None:
        self.staging = staging
        self._core: Any = core()
        self._lib = self._core.lib
        self._old = self._core.ffi.new("uint64_t *")
        self._table = self._core.ffi.new("struct hfs_table *")
        error = self._lib.hfs_table_open(self._table, fd, pages, staging is Staging.COPY)
        if error:
            raise InternalError(f"page table of {pages} pages: {os.strerror(-error)}")
        self.pages = pages

    def close(self) -> None:
        """Unmap it."""
        self._lib.hfs_table_close(self._table)
        self.pages = 0

    def entry(self, page: int) -> Entry:
        """See `PageTable.entry`."""
        return Entry.decode(self._lib.hfs_entry(self._table, self._check(page)))

    def set_entry(self, page: int, entry: Entry) -> None:
        """Set an entry, at the start of a test."""
        self._lib.hfs_set_entry(self._table, self._check(page), entry.encode())

    def store(self, runs: array[int]) -> None:
        """Make pages STORED, by runs of {first page, pages, location of the first}; of a new table, in use by nobody."""
        words = self._core.ffi.from_buffer("uint64_t[]", runs)
        if self._lib.hfs_store_runs(self._table, words, len(runs) // 3):
            raise InternalError(f"stored pages beyond the {self.pages} of the table")

    def stage(self, page: int) -> bool:
        """See `PageTable.stage`."""
        return bool(self._lib.hfs_stage_page(self._table, self._check(page)))

    def move(self, page: int) -> bool:
        """See `PageTable.move`."""
        return bool(self._lib.hfs_move(self._table, self._check(page)))

    def moved(self, page: int) -> bool:
        """See `PageTable.moved`."""
        return bool(self._lib.hfs_moved(self._table, self._check(page)))

    def unstage(self, page: int) -> bool:
        """See `PageTable.unstage`."""
        return bool(self._lib.hfs_unstage_page(self._table, self._check(page)))

    def claim(self, page: int) -> bool:
        """See `PageTable.claim`."""
        return bool(self._lib.hfs_claim(self._table, self._check(page), self._old))

    def unclaim(self, page: int) -> bool:
        """See `PageTable.unclaim`."""
        return bool(self._lib.hfs_unclaim(self._table, self._check(page)))

    def publish(self, page: int, copy: State, location: int = 0, length: int = 0) -> bool:
        """See `PageTable.publish`."""
        return bool(self._lib.hfs_publish(self._table, self._check(page), copy, location, length))

    def drop_zero(self, page: int) -> bool:
        """See `PageTable.drop_zero`."""
        return bool(self._lib.hfs_drop_zero(self._table, self._check(page), self._old))

    def discard(self, page: int) -> bool:
        """See `PageTable.discard`."""
        return bool(self._lib.hfs_discard_page(self._table, self._check(page), self._old))

    def drop_clean(self, page: int) -> bool:
        """See `PageTable.drop_clean`."""
        return bool(self._lib.hfs_drop_clean(self._table, self._check(page)))

    def punched(self, page: int) -> bool:
        """See `PageTable.punched`."""
        return bool(self._lib.hfs_punched(self._table, self._check(page)))

    def restored(self, page: int) -> bool:
        """See `PageTable.restored`."""
        return bool(self._lib.hfs_restored(self._table, self._check(page), self._old))

    def fault(self, page: int) -> FaultAction:
        """See `PageTable.fault`."""
        return FaultAction(self._lib.hfs_fault(self._table, self._check(page), self._old))

    def untake(self, page: int) -> bool:
        """See `PageTable.untake`."""
        return bool(self._lib.hfs_untake(self._table, self._check(page)))

    def arrived(self, page: int) -> bool:
        """See `PageTable.arrived`."""
        return bool(self._lib.hfs_arrived(self._table, self._check(page), self._old))

    def release(self, page: int) -> bool:
        """See `PageTable.release`."""
        return bool(self._lib.hfs_release_page(self._table, self._check(page), self._old))

    def take_over(self, page: int, *, in_memory: bool, settled: bool = True) -> None:
        """See `PageTable.take_over`."""
        self._lib.hfs_take_over_page(self._table, self._check(page), in_memory, settled)

    def states(self) -> Counter[State]:
        """See `PageTable.states`."""
        counts = self._core.ffi.new("struct hfs_counts *")
        self._lib.hfs_count(self._table, counts)
        return Counter({state: counts.states[state] for state in State if counts.states[state]})

    def phase(self) -> Phase:
        """Return the phase; for any task, while a monitor may change it."""
        counts = self._core.ffi.new("struct hfs_counts *")
        self._lib.hfs_count(self._table, counts)
        return _PHASES[counts.phase]

    def _check(self, page: int) -> int:
        if not 0 <= page < self.pages:
            raise InternalError(f"page {page} is not one of {self.pages}")
        return page
