"""`hfsched.swap.pages.store.Pages` in production: the C core over memfds, userfaultfd and the stores.

One thread of the monitor calls the work; another one, in C, serves faults between `start` and
`close`, without the interpreter lock.  A *member* is a process that maps guest memory: its
userfaultfd, and the addresses at which it has the regions mapped.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from hfsched.errors import InternalError, UserError
from hfsched.swap.core.device import core, tier_problem
from hfsched.swap.core.stores import Stores
from hfsched.swap.pages.entries import Staging, State
from hfsched.swap.pages.store import (
    EVENTS,
    SHORTAGES,
    Counts,
    Phase,
    Progress,
    ShortageError,
)

__all__ = [
    "AROUND",
    "GivenPages",
    "GuestPages",
    "Liveness",
    "Region",
    "members_max",
    "new_swap",
    "open_userfault",
    "zap",
]

_PAGE = 4096
AROUND = 8  # pages that may come with a fault
_TIER_LIMIT = 3072  # bytes: a page that is longer than this when compressed goes to the file
_PLACES = ("swap file", "guest memory", "freeing guest memory", "compressed tier", "snapshot")
_REMEDIES = {
    errno.EPERM: "as root: sysctl vm.unprivileged_userfaultfd=1, or give access to /dev/userfaultfd",
    errno.EMFILE: "raise the limit: ulimit -n",
}
_NO_KERNEL = "swap needs Linux 5.14 with CONFIG_USERFAULTFD"
_PHASES = (Phase.OFF, Phase.MARKED, Phase.SETTLED)


class Liveness(IntEnum):
    """Whether a member's process lives."""

    GONE = 0  # removed
    ALIVE = 1
    DEAD = 2


@dataclass(frozen=True, slots=True)
class Region:
    """The memfd of one VM's RAM; `pages` of it, from its start."""

    fd: int
    pages: int


@dataclass(frozen=True, slots=True)
class GivenPages:
    """`hfsched.swap.core.stored.StoredPages` in another process: the descriptors alone."""

    frames: int
    alarm: int
    layers: tuple[int, ...]


def open_userfault(*, user_mode_only: bool = False) -> int:
    """Return a userfaultfd of this process; raises UserError.

    `user_mode_only`: needs no privileges; faults of the kernel (KVM, system calls) are not served,
    and those accesses fail.
    """
    fd: int = core().lib.hfs_uffd_open(user_mode_only)
    if fd < 0:
        raise UserError(f"userfaultfd: {os.strerror(-fd)}: {_REMEDIES.get(-fd, _NO_KERNEL)}")
    return fd


def members_max() -> int:
    """Return how many processes can be served at one time."""
    number: int = core().lib.HFS_MEMBERS
    return number


def zap(address: int, size: int) -> None:
    """Unmap a part of a shared mapping of this process; its pages stay in the memfd.

    Raises OSError, for instance EINVAL where they are locked in memory.
    """
    error = core().lib.hfs_zap(address, size)
    if error:
        raise OSError(-error, f"unmapping guest memory: {os.strerror(-error)}")


