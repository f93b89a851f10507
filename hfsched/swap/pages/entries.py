"""The states of a page of guest memory, and their changes.

Everything here is pure: no memory is accessed and no system call made.  `PageTable` is the reference;
`hfsched.swap.core.table` has the table in C, atomic and in shared memory, with the same methods,
encoding and results.

An entry is one 64-bit word, and a change is one compare-and-swap of it.  Two threads change
entries: the one that serves faults, and the worker (stage, trim, swap out, swap in), which alone
allocates slots and space and punches guest memory.  The order that keeps data safe: write the data,
publish the state, free the source.  A page that is in memory wins over every copy of it.

Staging is `MINOR` (a staged page stays in the guest's memfd, unmapped in every process) or `COPY` (it
is moved to a memfd of its own).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import Enum, IntEnum

__all__ = ["REGIONS_MAX", "Entry", "FaultAction", "PageTable", "Staging", "State"]

REGIONS_MAX = 1024  # of one page table: the memory of that many VMs


class Staging(Enum):
    """Where a page waits to be swapped out."""

    MINOR = "minor"
    COPY = "copy"


class State(IntEnum):
    """The state of a page.  In `RESIDENT` and `STAGED` a copy in the file may be held as *stale*."""

    RESIDENT = 0  # in the guest's memory, or never touched
    STAGED = 1  # unmapped in every process, waits to be swapped out
    WRITING = 2  # the worker is writing or compressing it; a fault takes it back
    PUNCHING = 3  # its copy is complete, its memory is being punched; a fault waits
    FILE = 4  # in slot `location` of the swap file
    COMPRESSED = 5  # `length` bytes at `location` of the compressed tier
    ZERO = 6  # all zero: stored nowhere
    MOVING = 7  # copied to the staging memory, its own is being punched; a fault waits
    TAKING = 8  # a fault is copying it back from the staging memory; other faults wait
    STORED = 9  # page `location` of a snapshot's layers


class FaultAction(IntEnum):
    """What a fault on a page needs."""

    CONTINUE = 0  # map the page in memory; if there is none, a zero page
    ZERO_PAGE = 1
    READ_FILE = 2
    DECOMPRESS = 3
    COPY_STAGED = 4
    WAIT = 5  # until the worker has published the page
    READ_STORED = 6  # from a snapshot's layers


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: the state, the kind of copy, and its location.

    `copy` is FILE, COMPRESSED, ZERO, STORED, or RESIDENT for none.  A RESIDENT, STAGED, MOVING or TAKING
    page may have a copy FILE, which is the stale one; PUNCHING has the copy it is about to become.
    """

    state: State = State.RESIDENT
    copy: State = State.RESIDENT
    length: int = 0  # bytes, of a compressed copy
    location: int = (
        0  # a slot or a page of a snapshot, or an offset (in bytes) into the compressed tier
    )

    def encode(self) -> int:
        """Return the word: state 4 bits, copy 4, length 16, location 40."""
        return self.state | self.copy << 4 | self.length << 8 | self.location << 24

    @classmethod
    def decode(cls, word: int) -> Entry:
        """Return the entry of a word."""
        return cls(State(word & 15), State(word >> 4 & 15), word >> 8 & 0xFFFF, word >> 24)


_RESIDENT = Entry()


