"""A model of guest memory that is swapped: the state that outlives processes, in the kernel and files.

Main has it mapped, and another process may.  A page's contents are one number.  Each operation is
atomic, as the system call or the compare-and-swap that it models; the death of a process between two
operations leaves this state unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from hfsched.explore.thing import Thing
from hfsched.scenarios.swapsnapshot import Owed
from hfsched.swap.pages.entries import Entry, PageTable, State
from hfsched.swap.pages.store import Phase

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.memory.writeprotect import Run

__all__ = ["CHILD", "MAIN", "PROCESSES", "Memory", "Page"]

MAIN, CHILD = "main", "child"
PROCESSES = (
    MAIN,
    CHILD,
    *(f"child.{number}" for number in range(2, 7)),
)  # by where they map memory


class Page(Thing):
    """One page of the guest, in the memfd, in the file, or nowhere, and the tasks that wait for it."""

    def __init__(self, runtime: ExploreRuntime, number: int, table: PageTable) -> None:
        super().__init__(runtime, f"page.{number}")
        self.number = number
        self._table = table
        self.memory: int | None = 1  # what the memfd has; None: a hole
        self.mapped = {MAIN}  # in these processes
        self.registered: set[str] = set()  # with the uffds of these
        self.slots: dict[int, int] = {}  # of the file
        self.waiting: set[tuple[str, str]] = set()  # processes, and their guests in a fault
        self.layer: int | None = 1  # what a snapshot has; None: it cannot be read
        # For the oracle, no part of the modelled system:
        self.latest = 1  # written last
        self.discarding = False  # from now until it is punched a guest may read old contents
        self.condemned = False  # whoever accesses it from now on does so without effect

    @property
    def entry(self) -> Entry:
        """Its entry in the page table."""
        return self._table.entry(self.number)

    def key(self) -> Hashable:
        """See `Thing.key`."""
        slots, waiting = tuple(sorted(self.slots.items())), tuple(sorted(self.waiting))
        where = (tuple(sorted(self.mapped)), tuple(sorted(self.registered)))
        oracle = (self.latest, self.discarding, self.condemned, self.layer)
        return (self.memory, oracle, where, self.entry.encode(), slots, waiting)

    def contents(self) -> int | None:
        """Return the contents that a guest would read, None if they are lost."""
        entry = self.entry
        if self.memory is not None:
            return self.memory
        if entry.state is State.STORED:
            return self.latest if self.layer is None else self.layer
        if State.FILE in (entry.state, entry.copy) and entry.state is not State.RESIDENT:
            return self.slots.get(entry.location)
        return 0

    def punch(self) -> None:
        """Punch a hole into the memfd."""
        self.memory = None
        self.mapped.clear()
        if self.discarding:
            self.discarding = False
            self.latest = 0


class _Uffd(Thing):
    """Faults that no monitor has read yet, and other state that outlives a monitor."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "uffd")
        self.faults: list[tuple[str, int]] = []  # a process, a page
        self.reader = 0  # the monitor that serves them, 0 for none
        self.serving = False  # it has read a fault that is not served yet

    def key(self) -> Hashable:
        return (tuple(self.faults), self.reader, self.serving)


class _Phase(Thing):
    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "phase")
        self.phase = Phase.OFF
        self.bugs = 0  # how many internal errors the monitors may still have
        self.damaged: int | None = None  # the last page that could not be read

    def key(self) -> Hashable:
        return (self.phase.value, self.bugs, self.damaged)


