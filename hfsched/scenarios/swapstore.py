"""A monitor's data plane over a `Memory`, in steps: the monitor may die between any two.

The entries change as in `hfsched.swap.pages.entries`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.scenarios.swapmemory import MAIN, PROCESSES, Memory, Page
from hfsched.scenarios.swapsnapshot import keep
from hfsched.swap.monitor.controller import Controller
from hfsched.swap.monitor.moves import Moves
from hfsched.swap.monitor.serving import serve
from hfsched.swap.pages.entries import Entry, FaultAction, State
from hfsched.swap.pages.store import Counts, Phase, Progress

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import End
    from hfsched.swap.protocol.messages import Begin, Register

__all__ = ["Monitor", "Store"]


class Store:
    """The monitor's `Pages` and `Processes`, and the task that serves faults."""

    def __init__(
        self,
        memory: Memory,
        *,
        wakes: bool = True,
        quiesces: bool = True,
        keeps: bool = True,
        settles: bool = True,
    ) -> None:
        self._memory = memory
        self._runtime = memory.runtime
        self._wakes = wakes
        self._quiesces = quiesces
        self._settles = settles
        self._keeps = keeps  # a page that is owed is copied aside before it is mapped
        self._number = 0
        self._processes: dict[int, str] = {}

    # Members: number 0 is main.

    def add(self, register: Register, fds: Sequence[int]) -> None:  # noqa: ARG002 - a model has none
        """See `Processes.add`."""
        memory = self._memory
        process = PROCESSES[register.regions[0].base]
        if process is MAIN:
            memory.at("open", memory.uffd)
            memory.monitors += 1
            self._number = memory.uffd.reader = memory.monitors
            memory.uffd.serving = False
            self._runtime.spawn("faults", self._serve_faults)
            if memory.stored:
                self._register_with(process)
        else:
            memory.at("phase", memory.phase)
            self._runtime.observe(memory.phase.phase.value)
            if memory.phase.phase is not Phase.OFF:
                self._register_with(process)
        self._processes[register.member] = process
        for page in memory.pages if self._wakes else ():
            memory.at("wake", page)
            memory.wake(page, process)

    def _register_with(self, process: str) -> None:
        for page in self._memory.pages:
            self._memory.at("register", page)
            if process not in self._memory.dead:
                page.registered.add(process)

    def dead(self) -> Sequence[int]:
        """See `Processes.dead`."""
        self._runtime.point("is it dead", None, also=(self._memory.phase,))
        dead = tuple(n for n, each in self._processes.items() if each in self._memory.dead)
        self._runtime.observe(dead)
        return dead

    def drop(self, member: int) -> None:
        """See `Processes.drop`."""
        del self._processes[member]

    def close(self) -> None:
        """Stop serving faults."""
        self._memory.at("close", self._memory.uffd)
        self._memory.uffd.reader = 0

    # Faults.

    def _serve_faults(self) -> None:
        uffd = self._memory.uffd
        while True:
            self._runtime.retain_only(self._number)
            self._memory.at("read", uffd, lambda: bool(uffd.faults) or uffd.reader != self._number)
            if uffd.reader != self._number:
                return
            uffd.serving = True
            process, number = uffd.faults.pop(0)
            self._runtime.observe((process, number))
            self._serve(self._memory.pages[number], process)
            self._runtime.retain_only(self._number)
            self._memory.at("served", uffd)
            uffd.serving = False

    def _serve(self, page: Page, process: str) -> None:
        while True:
            self._runtime.retain_only(self._number, page.number, process)
            if self._keeps:
                keep(self._memory, page)
            self._memory.at("look up", page)
            entry, answer = page.entry, self._memory.table.fault(page.number)
            self._runtime.observe((answer.value, entry.location))
            if answer is FaultAction.CONTINUE:
                self._runtime.retain_only(self._number, page.number, process)
                self._memory.at("continue", page)
                self._memory.arrive(page, 0, process)
                if not self._keeps:
                    keep(self._memory, page)
                return
            if answer is not FaultAction.WAIT:
                if self._bring(page, entry, process):
                    return
                continue
            self._memory.at("let go", self._memory.uffd)
            self._memory.uffd.serving = False
            self._memory.at("wait", page, lambda: page.entry.state is not State.PUNCHING)
            self._memory.at("go on", self._memory.uffd)
            self._memory.uffd.serving = True

    def _bring(self, page: Page, entry: Entry, process: str = MAIN) -> bool:
        """Bring in a page, possibly while another task does so too; False: its entry has changed."""
        value = 0
        if entry.state is State.FILE:
            self._memory.at("read file", page)
            value = page.slots.get(entry.location, -1)
            self._runtime.observe(value)
        elif entry.state is State.STORED:
            self._memory.at("read the snapshot", page)
            self._runtime.observe(page.layer)
            if page.layer is None:
                self._raise_alarm(page)
                return False
            value = page.layer
        self._runtime.retain_only(page.number, value, process, level=1)
        self._memory.at("copy", page)
        there = self._memory.arrive(page, value, process)
        self._runtime.observe(there)
        if not there:
            return True
        self._runtime.retain_only(page.number, process, entry.encode(), level=1)
        self._memory.at("arrived", page)
        now = page.entry
        self._runtime.observe(now.encode())
        if now.state is State.PUNCHING:
            assert page.discarding, "a page arrives while it is being punched"
            return False
        assert self._memory.table.arrived(page.number)
        return True

    def _raise_alarm(self, page: Page) -> None:
        """Tell main that a page cannot be read, and try again when that may have changed."""
        memory = self._memory
        memory.at("damaged", memory.phase)
        memory.phase.damaged = page.number
        memory.alarm.signal()
        memory.at("let go", memory.uffd)
        memory.uffd.serving = False
        memory.at("try again", page, lambda: page.entry.state is not State.STORED)
        memory.at("go on", memory.uffd)
        memory.uffd.serving = True

    # Pages.

    def _may_fail(self) -> None:
        phase = self._memory.phase
        if phase.bugs and self._runtime.choose("an internal error", 2):
            self._memory.at("internal error", phase)
            phase.bugs -= 1
            raise RuntimeError("an internal error")

    def take_over(self) -> None:
        """Complete the operations that a dead monitor left half done."""
        table = self._memory.table
        self._memory.at("phase", self._memory.phase)
        settled = self._memory.phase.phase is Phase.SETTLED
        self._runtime.observe(settled)
        for page in self._memory.pages:
            self._memory.at("punch again", page)
            if page.entry.state is State.PUNCHING:
                page.punch()
            self._memory.at("take over", page)
            table.take_over(page.number, in_memory=page.memory is not None, settled=settled)
            self._free_slots(page)

    def stage(self, *, pages: bool = True) -> int:
        """See `Pages.stage`."""
        self._may_fail()
        memory = self._memory
        staged = 0
        for process in self._processes.values():
            self._register_with(process)
        if self._quiesces:  # a fault may have read an entry from before pages came in again
            memory.at("quiesce", memory.uffd, lambda: not memory.uffd.serving)
        memory.at("mark", memory.phase)
        memory.phase.phase = Phase.MARKED
        for page in memory.pages:
            if not pages:
                break
            memory.at("stage", page)
            if page.memory is not None:
                staged += memory.table.stage(page.number)
        self._runtime.observe(staged)
        return staged

    def zapped(self) -> None:
        """See `Pages.zapped`."""
        self._may_fail()
        self._memory.at("settle", self._memory.phase)
        self._memory.phase.phase = Phase.SETTLED

    def unstage(self) -> None:
        """See `Pages.unstage`."""
        self._may_fail()
        for page in self._memory.pages:
            self._memory.at("unstage", page)
            self._memory.table.unstage(page.number)
        self._memory.at("settle", self._memory.phase)
        if self._memory.phase.phase is Phase.MARKED:
            self._memory.phase.phase = Phase.SETTLED

    def trim(self, limit: int) -> Progress:  # noqa: ARG002 - there are few
        """See `Pages.trim`."""
        self._may_fail()
        moved = 0
        for page in self._memory.pages:
            self._memory.at("trim", page)
            if page.memory == 0:
                dropped = self._memory.table.drop_zero(page.number)
                self._free_slots(page)
            elif page.memory == page.slots.get(page.entry.location):
                dropped = self._memory.table.drop_clean(page.number)
            else:
                dropped = False
            self._runtime.observe(dropped)
            if dropped:
                self._punch(page)
                moved += 1
        return Progress(moved, done=True)

    def discard(self, first: int, count: int) -> Progress:
        """See `Pages.discard`."""
        self._may_fail()
        memory = self._memory
        memory.at("phase", memory.phase)
        off = memory.phase.phase is Phase.OFF
        self._runtime.observe(off)
        before = {}
        for page in memory.pages[first : first + count]:
            memory.at("begin to discard", page)
            before[page.number] = page.latest
            self._runtime.observe(page.latest)
        if not off and self._settles:  # a fault may have mapped a page that counts as zero still
            memory.at("settle", memory.uffd, lambda: not memory.uffd.serving)
        for page in memory.pages[first : first + count]:
            memory.at("discard", page)
            if off:
                page.discarding = True
                page.punch()
                continue
            changed = memory.table.discard(page.number)
            page.discarding = page.discarding or changed
            self._runtime.observe(changed)
            if page.entry.state is State.ZERO:
                kept = page.latest and page.latest == before[page.number]
                assert not kept, f"{page.name} counts as zero, and keeps what it had"
            if changed:
                if self._quiesces:  # a fault may have read the entry before
                    memory.at("quiesce", memory.uffd, lambda: not memory.uffd.serving)
                memory.at("free", page)
                self._free_slots(page)
                self._punch(page)
        return Progress(count, done=True)

    has_file = True

    def swap_out(self, limit: int) -> Progress:  # noqa: ARG002 - one at a time
        """See `Pages.swap_out`."""
        self._may_fail()
        memory = self._memory
        for page in memory.pages:
            memory.at("claim", page)
            claimed = memory.table.claim(page.number)
            self._runtime.observe(claimed)
            if not claimed:
                continue
            self._free_slots(page)
            if memory.full and self._runtime.choose("swap file is full", 2):
                memory.at("unclaim", page)
                memory.table.unclaim(page.number)
                return Progress(0, done=False, problem="swap file: no space left on device")
            memory.at("write", page)
            value, slot = page.memory, 1 + max(page.slots, default=0)
            assert value is not None, f"{page.name} is written to the file, but is not in memory"
            page.slots[slot] = value
            self._runtime.observe(slot)
            memory.at("publish", page)
            published = memory.table.publish(page.number, State.FILE, slot)
            self._runtime.observe(published)
            if published:
                self._punch(page)
            else:
                self._free_slots(page)
            return Progress(int(published), done=False)
        return Progress(0, done=True)

    def swap_in(self, limit: int) -> Progress:  # noqa: ARG002 - likewise
        """See `Pages.swap_in`."""
        self._may_fail()
        unreadable = False
        for page in self._memory.pages:
            self._memory.at("look", page)
            entry = page.entry
            self._runtime.observe((entry.encode(), page.layer))
            if entry.state is State.STAGED:
                self._memory.table.unstage(page.number)
                return Progress(1, done=False)
            if entry.state is State.FILE:
                self._bring(page, entry)
                return Progress(1, done=False)
            if entry.state is State.STORED and page.layer is None:
                unreadable = True
            elif entry.state is State.STORED:
                self._bring(page, entry)
                return Progress(1, done=False)
        problem = "snapshot: Input/output error" if unreadable else None
        return Progress(0, done=not unreadable and self._all_present(), problem=problem)

    def _all_present(self) -> bool:
        """Return whether every page is in memory or zero; a fault that is being served may have an old entry."""
        memory = self._memory
        if self._quiesces:
            memory.at("quiesce", memory.uffd, lambda: not memory.uffd.serving)
        for page in memory.pages:
            memory.at("look again", page)
            self._runtime.observe(page.entry.state.value)
            if page.entry.state not in (State.RESIDENT, State.ZERO):
                return False
        return True

    def release(self, *, slow: bool = False, final: bool = False) -> None:  # noqa: ARG002 - all at once
        """See `Pages.release`."""
        self._may_fail()
        for page in self._memory.pages:
            self._memory.at("release", page)
            assert self._memory.table.release(page.number), (
                f"{page.name} is released, but not in memory"
            )
            page.registered.clear()
            for process in self._processes.values():
                self._memory.wake(page, process)
            self._free_slots(page)
        self._memory.at("over", self._memory.phase)
        self._memory.phase.phase = Phase.OFF

    def shrink(self, limit: int) -> Progress:  # noqa: ARG002
        """See `Pages.shrink`."""
        return Progress(0, done=True)

    def faults(self) -> int:
        """See `Pages.faults`."""
        return 0

    def quiesce(self) -> None:
        """See `Pages.quiesce`."""
        self._memory.at("quiesce", self._memory.uffd, lambda: not self._memory.uffd.serving)

    def counts(self) -> Counts:
        """See `Pages.counts`."""
        memory = self._memory
        self._runtime.point("count", None, also=(memory.phase, *memory.pages))
        found, phase = memory.table.states(), memory.phase.phase
        self._runtime.observe((found[State.STAGED], phase.value))
        return Counts(0, 0, found[State.STAGED], 0, 0, 0, 0, 0, phase)

    def _punch(self, page: Page) -> None:
        self._memory.at("punch", page)
        page.punch()
        self._memory.at("punched", page)
        self._memory.table.punched(page.number)

    def _free_slots(self, page: Page) -> None:
        entry = page.entry
        kept = entry.location if entry.copy is State.FILE else None
        page.slots = {slot: value for slot, value in page.slots.items() if slot == kept}


class _UncountedController(Controller):
    """A controller whose state key lacks its counters, which only `Status` shows and no oracle reads."""

    def key(self) -> object:
        """See `Controller.key`."""
        counted, self._moves = self._moves, Moves(lambda: 0)
        try:
            return super().key()
        finally:
            self._moves = counted


class Monitor:
    """A monitor's program over a `Memory`."""

    controller: type[_UncountedController] = _UncountedController
    wakes = True
    quiesces = True
    settles = True
    keeps = True

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    def __call__(self, runtime: ExploreRuntime, end: End) -> None:
        """Run it."""
        store = Store(
            self._memory,
            wakes=self.wakes,
            quiesces=self.quiesces,
            keeps=self.keeps,
            settles=self.settles,
        )

        def make(begin: Begin, _fds: Sequence[int]) -> Controller:
            if not begin.fresh:
                store.take_over()
            controller = self.controller(lambda: 0, store, store)
            self._memory.held = controller.peek_held
            return controller

        serve(runtime, end, make)
        store.close()