class PageTable:
    """The entries of `pages` pages, and the changes that are possible.

    A method that returns False has changed nothing: the page is not in a state for it, most often
    because a fault came first.
    """

    def __init__(self, pages: int, staging: Staging = Staging.MINOR) -> None:
        self.staging = staging
        self.entries = [_RESIDENT] * pages

    def entry(self, page: int) -> Entry:
        """Return the entry of a page."""
        return self.entries[page]

    # Staging, by the worker

    def stage(self, page: int) -> bool:
        """RESIDENT becomes STAGED (minor staging; the page is in memory, and is unmapped next)."""
        return self._move(page, (State.RESIDENT,), State.STAGED)

    def move(self, page: int) -> bool:
        """RESIDENT becomes MOVING: its copy in the staging memory is complete (copy staging)."""
        return self._move(page, (State.RESIDENT,), State.MOVING)

    def moved(self, page: int) -> bool:
        """Turn MOVING into STAGED: the guest's memory is punched."""
        return self._move(page, (State.MOVING,), State.STAGED)

    def unstage(self, page: int) -> bool:
        """STAGED becomes RESIDENT (minor staging only: the page is in memory)."""
        return self._move(page, (State.STAGED,), State.RESIDENT)

    # Out, by the worker

    def claim(self, page: int) -> bool:
        """STAGED becomes WRITING, and a stale copy is freed."""
        return self._become(page, (State.STAGED,), Entry(State.WRITING))

    def unclaim(self, page: int) -> bool:
        """Turn WRITING into STAGED: it could not be written."""
        return self._become(page, (State.WRITING,), Entry(State.STAGED))

    def publish(self, page: int, copy: State, location: int = 0, length: int = 0) -> bool:
        """Turn WRITING into PUNCHING: its copy is complete, at `location`."""
        return self._become(page, (State.WRITING,), Entry(State.PUNCHING, copy, length, location))

    def drop_zero(self, page: int) -> bool:
        """STAGED becomes PUNCHING: its bytes are zero.  A stale copy is freed."""
        return self._become(page, (State.STAGED,), Entry(State.PUNCHING, State.ZERO))

    def discard(self, page: int) -> bool:
        """Turn a page whose contents nobody needs into PUNCHING: it becomes ZERO.  A copy is freed."""
        before = (
            State.RESIDENT,
            State.STAGED,
            State.FILE,
            State.COMPRESSED,
            State.STORED,
        )
        return self._become(page, before, Entry(State.PUNCHING, State.ZERO))

    def drop_clean(self, page: int) -> bool:
        """STAGED with a stale copy that equals it becomes PUNCHING: the copy is valid again."""
        if self.entries[page].copy is not State.FILE:
            return False
        return self._move(page, (State.STAGED,), State.PUNCHING)

    def punched(self, page: int) -> bool:
        """PUNCHING becomes what its copy is."""
        return self._move(page, (State.PUNCHING,), self.entries[page].copy)

    def restored(self, page: int) -> bool:
        """PUNCHING becomes STAGED: its memory could not be punched, and has its bytes again."""
        return self._become(page, (State.PUNCHING,), Entry(State.STAGED))

    # Faults, by the thread that serves them; and in, by the worker

    def fault(self, page: int) -> FaultAction:
        """Return what a fault needs.

        CONTINUE has changed the state to RESIDENT; after the others (except WAIT) `arrived` does.
        COPY_STAGED has made it TAKING, so that the staging memory stays until then.
        """
        state = self.entries[page].state
        if state in _ACTIONS:
            return _ACTIONS[state]
        if self.staging is Staging.COPY:
            self._move(page, (State.STAGED, State.WRITING), State.TAKING)
            return FaultAction.COPY_STAGED
        self._move(page, (State.STAGED, State.WRITING), State.RESIDENT)
        return FaultAction.CONTINUE

    def untake(self, page: int) -> bool:
        """Turn TAKING into STAGED: it could not be copied."""
        return self._move(page, (State.TAKING,), State.STAGED)

    def arrived(self, page: int) -> bool:
        """Any state becomes RESIDENT, since the page is in memory; False: it must be waited for.

        A copy in the file is kept as stale, one in the compressed tier is freed.
        """
        entry = self.entries[page]
        if entry.state in (State.PUNCHING, State.MOVING):
            return False
        self.entries[page] = _arrived(entry)
        return True

    # Disabling, and the death of a monitor

    def release(self, page: int) -> bool:
        """RESIDENT or ZERO becomes RESIDENT without a copy; False: it is in another state."""
        return self._become(page, (State.RESIDENT, State.ZERO), _RESIDENT)

    def take_over(self, page: int, *, in_memory: bool, settled: bool = True) -> None:
        """Complete what a dead monitor left half done.

        PUNCHING and MOVING pages are punched before.  `in_memory`: the page is in the guest's memfd
        (after that).  Not `settled`: a process may have a staged page mapped.
        """
        for change in (self.punched, self.moved, self.unclaim, self.untake):
            if change(page):
                break
        entry = self.entries[page]
        if self.staging is Staging.MINOR and entry.state is State.STAGED:
            if not settled:
                self.unstage(page)
        elif in_memory:
            self.entries[page] = _arrived(entry)

    # Derived from the entries

    def slots(self) -> dict[int, int]:
        """Return slots in use, with their pages; a new monitor's allocator starts from this."""
        return {e.location: page for page, e in enumerate(self.entries) if e.copy is State.FILE}

    def spans(self) -> dict[int, int]:
        """Return the lengths of spans in use in the compressed tier, by their offset."""
        return {e.location: e.length for e in self.entries if e.copy is State.COMPRESSED}

    def states(self) -> Counter[State]:
        """Return how many pages are in each state."""
        return Counter(entry.state for entry in self.entries)

    def _move(self, page: int, before: tuple[State, ...], after: State) -> bool:
        return self._become(page, before, replace(self.entries[page], state=after))

    def _become(self, page: int, before: tuple[State, ...], after: Entry) -> bool:
        if self.entries[page].state not in before:
            return False
        self.entries[page] = after
        return True


_ACTIONS = {
    State.RESIDENT: FaultAction.CONTINUE,
    State.PUNCHING: FaultAction.WAIT,
    State.MOVING: FaultAction.WAIT,
    State.TAKING: FaultAction.WAIT,
    State.FILE: FaultAction.READ_FILE,
    State.COMPRESSED: FaultAction.DECOMPRESS,
    State.ZERO: FaultAction.ZERO_PAGE,
    State.STORED: FaultAction.READ_STORED,
}


def _arrived(entry: Entry) -> Entry:
    if entry.copy is State.FILE:
        return replace(entry, state=State.RESIDENT)
    return _RESIDENT