class GuestPages:
    """See `hfsched.swap.pages.store.Pages`.

    `regions` follow each other in the numbering of pages and fill the stores' table; `stored` is where pages
    are that a snapshot's layers have.  `around`:
    pages (a power of two, at most 64) that are brought in together if they are in the same store; 1
    turns that off.  The caller owns the descriptors, and keeps them open until `close`.
    """

    def __init__(
        self,
        stores: Stores,
        regions: Sequence[Region],
        *,
        stored: GivenPages | None = None,
        around: int = AROUND,
    ) -> None:
        if sum(region.pages for region in regions) != stores.pages:
            raise InternalError(f"{regions} must have the {stores.pages} pages of the table")
        self._core: Any = core()
        self._lib = self._core.lib
        self._stores = stores
        self._regions = tuple(regions)
        self.tier_problem = tier_problem() if stores.tier is not None else "not configured"
        self._swap = new_swap(stores, regions, around, stored=stored)

    # Members

    def add_member(
        self,
        uffd: int,
        bases: Sequence[int | None],
        *,
        pagemap: int | None = None,
        dynamic: bool = False,
    ) -> int:
        """Serve a process; return its number in this object.

        `bases`: the address of each region in the process, None for one that it does not map.
        `pagemap` has its page tables, if its dirty pages can be tracked.  `dynamic`: it may die.  While swap is enabled it is registered at once, else by `stage`.
        """
        if len(bases) != len(self._regions):
            raise InternalError(f"{len(bases)} addresses for {len(self._regions)} regions")
        given = self._core.ffi.new("uint64_t[]", [base or 0 for base in bases])
        tables = -1 if pagemap is None else pagemap
        number: int = self._lib.hfs_add_member(self._open(), uffd, tables, dynamic, given)
        if number == -errno.EMFILE:
            raise UserError(f"swap: {self._lib.HFS_MEMBERS} processes are served already")
        if number < 0:
            kind = ShortageError if -number in SHORTAGES else UserError
            raise kind(f"swap: registering a process's memory: {os.strerror(-number)}")
        return number

    def remove_member(self, member: int) -> None:
        """Stop serving it; its userfaultfd may be closed after this."""
        self._lib.hfs_remove_member(self._open(), self._member(member))

    def liveness(self, member: int) -> Liveness:
        """Return whether it lives, by probing its userfaultfd."""
        return Liveness(self._lib.hfs_member_state(self._open(), self._member(member)))

    # The serving thread

    def take_over(self) -> None:
        """Complete what a dead monitor left half done; after its death, before `start`.

        Raises InternalError for a page table that no monitor can have left; nothing is done then.
        """
        result = self._lib.hfs_take_over(self._open())
        if result == -errno.EINVAL:
            raise InternalError("swap: the page table is invalid")
        _check(result, "taking over")

    def lock(self) -> bool:
        """Lock in memory what serves faults; False if RLIMIT_MEMLOCK does not allow all of it."""
        return bool(self._lib.hfs_lock(self._open()) == 0)

    def start(self) -> None:
        """Start to serve faults, including those that wait already."""
        _check(self._lib.hfs_start(self._open()), "the thread that serves faults")

    def close(self) -> None:
        """Stop serving and free everything; faults then wait for the next monitor."""
        if self._swap is not None and self._swap != self._core.ffi.NULL:
            self._lib.hfs_free(self._swap)
        self._swap = None

    # The work; see `hfsched.swap.pages.store.Pages`

    def stage(self, *, pages: bool = True) -> int:
        """See `Pages.stage`."""
        first = self.phase() is Phase.OFF
        staged: int = self._lib.hfs_stage(self._open(), pages)
        if staged < 0:
            if self.phase() is not Phase.OFF:
                self.unstage()
                if first:
                    self.release()
            hint = ": it is in huge pages" if staged == -errno.EBUSY else ""
            raise UserError(f"swap: staging guest memory: {os.strerror(-staged)}{hint}")
        return staged

    def zapped(self) -> None:
        """See `Pages.zapped`."""
        _check(self._lib.hfs_zapped(self._open()), "zapped before stage")

    def unstage(self) -> None:
        """Undo `stage`: staged pages become resident.  Pages that are out stay so."""
        _check(self._lib.hfs_unstage(self._open()), "unstaging")
        if self._stores.staging is Staging.COPY:
            while self.counts().staged:
                progress = self.swap_in(512)
                if progress.problem is not None:
                    raise UserError(f"swap: unstaging: {progress.problem}")

    def trim(self, limit: int) -> Progress:
        """See `Pages.trim`."""
        return self._work(self._lib.hfs_trim, limit)

    @property
    def has_file(self) -> bool:
        """See `Pages.has_file`."""
        return self._stores.file is not None

    def swap_out(self, limit: int) -> Progress:
        """See `Pages.swap_out`."""
        return self._work(self._lib.hfs_swap_out, limit)

    def swap_in(self, limit: int) -> Progress:
        """See `Pages.swap_in`."""
        return self._work(self._lib.hfs_swap_in, limit)

    def discard(self, first: int, count: int) -> Progress:
        """See `Pages.discard`."""
        return self._work(self._lib.hfs_discard, first, count)

    def release(self, *, slow: bool = False, final: bool = False) -> None:
        """See `Pages.release`."""
        file_error = self._core.ffi.new("int *")
        result = self._lib.hfs_release(self._open(), slow, final, file_error)
        _check(result, "releasing pages that are out")
        if file_error[0]:
            raise UserError(f"swap file: truncating it: {os.strerror(file_error[0])}")

    def shrink(self, limit: int) -> Progress:
        """See `Pages.shrink`."""
        return self._work(self._lib.hfs_shrink, limit)

    def counts(self) -> Counts:
        """See `Pages.counts`."""
        made = self._counted()
        states = made.states
        return Counts(
            pages=self._stores.pages,
            resident=states[State.RESIDENT],
            staged=states[State.STAGED],
            busy=sum(
                states[state]
                for state in (State.WRITING, State.PUNCHING, State.MOVING, State.TAKING)
            ),
            file=states[State.FILE],
            compressed=states[State.COMPRESSED],
            zero=states[State.ZERO],
            stored=states[State.STORED],
            stale=made.stale,
            phase=_PHASES[made.phase],
            tier_used=made.tier_used,
            tier_size=self._stores.tier_size if self.tier_problem is None else 0,
            events={name: made.events[number] for number, name in enumerate(EVENTS)},
        )

    def in_memory(self) -> int:
        """Return how many pages the guests' memfds hold."""
        pages: int = self._lib.hfs_in_memory(self._open())
        _check(min(pages, 0), "counting")
        return pages

    def faults(self) -> int:
        """See `Pages.faults`."""
        return int(self._lib.hfs_faults(self._open()))

    def quiesce(self) -> None:
        """Wait until each fault that is being served has been served and counted."""
        self._lib.hfs_quiesce(self._open())

    def phase(self) -> Phase:
        """Return how far enabling has come."""
        return _PHASES[self._lib.hfs_phase_now(self._open())]

    def _counted(self) -> Any:
        made = self._core.ffi.new("struct hfs_counts *")
        self._lib.hfs_counts(self._open(), made)
        return made

    def _work(self, function: Any, *arguments: int) -> Progress:
        made = self._core.ffi.new("struct hfs_progress *")
        _check(function(self._open(), *arguments, made), "work that cannot be done now")
        problem = None
        if made.error:
            problem = f"{_PLACES[made.place]}: {os.strerror(made.error)}"
        return Progress(
            made.moved, bool(made.done), problem, made.zero, made.clean, fills=bool(made.fills)
        )

    def _open(self) -> Any:
        if self._swap is None:
            raise InternalError("swap is closed")
        return self._swap

    def _member(self, member: int) -> int:
        if not 0 <= member < self._lib.HFS_MEMBERS:
            raise InternalError(f"there is no member {member}")
        return member


