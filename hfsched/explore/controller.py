"""The controller of one execution: at each point it lets a strategy decide which task runs.

A *point* precedes each operation; the choice is among the tasks whose operation can be done.
Between two points a task runs alone.

Implementation note.  There is no hub on the way from task to task: the task that reaches a point
asks the strategy in its own greenlet and switches straight to the one chosen, which costs half a
microsecond; when it chooses itself, nothing is switched.  The greenlet that called `explore` gets
control when no task is enabled, when the strategy prunes the execution, or when a task fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from hfsched.errors import UserError
from hfsched.explore.canonical import ATOMS, RefusedError, encode
from hfsched.explore.endings import Pause, Prune, StepsExceededError
from hfsched.explore.executionstate import ExecutionState
from hfsched.explore.following import Following
from hfsched.explore.joining import joins
from hfsched.explore.misuse import check_ran, in_foreign_thread
from hfsched.explore.schedule import prefix_of
from hfsched.explore.task import Group, Task
from hfsched.explore.thing import Thing

try:
    import greenlet
except ImportError as exc:  # pragma: no cover - a test without greenlet sees the message
    raise UserError(
        "exploring needs the package 'greenlet': pip install 'hfsched[explore]'"
    ) from exc

if TYPE_CHECKING:
    from hfsched.explore.again import Witness
    from hfsched.explore.races import Races
    from hfsched.explore.strategy import Strategy

__all__ = ["STEPS_MAX", "Controller", "Pause", "Prune", "StepsExceededError"]

STEPS_MAX = 20_000


class Controller(ExecutionState):
    """One execution: the choice at each point, and what follows from it.

    `tracing` records every step; so does a `witness`, with what the tasks observe.  `races` is the race
    detector for shared values; without it the first shared value creates one.  Implements `hfsched.explore.strategy.View` for the strategy.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        tracing: bool = False,
        races: Races | None = None,
        joining: bool = True,
        steps_max: int = STEPS_MAX,
        witness: Witness | None = None,
    ) -> None:
        self._following = Following(prefix_of(strategy))
        super().__init__(
            stateful=strategy.stateful and not self._following.steps,
            tracing=tracing,
            races=races,
            witness=witness,
        )
        self.strategy = strategy
        self._every_point = strategy.every_point
        self.joining = joining  # an operation may belong to the step before it
        self._steps_max = steps_max
        self.invariant: Callable[[], None] | None = None
        self.remembers = False  # the invariant is called where another execution is repeated, too
        # Called for an operation that no task does: {thing, condition, deadline}.
        self.on_outside: (
            Callable[[Thing | None, Callable[[], bool] | None, int | None], None] | None
        )
        self.on_outside = None
        self._hub = greenlet.getcurrent()
        self.clock = self.pseudo("clock", "clock", self._tick, live=False)
        if races is not None:
            races.attach(self)

    # One execution.

    def explore(self) -> None:
        """Run the spawned tasks until none is enabled, one fails, or the strategy prunes."""
        self.current = None
        if self.failure is not None:
            return  # a task has failed while settling
        chosen = self._next()
        if chosen is not None:
            chosen.glet.switch()

    def settle(self) -> None:
        """Run the spawned tasks until none is enabled, in one fixed order that is not explored."""
        self.settling = True
        try:
            self.explore()
        finally:
            self.settling = False
            self.previous = None

    def close(self) -> None:
        """Unwind every task that has not ended."""
        self.stopping = True
        for task in self.tasks:
            if task.glet is not None and not task.glet.dead:
                self.current = task
                task.glet.parent = self._hub
                with contextlib.suppress(Exception):  # a task may raise while it is unwound
                    task.glet.throw(greenlet.GreenletExit)
        self.current = None

    # Points.

    def point(
        self,
        kind: str,
        thing: Thing | None,
        *,
        write: bool = False,
        condition: Callable[[], bool] | None = None,
        deadline: int | None = None,
        also: Sequence[Thing] = (),
    ) -> None:
        """Let the strategy choose the next task; return when it is this task's turn.

        `also` are things that the operation and its condition read, besides `thing`; a `write` to
        them needs an operation that is dependent on every other (`hfsched.explore.task`).
        """
        task = self.current
        if task is None:  # the scenario is being built, or its state inspected
            if self.on_outside is not None:
                self.on_outside(thing, condition, deadline)
            return
        if greenlet.getcurrent() is not task.glet:
            self.failure = self.failure or in_foreign_thread(kind, thing)
            raise SystemExit  # that thread ends, and says nothing
        if self.stopping:
            raise greenlet.GreenletExit
        if (
            thing is not None
            and self.joining
            and (deadline is None or self.clock is None)  # else it is a stop of the clock
            and (
                thing.private or thing.exclusive is not None or (task.entered and condition is None)
            )
            and joins(task, thing, write, condition, also, self.touched)
        ):
            if self.trace is not None:
                self.record(f"{task.name}: {kind} {thing.name}")
            return
        if self.stateful:
            task.learn(kind)  # its position in the program
        if deadline is not None:
            self.touched.append(("clock", False))  # the deadline is a new stop of the clock
        task.entered = kind == "lock"
        task.kind = kind
        task.thing = thing
        task.also = also
        task.write = write
        task.condition = condition
        task.deadline = deadline
        task.key = None
        chosen = self._next()
        if chosen is not task:
            self._switch(chosen)
        if condition is not None:
            task.condition = None
            task.deadline = None
        if self.trace is not None:
            self.record(task.describe())

    def throw(self, task: Task, error: type[BaseException]) -> None:
        """Raise an exception in a task that waits at a point; return at the next pause."""
        self.previous = self.current = task
        task.glet.throw(error)

    def _switch(self, chosen: Task | None) -> None:
        """Switch to another task (None: to the hub); return when the caller is chosen again."""
        if chosen is None:
            self._hub.switch()
        else:
            chosen.glet.switch()
        if self.stopping:
            raise greenlet.GreenletExit

    def observe(self, value: object, place: str = "") -> None:
        """Add a value that the current task has observed to its history; `place` is where it was.

        Raises NoCanonicalFormError.
        """
        task = self.current
        if task is None:
            return
        if self.witness is not None and not self.settling:
            self.witness.note_value(task, value, place)
        if self.stateful:
            if type(value) not in ATOMS:
                value = (self.encoded(value, place or f"{task.name}: what it has observed"),)
            task.learn(value)

    def encoded(self, value: object, place: str) -> bytes:
        """Return a value's canonical encoding; one that has none ends the execution."""
        try:
            return self.inspect(lambda: encode(value, place))  # it may have methods of the program
        except RefusedError as exc:
            self.fail(exc)

    # Deciding.

    def _next(self) -> Task | None:
        """Choose the next task and make it the current one; None: back to the hub."""
        while True:
            self.steps += 1
            if self.steps > self._steps_max:
                return self._fail(
                    StepsExceededError(f"no end after {self._steps_max} steps: possibly a livelock")
                )
            try:
                repeats = self._following.steps and not self.settling
                if self.invariant is not None and (self.remembers or not repeats):
                    self.inspect(self.invariant)
                if repeats:
                    chosen: Task | None = self._following.next(self)
                else:
                    chosen = self._decide()
                if chosen is None:
                    self.current = None
                    return None
            except Prune:
                self.pruned = True
                self.current = None
                return None
            except Pause:
                self.current = None
                return None
            except Exception as exc:  # noqa: BLE001 - a finding, of any type
                return self._fail(exc)
            if self.witness is not None and not self.settling:
                self.witness.steps.append(chosen.index)
            if self.touched:
                self.touched = []
            if chosen.act is None:
                self.previous = self.current = chosen
                return chosen
            self.record(chosen.name)
            self.current = None  # operations of a pseudo-task are no points
            try:
                chosen.act()
            except Exception as exc:  # noqa: BLE001 - likewise
                return self._fail(exc)

    def _decide(self) -> Task | None:
        """Let the strategy choose among the enabled tasks; None: there is none."""
        enabled = self.table.enabled(self.time)
        if (
            self.clock is not None
            and not self.settling
            and self.table.next_deadline(self.time) is not None
        ):
            enabled.append(self.clock)
        if not enabled:
            return None
        if len(enabled) > 1 or self._every_point:
            current = self.previous if self.previous in enabled else None
            if not self.settling:
                return self.strategy.pick(self, current, enabled)
            if current is not None:
                return current
        return enabled[0]

    def value(self, name: str, n: int) -> int:
        """Choose a number below `n`."""
        if self._following.values:
            picked = self._following.values.pop()
        elif self._following.steps:
            self.fail(self._following.chose(name, self.steps))
        else:
            picked = self.strategy.value(self, name, n)
        if self.witness is not None:
            self.witness.values.append(picked)
        return picked

    def _tick(self) -> None:
        deadline = self.table.next_deadline(self.time)
        assert deadline is not None
        self.time = deadline

    def _fail(self, failure: BaseException) -> Task | None:
        self.failure = failure
        self.failed_task = self.current
        self.current = None
        return None

    def fail(self, failure: Exception) -> NoReturn:
        """End the execution with a failure that the code under test cannot catch."""
        if self.current is None:  # outside of all tasks
            raise failure
        self._fail(failure)
        self._hub.switch()
        raise greenlet.GreenletExit

    # Tasks.

    def spawn(self, name: str, fn: Callable[[], None], group: Group | None) -> Task:
        """Make a task of a process (None: of the first one); it has not begun."""
        task = self.table.new(name, group, self.current)
        if self.races is not None:
            self.races.spawned(task, self.current)

        def body(*_: object) -> None:
            try:
                made: object = fn()  # type: ignore[func-returns-value]
                if made is not None:
                    check_ran(task, made)
            except greenlet.GreenletExit:
                return
            except BaseException as exc:  # noqa: BLE001 - a finding, of any type
                if not self.stopping:
                    self._fail(exc)
                    task.glet.parent = self._hub
                return
            self.end(task)
            if not self.stopping:
                chosen = self._next()  # it runs when this greenlet returns
                task.glet.parent = self._hub if chosen is None else chosen.glet

        task.glet = greenlet.greenlet(body, self._hub)
        return task

    def pseudo(self, name: str, kind: str, act: Callable[[], None], *, live: bool = True) -> Task:
        """Make a pseudo-task: choosing it calls `act`."""
        return self.table.new_pseudo(name, kind, act, self.current, live=live)

    def end(self, task: Task) -> None:
        """Record the end of a task."""
        self.touched += self.table.end(task)
        if self.races is not None and task.group is not None and task.group.ended():
            self.races.ended(task.group)

    def kill(self, group: Group) -> None:
        """Kill a process."""
        if group.ended():
            return
        self.forgotten = True
        self.touched += self.table.kill(group)
        if self.races is not None:
            self.races.ended(group)
        if self.current is not None and self.current.group is group:
            self._switch(self._next())  # no code of it runs any more, not even a ``finally``
