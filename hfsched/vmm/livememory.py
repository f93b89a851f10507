"""Guest memory that a snapshot writes while the guests run on, as it was at one instant.

While the guests run, all memory is staged and unmapped, again and again until few pages are touched in between.  Then they are
suspended, and those are unmapped, too: at that instant nothing maps a page.  From then on a fault copies a page aside before it is mapped,
unless it was written already (``hfsched/swap/core/owed.c``).

Where few pages are to be kept, as in an incremental snapshot, memory is not staged: they alone are unmapped in the suspension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.client.errors import SwapError
from hfsched.swap.core.pagereader import READ_MAX
from hfsched.swap.protocol.messages import State
from hfsched.vmm.snapshotmemory import SwappedMemory, stops_and_copies

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.memory.writeprotect import Run
    from hfsched.vmm.attempt import Wish
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["LiveMemory"]

_ROUNDS = 3  # of staging while the guests run
_FEW = 64  # one page in so many: another round would pay less than it costs
_QUIET = (State.READY, State.PENDING, State.ACTIVE)


class LiveMemory(SwappedMemory):
    """Memory that is swapped, as `SwappedMemory`; and, where `live` is true after `prepare`, at one instant.

    Then `keep` is for the suspension, and `taken` yields it after that.  After `close` the machine is swapped as it
    was before, but for pages that guests have touched.  `stages`: so that all pages may be kept.
    """

    def __init__(
        self, swap: MachineSwap, wish: Wish, rams: Mapping[str, Ram], *, stages: bool
    ) -> None:
        super().__init__(swap, wish, rams)
        self._stages = stages
        self._before = State.FAILED  # of swap
        self._staged = False  # by this object
        self._kept = self._settled = False
        self.live = False

    def expected(self) -> int:
        """See `SnapshotMemory`: nothing is copied."""
        return 0

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        """See `SnapshotMemory`."""
        super().prepare(deadline)
        if not self._held or self._reader is None:
            return self._not_live("swap has no monitor")
        try:
            self._before = self._swap.status(deadline).state
            if self._before not in _QUIET:
                return self._not_live(f"swap is {self._before.value}")
            self._reader.begin()
            if self._stages:
                self._staged = True
                self._stage_while_running(deadline)
            elif self._before is State.READY:
                self._staged = True
                self._swap.client.enabling.serve(deadline)
        except SwapError as exc:
            self._reader.stop()
            return self._not_live(str(exc))
        self.live = True
        return ()

    def _not_live(self, why: str) -> tuple[str, ...]:
        if not self._stages:  # nobody has asked for it
            return ()
        return (stops_and_copies(self._called, why),)

    def _stage_while_running(self, deadline: int | None) -> None:
        pages = sum(self._swap.sizes.values())
        last = pages
        for _ in range(_ROUNDS):
            staged = self._swap.client.enabling.stage_running(deadline)
            if staged <= pages // _FEW or staged > last // 2:
                return
            last = staged

    def keep(self, deadline: int | None, runs: Mapping[str, Sequence[Run]]) -> None:
        """Keep runs of pages of each VM as they are now; the machine is suspended.  Raises SnapshotError."""
        assert self._reader is not None
        kept: list[Run] = []
        for vm, some in runs.items():
            first_of_all = self._swap.first_page(vm)
            for first, count in some:
                self._reader.owe(first_of_all + first, count)
                kept.append((first_of_all + first, count))
        try:
            self._swap.client.enabling.unmap(deadline, None if self._stages else sorted(kept))
        except SwapError as exc:
            raise SnapshotError(f"{self._called}: swap: {exc}") from exc
        self._kept = True

    def taken(
        self, vm: str, runs: Sequence[Run], room: memoryview
    ) -> Iterator[tuple[int, int, memoryview | None]]:
        """Yield {first page, pages, their bytes, None: they are zero} of what was kept; the bytes are in `room`.

        Raises UserError.
        """
        assert self._reader is not None
        self._settle()
        most = min(len(room) // PAGE_SIZE, READ_MAX)
        first_of_all = self._swap.first_page(vm)
        for first, count in runs:
            at, end = first, first + count
            while at < end:
                part = room[: min(most, end - at) * PAGE_SIZE]
                with self._told(vm, at):
                    done, zero = self._reader.take(first_of_all + at, part)
                yield at, done, None if zero else part[: done * PAGE_SIZE]
                at += done

    def _settle(self) -> None:
        """Tell the monitor, once, that all is unmapped that is staged: swap may be as it was before then."""
        if not self._settled:
            self._settled = True
            with suppress(SwapError):  # else it is all taken back in the end
                self._swap.client.enabling.settle(None)

    def close(self) -> None:
        """See `SnapshotMemory`."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
        if self._held:
            self._held = False
            unstage = self._staged and not (self._kept and self._before is State.PENDING)
            release = self._staged and self._before is State.READY
            self._swap.go_on(unstage=unstage, release=release)
        if reader is not None:
            reader.drop()
            reader.close()