def new_swap(
    stores: Stores,
    regions: Sequence[Region],
    around: int = 1,
    *,
    stored: GivenPages | None = None,
    reads: bool = False,
) -> Any:
    """Return the C core's object, configured, for `hfs_free`; raises ShortageError, InternalError.

    `reads`: it only reads.
    """
    lib, ffi = core().lib, core().ffi
    add_region = lib.hfs_add_region_to_read if reads else lib.hfs_add_region
    swap = lib.hfs_new(stores.table, stores.pages, stores.staging is Staging.COPY, around)
    if swap == ffi.NULL:
        _check(-ffi.errno, "the page store")
    try:
        for region in regions:
            _check(add_region(swap, region.fd, region.pages), "a region")
        if stores.file is not None:
            lib.hfs_set_file(swap, stores.file.out, stores.file.into)
        if stores.staged is not None:
            _check(lib.hfs_set_staging(swap, stores.staged), "staging")
        if stores.aside is not None:
            _check(lib.hfs_set_aside(swap, stores.aside), "the memory for snapshots")
        if stores.tier is not None and tier_problem() is None:
            _check(
                lib.hfs_set_tier(swap, stores.tier, stores.tier_size, _TIER_LIMIT),
                "the compressed tier",
            )
        if stored is not None:
            layers = ffi.new("int[]", list(stored.layers))
            result = lib.hfs_set_stored(
                swap, stored.frames, layers, len(stored.layers), stored.alarm
            )
            _check(result, "the pages of a snapshot")
    except BaseException:
        lib.hfs_free(swap)
        raise
    return swap


def _check(result: int, what: str) -> None:
    if result < 0:
        kind = ShortageError if -result in SHORTAGES else InternalError
        raise kind(f"swap: {what}: {os.strerror(-result)}")
