"""Guest memory as a snapshot reads it: through its mapping, or where swap has put it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from hfsched.errors import SnapshotError, UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.core.pagereader import READ_MAX
from hfsched.swap.report.footprint import held

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.memory.writeprotect import Run
    from hfsched.swap.core.pagereader import OwedPages
    from hfsched.vmm.attempt import Wish
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["MappedMemory", "SnapshotMemory", "SwappedMemory", "stops_and_copies"]

_NOWHERE = 1 << 62  # a page number beyond all


def stops_and_copies(called: str, why: str) -> str:
    """Return the line that says that a snapshot is not live, and why."""
    return f"{called}: the machine is suspended while it is copied: {why}"


class SnapshotMemory(Protocol):
    """The memory of a machine's VMs, by their names; for one task."""

    def expected(self) -> int:
        """Return how many pages are not zero, about."""

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        """Make ready to be read, while the machine runs; return what the user may want to know.

        Raises SnapshotError.  `close` must follow.
        """

    def settle(self, deadline: int | None) -> None:
        """Wait until what guests have written is seen; the machine is suspended.  Raises SnapshotError."""

    def parts(self, vm: str, runs: Iterable[Run]) -> Iterator[tuple[int, int, bool]]:
        """Yield {first page, pages, zero} of runs of pages, which come in order."""

    def read(self, vm: str, first: int, room: memoryview) -> tuple[int, bool]:
        """Read pages into `room`, which has whole pages; return how many, at least one, and whether they are zero.

        Where they are, `room` has nothing.  Raises UserError.
        """

    def close(self) -> None:
        """End what `prepare` began."""


class MappedMemory:
    """Memory that is all there: `SnapshotMemory`."""

    def __init__(self, rams: Mapping[str, Ram]) -> None:
        self._rams = rams

    def expected(self) -> int:
        """See `SnapshotMemory`."""
        rams = self._rams.values()
        return sum(
            end - first for ram in rams for first, end in held(ram.fd, ram.size // PAGE_SIZE)
        )

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        """See `SnapshotMemory`."""
        del deadline
        return ()

    def settle(self, deadline: int | None) -> None:
        """See `SnapshotMemory`."""

    def parts(self, vm: str, runs: Iterable[Run]) -> Iterator[tuple[int, int, bool]]:
        """See `SnapshotMemory`: what is not allocated is zero, and is not read, which would allocate it."""
        ram = self._rams[vm]
        there = held(ram.fd, ram.size // PAGE_SIZE)
        begin = end = 0
        for first, count in runs:
            at, last = first, first + count
            while at < last:
                while end <= at:
                    begin, end = next(there, (_NOWHERE, _NOWHERE + 1))
                until = min(last, end if begin <= at else begin)
                yield at, until - at, begin > at
                at = until

    def read(self, vm: str, first: int, room: memoryview) -> tuple[int, bool]:
        """See `SnapshotMemory`."""
        self._rams[vm].copy_out(first * PAGE_SIZE, room)
        return len(room) // PAGE_SIZE, False

    def close(self) -> None:
        """See `SnapshotMemory`."""


class SwappedMemory:
    """Memory that may be out: `SnapshotMemory`.  It is read where it is, and nothing is brought in.

    Swap moves no page between `prepare` and `close`, and refuses commands, naming the snapshot.
    """

    def __init__(self, swap: MachineSwap, wish: Wish, rams: Mapping[str, Ram]) -> None:
        self._swap = swap
        self._name = wish.name
        self._called = wish.called
        self._rams = rams
        self._reader: OwedPages | None = None
        self._held = False

    def expected(self) -> int:
        """See `SnapshotMemory`."""
        return self._swap.backing.used()

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        """See `SnapshotMemory`."""
        try:
            self._swap.hold(self._name, deadline)
            self._held = True
        except LostError:
            pass  # no monitor will move anything
        except SwapError as exc:
            raise SnapshotError(f"{self._called}: swap: {exc}") from exc
        self._reader = self._swap.reader()
        return ()

    def settle(self, deadline: int | None) -> None:
        """See `SnapshotMemory`: a page that a fault has mapped counts as out until that has been noted."""
        if self._held:
            try:
                self._swap.client.enabling.quiesce(deadline)
            except LostError:
                pass  # nobody serves faults any more
            except SwapError as exc:
                raise SnapshotError(f"{self._called}: swap: {exc}") from exc

    def parts(self, vm: str, runs: Iterable[Run]) -> Iterator[tuple[int, int, bool]]:
        """See `SnapshotMemory`."""
        del vm
        for first, count in runs:
            yield first, count, False

    def read(self, vm: str, first: int, room: memoryview) -> tuple[int, bool]:
        """See `SnapshotMemory`: what is mapped is read there, which takes half the time."""
        assert self._reader is not None
        ram, part = self._rams[vm], room[: READ_MAX * PAGE_SIZE]
        if self._swap.backing.is_mapped(ram.address + first * PAGE_SIZE, len(part)):
            ram.copy_out(first * PAGE_SIZE, part)
            return len(part) // PAGE_SIZE, False
        with self._told(vm, first):
            return self._reader.read(self._swap.first_page(vm) + first, room)

    @contextmanager
    def _told(self, vm: str, page: int) -> Iterator[None]:
        """Tell which page of which VM cannot be read, and why, as far as that is known."""
        try:
            yield
        except UserError as exc:
            why = self._swap.why_unreadable(vm, page) or exc
            raise SnapshotError(f"{self._called}: vm {vm}: page {page}: {why}") from exc

    def close(self) -> None:
        """See `SnapshotMemory`."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        if self._held:
            self._held = False
            self._swap.go_on()
