"""The state of one execution: its tasks and things, its time, who runs, and how it has ended.

Plain state, with its digests, its trace and its order of accesses; `hfsched.explore.controller` decides what
happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hfsched.explore import digests
from hfsched.explore.tasktable import TaskTable

if TYPE_CHECKING:
    from hfsched.explore.again import Witness
    from hfsched.explore.races import Races
    from hfsched.explore.task import Task, Touched
    from hfsched.explore.thing import Thing

__all__ = ["ExecutionState"]

T = TypeVar("T")


class ExecutionState:
    """See the module; the part of `hfsched.explore.strategy.View` that is only looked at.

    `stateful`: states are compared, so tasks' observations are kept as digests.
    """

    def __init__(
        self, *, stateful: bool, tracing: bool, races: Races | None, witness: Witness | None
    ) -> None:
        self.stateful = stateful
        self.witness = witness
        self.races = races
        self.table = TaskTable()
        self.tasks = self.table.tasks
        self.current: Task | None = None
        self.previous: Task | None = None  # the task that ran last
        self.clock: Task | None = None
        self.steps = 0
        self.touched: Touched = []  # by the last step, besides its first operation
        self.stopping = False
        self.settling = False
        self.time = 0
        self.pruned = False
        self.unkeyed: str | None = None  # a lock that does not say what it guards
        self.forgotten = False  # some of what tasks have observed is not in their digests
        self.failure: BaseException | None = None
        self.failed_task: Task | None = None
        self.trace: list[str] | None = [] if tracing else None
        if witness is not None:
            self.trace = witness.lines

    def stop_clock(self) -> None:
        """Disable deadlines: time does not advance."""
        self.clock = None

    def pass_on(self, thing: Thing) -> None:
        """Release `thing` for the race detector: order earlier accesses before later `take_over`s."""
        if self.races is not None:
            self.races.release(thing)

    def take_over(self, thing: Thing) -> None:
        """Acquire `thing` for the race detector; see `pass_on`."""
        if self.races is not None:
            self.races.acquire(thing)

    def inspect(self, read: Callable[[], T]) -> T:
        """Call a function that reads the whole state; no operation in it is a point."""
        task, self.current = self.current, None
        try:
            return read()
        finally:
            self.current = task

    def state_key(self) -> bytes:
        """Return a 128-bit digest of the whole state; see `hfsched.explore.digests`."""
        time = self.time if self.clock is not None else 0
        return self.inspect(lambda: digests.state_key(self.table, time))

    def knowledge(self) -> digests.Knowledge:
        """Return the digests of what the tasks have observed so far, for `recall`."""
        return digests.knowledge(self.table)

    def recall(self, knowledge: digests.Knowledge) -> None:
        """Restore digests from another execution of the same schedule prefix; keep digests from here."""
        self.stateful = True
        digests.recall(self.table, knowledge)

    def record(self, line: str) -> None:
        """Write a line of the trace."""
        if self.trace is not None and not self.settling:
            self.trace.append(line)
