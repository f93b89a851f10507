"""What swap has of the kernel and of files, for `hfsched.vmm.swapping.MachineSwap`; a model replaces it."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.memory import writeprotect
from hfsched.memory.dirty import TrackedProcess, TrackedRange
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.client.arrivals import candidate
from hfsched.swap.client.childmember import ChildMember, Part
from hfsched.swap.client.mainmember import MainMember
from hfsched.swap.client.newcomers import announcing
from hfsched.swap.core import device, guestpages
from hfsched.swap.core.faultlog import Fault, read_faults
from hfsched.swap.core.guestpages import members_max
from hfsched.swap.core.pagemap import all_mapped, open_pagemap
from hfsched.swap.core.pagereader import OwedPages
from hfsched.swap.core.resources import pack
from hfsched.swap.core.stored import StoredPages
from hfsched.swap.core.stores import Stores
from hfsched.swap.core.table import TRACKED_OFFSET, CoreTable, entry_offset, table_size
from hfsched.swap.core.userfault import userfault
from hfsched.swap.monitor.program import monitor
from hfsched.swap.pages.entries import Staging, State
from hfsched.swap.pages.store import Phase
from hfsched.swap.protocol.messages import Region
from hfsched.swap.report.footprint import Footprint, allocated

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.swap.client.member import Member

__all__ = ["SwapKernel", "parts_of"]

_TIER_PART = 4  # the compressed tier may have one part in so many of the guests' memory


class SwapKernel:
    """A userfaultfd for main's memory, stores for pages, main's page tables; `close` it last.

    The swap file is in `directory` (None: none).  `kernel`: the kernel accesses guest memory too.  `stored` are
    pages that a snapshot has; they stay the caller's.
    `program` is the monitor's, `child` makes a `ChildMember`, `candidate` and `announcing` are as `Newcomers` has them, `resources` are what every monitor gets, and
    `members_max()` is how many processes it serves.
    Raises UserError for requirements that this machine does not meet.
    """

    program = staticmethod(monitor)
    child = ChildMember
    candidate = staticmethod(candidate)
    announcing = staticmethod(announcing)
    members_max = staticmethod(members_max)

    def __init__(
        self,
        directory: Path | None,
        rams: Mapping[str, Ram],
        *,
        kernel: bool,
        stored: StoredPages | None = None,
    ) -> None:
        why_not = device.problem()
        if why_not is not None:
            raise UserError(f"swap: {why_not}")
        pages = sum(ram.size for ram in rams.values()) // PAGE_SIZE
        tier = 0 if device.tier_problem() is not None else pages * PAGE_SIZE // _TIER_PART
        with ExitStack() as stack:
            self._uffd = _userfault(kernel=kernel)
            stack.callback(os.close, self._uffd)
            self.stores = Stores.create(directory, pages, Staging.MINOR, tier)
            stack.callback(self.stores.close)
            self._pagemap = _own_pagemap()
            stack.callback(os.close, self._pagemap)
            self._tracked = self._pagemap if writeprotect.tracks(self._uffd) else None
            self._memfds = [ram.fd for ram in rams.values()]
            self._stored = stored
            self._protected = False
            self._can_track = False  # once that was found; what stands in the way may pass
            self._given = None if stored is None else stored.given
            self.resources = pack(self.stores, self._memfds, self._given)
            self._stack = stack.pop_all()
        parts = parts_of(rams)
        places = zip(rams.values(), parts, strict=True)
        self._regions = [Region(ram.address, part.offset, part.size) for ram, part in places]
        self._names = {part.offset: part.name for part in parts}

    def close(self) -> None:
        """Free everything; no monitor may use it any more."""
        self._stack.close()

    def fill(self) -> None:
        """Note in the page table what is stored; before the first monitor."""
        if self._stored is not None:
            self._stored.begin(self.stores.table, self.stores.pages)

    def protect(self) -> None:
        """Protect main's memory if it is stored, before anything accesses it: then tracking dirty pages begins sooner."""
        if self._stored is None or self._tracked is None or self.why_not_tracked() is not None:
            return
        self.note_tracked(tracked=True)
        try:
            for region in self._regions:
                writeprotect.register(self._uffd, region.base, region.size, faults=True)
                writeprotect.protect(self._uffd, region.base, region.size)
        except OSError:  # who starts the tracking is told
            self.note_tracked(tracked=False)
        else:
            self._protected = True

    def main(self) -> Member:
        """Return main as a member."""
        return MainMember(self._uffd, self._regions, self._pagemap, tracked=self._tracked)

    def tracked(self, members: Sequence[ChildMember]) -> list[TrackedProcess]:
        """Return main and other processes as their dirty pages are tracked."""
        ranges = self._ranges(self._regions)
        main = TrackedProcess(
            "this process",
            self,
            self._uffd,
            self._tracked,
            ranges,
            served=True,
            protected=self._protected,
        )
        return [main, *map(self.tracked_process, members)]

    def tracked_process(self, member: ChildMember) -> TrackedProcess:
        """Return another process as its dirty pages are tracked."""
        ranges = self._ranges(member.regions)
        name = f"process {member.name}"
        return TrackedProcess(name, member, member.uffd, member.tracked, ranges, served=True)

    def _ranges(self, regions: Sequence[Region]) -> tuple[TrackedRange, ...]:
        return tuple(TrackedRange(self._names[r.offset], r.base, r.size) for r in regions)

    def why_not_tracked(self) -> str | None:
        """Return in a line why dirty pages cannot be tracked, None if they can."""
        if self._can_track:
            return None
        why_not = writeprotect.problem(self._pagemap)
        self._can_track = why_not is None
        return why_not

    def note_tracked(self, *, tracked: bool) -> None:
        """Have monitors keep the protection of pages that arrive, or not."""
        os.pwrite(self.stores.table, struct.pack("=I", tracked), TRACKED_OFFSET)

    def footprint(self, monitor: Callable[[], int | None]) -> Footprint:
        """Return what measures memory; `monitor` returns the monitor's process id."""
        return Footprint(self._memfds, self.stores.memfds(), monitor)

    def staged(self, page: int) -> bool:
        """Return whether a page is staged or out."""
        entry = os.pread(self.stores.table, 1, entry_offset(page))
        return entry[0] & 15 != State.RESIDENT.value

    def needed(self) -> bool:
        """Return whether faults may have to be served."""
        table = CoreTable(self.stores.table, self.stores.pages, self.stores.staging)
        try:
            return table.phase() is not Phase.OFF
        finally:
            table.close()

    def damaged(self) -> int | None:
        """Return the last page that a fault could not read from the snapshot; None: there was none."""
        return None if self._stored is None else self._stored.damaged(self.stores.table)

    def faults(self, since: int) -> Iterator[Fault]:
        """Yield the last faults that were served, oldest first; see `hfsched.swap.core.faultlog`."""

        def read(offset: int, size: int) -> bytes:
            return os.pread(self.stores.table, size, offset)

        pages = self.stores.pages
        return read_faults(read, entry_offset(pages), pages, since)

    def states(self) -> bytes:
        """Return a byte for each page, its state."""
        pages = self.stores.pages
        with mmap.mmap(self.stores.table, table_size(pages), prot=mmap.PROT_READ) as table:
            return table[entry_offset(0) : entry_offset(pages) : 8]  # the lowest byte of each entry

    def is_mapped(self, address: int, size: int) -> bool:
        """Return whether main has all of a range mapped, so that reading it brings nothing in."""
        return all_mapped(self._pagemap, address, size)

    def used(self) -> int:
        """Return how many pages are not zero, about, wherever they are."""
        out = (State.FILE.value, State.COMPRESSED.value, State.STORED.value)
        there = sum(map(allocated, self._memfds)) // PAGE_SIZE
        states = self.states()
        return there + sum(states.count(state) for state in out)

    def reader(self, pause: Callable[[], None]) -> OwedPages:
        """Return what reads pages where they are; `pause` waits for a moment."""
        regions = [guestpages.Region(fd, os.fstat(fd).st_size // PAGE_SIZE) for fd in self._memfds]
        return OwedPages(self.stores, regions, pause, self._given)


def parts_of(rams: Mapping[str, Ram]) -> list[Part]:
    """Return each VM's memory as a part of all pages, in order."""
    made, offset = [], 0
    for name, ram in rams.items():
        made.append(Part(name, ram.fd, offset, ram.size))
        offset += ram.size
    return made


def _userfault(*, kernel: bool) -> int:
    try:
        return userfault(kernel=kernel)
    except UserError as exc:
        raise UserError(f"swap: {'for guests under KVM: ' if kernel else ''}{exc}") from None


def _own_pagemap() -> int:
    try:
        return open_pagemap()
    except OSError as exc:
        raise UserError(f"swap: {exc.filename}: {exc.strerror}: swap needs /proc") from None