class Memory:
    """Pages, page tables of the processes, pending faults, swap file, entries and phase.

    With `full` the swap file may have no space for a page.  Monitors may have `bugs` internal errors.  With
    `stored` a snapshot has all pages; with `damaged` the first one cannot be read there.  With `live` there
    may be live snapshots.
    """

    def __init__(
        self,
        runtime: ExploreRuntime,
        pages: int,
        *,
        full: bool = False,
        bugs: int = 0,
        stored: bool = False,
        damaged: bool = False,
        live: bool = False,
    ) -> None:
        self.runtime = runtime
        self.full = full
        self.table = PageTable(pages)
        self.pages = [Page(runtime, number, self.table) for number in range(pages)]
        self.uffd = _Uffd(runtime)
        self.phase = _Phase(runtime)
        self.phase.bugs = bugs
        self.owed = Owed(runtime, pages) if live else None
        self.monitors = 0
        self.held: Callable[[], bool] = lambda: False  # whether the last monitor moves nothing
        self.dead: set[str] = set()  # processes
        self.alarm = runtime.eventfd("swap.alarm")
        self.stored = stored
        if stored:
            self._store()
        if damaged:
            self.pages[0].layer = None

    def _store(self) -> None:
        self.phase.phase = Phase.SETTLED
        for page in self.pages:
            page.memory = None
            page.mapped.clear()
            stored = Entry(State.STORED, State.STORED, location=page.number)
            self.table.entries[page.number] = stored

    def at(self, what: str, thing: Thing, condition: Callable[[], bool] | None = None) -> None:
        """Make a point: the code that follows, up to the next one, is one step."""
        self.runtime.point(what, thing, write=True, condition=condition)

    def touch(self, guest: str, page: Page, process: str = MAIN) -> None:
        """Check that a guest reads the number written last, and write the next one."""
        while True:
            self.runtime.retain_only(level=1)
            self.at("touch", page)
            if process not in page.mapped and process not in page.registered:
                page.memory = page.memory or 0
                page.mapped.add(process)
            if process in page.mapped:
                assert page.layer is not None or page.condemned, (
                    f"{guest} reads what {page.name} never was"
                )
                assert page.memory == page.latest or page.discarding or page.condemned, (
                    f"{guest} reads {page.memory} from {page.name}, {page.latest} was written"
                )
                page.latest += 1
                page.memory = page.latest
                return
            page.waiting.add((process, guest))
            self.runtime.touch(self.uffd.name, write=False)
            if (process, page.number) not in self.uffd.faults:
                self.runtime.touch(self.uffd.name)
                self.uffd.faults.append((process, page.number))
            self.at("fault", page, lambda: (process, guest) not in page.waiting)

    def arrive(self, page: Page, value: int, process: str = MAIN) -> bool:
        """Fill a page unless it is present, map it, and wake its waiters: UFFDIO_COPY or CONTINUE.

        Return False if the process is dead.
        """
        if process in self.dead:
            return False
        if page.memory is None:
            page.memory = value
        page.mapped.add(process)
        self.wake(page, process)
        return True

    def wake(self, page: Page, process: str = MAIN) -> None:
        """Wake the tasks that wait for a page: a fault that was not read is removed."""
        page.waiting = {waits for waits in page.waiting if waits[0] != process}
        self.runtime.touch(self.uffd.name)
        if (process, page.number) in self.uffd.faults:
            self.uffd.faults.remove((process, page.number))

    def zap(self, process: str = MAIN, only: Sequence[Run] | None = None) -> None:
        """Zap the page tables of a process; `only` these runs, None: all."""
        for page in self.pages:
            if only is None or any(first <= page.number < first + count for first, count in only):
                self.at("zap", page)
                page.mapped.discard(process)

    def die(self, process: str) -> None:
        """End a process, with its mappings and pending faults."""
        self.dead.add(process)
        for page in self.pages:
            page.mapped.discard(process)
            page.registered.discard(process)
            self.wake(page, process)

    def needed(self) -> bool:
        """Return whether a fault may have to be served."""
        self.runtime.point("needed", self.phase)
        self.runtime.observe(self.phase.phase.value)
        return self.phase.phase is not Phase.OFF

    def look_at_damage(self) -> int | None:
        """Return the last page that could not be read."""
        self.runtime.point("which page", self.phase)
        self.runtime.observe(self.phase.damaged)
        return self.phase.damaged

    def look(self) -> None:
        """Check that no page is lost; for every step."""
        for page in self.pages:
            found = page.contents()
            assert found == page.latest or page.discarding or page.condemned, (
                f"{page.name} is lost: {page.entry.state.name} has {found}, "
                f"{page.latest} was written"
            )

    def check(self) -> None:
        """Check, when no task is enabled, that each page is in one place, and no task waits for it."""
        for page in self.pages:
            entry = page.entry
            assert not page.waiting, f"a fault on {page.name} is never served"
            away = entry.state in (State.FILE, State.ZERO, State.STORED)
            assert not (away and page.memory is not None), f"{page.name} is in two places"
            used = {entry.location} if entry.copy is State.FILE else set[int]()
            assert set(page.slots) == used, f"{page.name}: slots {set(page.slots)} in use: {used}"
