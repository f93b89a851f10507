"""What the exploring runtime offers scenarios and their things, besides `hfsched.runtime.base.Runtime`.

Points on a scenario's own things, events that happen at any point, and what a scenario declares of its
tasks and things, which is trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from hfsched.errors import InternalError
from hfsched.explore.objects import XEvent

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.explain.recorder import Recorder
    from hfsched.explore.handles import ProcessHandle
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["ScenarioSide"]

T = TypeVar("T")


@cache
def _named(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether one of the patterns (``*`` for any text) matches the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class ScenarioSide:
    """See the module; `hfsched.explore.runtime.ExploreRuntime` has the rest."""

    def __init__(self, controller: Controller, watcher: Watcher | None) -> None:
        self.controller = controller
        self.recorder: Recorder | None = None  # records the story of this execution
        self._watcher = watcher

    def _exempt(self, function: Callable[[], T]) -> Callable[[], T]:
        """Return a function that only looks at the state: its accesses are not watched."""
        return function if self._watcher is None else self._watcher.exempt(function)

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
        """Make an operation of a scenario's own thing a point; see `Controller.point`.

        What the task does up to its next point is one step on `thing` and `also`: for the race
        detector it is ordered with the other steps on them.
        """
        self.controller.point(
            kind, thing, write=write, condition=condition, deadline=deadline, also=also
        )
        if self._watcher is not None:
            self._watcher.begin_step((*also,) if thing is None else (thing, *also))

    def observe(self, value: object) -> None:
        """Add a value that the current task has observed to its history; see `explore.canonical`."""
        self.controller.observe(value)

    def touch(self, name: str, *, write: bool = True) -> None:
        """Record that the current step accesses this thing too, besides that of its operation."""
        self.controller.touched.append((name, write))
        if self._watcher is not None:
            self._watcher.begin_step([x for x in self.controller.table.things if x.name == name])

    @property
    def current(self) -> Task | None:
        """The running task; None while the scenario is built, or its state inspected."""
        return self.controller.current

    @property
    def tasks(self) -> Sequence[Task]:
        """All tasks, in order of creation."""
        return self.controller.tasks

    @property
    def time(self) -> int:
        """The virtual time in ns; reading it is no point."""
        return self.controller.time

    @property
    def settling(self) -> bool:
        """Whether the start-up runs, which is not explored."""
        return self.controller.settling

    def event_of(self, name: str, act: Callable[[], None]) -> Task:
        """Let `act` happen once, at any point: a death, a fault, an external time-out."""
        task = self.controller.pseudo(name, "anything", lambda: None)

        def once() -> None:
            self.controller.end(task)
            act()

        task.act = once
        return task

    def settle(self) -> None:
        """Run the spawned tasks until none is enabled, in one fixed order that is not explored.

        For the start-up of what is explored afterwards; call it from `Scenario.build`.
        """
        self.controller.settle()

    def may_die(self, process: ProcessHandle) -> None:
        """Let a process die at any point, up to its end."""
        group = process.group
        task = self.event_of(f"death of {process.name}", lambda: self.controller.kill(group))
        task.kind = "death"
        task.condition = lambda: not group.ended()
        task.kills = group

    def attach(self, task: str, state: Callable[[], object]) -> None:
        """Declare that `state` (hashable, touched by that task alone) is part of a task's state."""
        for each in self.tasks:
            if each.name == task:
                each.extra = state
                return
        raise InternalError(f"no task {task}")

    def declare_private(self, *names: str) -> None:
        """Declare that each thing with such a name (``*`` for any text) has one user.

        Their operations are no points then.  A second user is a failure.  For cells and locks, and
        for events that no task waits for.
        """
        for thing in self.controller.table.things:
            thing.private = _named(thing.name, names) or thing.private

    def declare_unordered(self, *names: str) -> None:
        """Exclude such things from the order of accesses to shared values.

        For another party's locks, which order accesses by accident only and could hide a race.
        """
        for thing in self.controller.table.things:
            thing.unordered = _named(thing.name, names) or thing.unordered

    def declare_records(self, *records: object, reason: str) -> None:
        """Declare that `records` are the scenario's own, for its oracles: no race is looked for in them.

        For what tasks note without an order, which no code under exploration reads.
        """
        if self._watcher is not None:
            self._watcher.declare(records, reason)

    def declare_exclusive(self, task: str, names: str, exclusive: Callable[[], bool]) -> None:
        """Declare that no task but `task` can start to use such a thing while `exclusive()` holds.

        That is, before `task` itself runs another step.  Its operations on them are no points
        meanwhile.  `exclusive` may read any state; it is trusted, so compare the final states with
        and without it.
        """
        for thing in self.controller.table.things:
            if _named(thing.name, (names,)):
                thing.exclusive = (task, self._exempt(exclusive))

    def declare_retry(self, lock: str, event: str) -> None:
        """Declare that a task which waits for `event` retries from `lock`, with its history there.

        The task has found under the lock that it must wait, and has observed nothing else.  This is
        trusted as `retain_only` is.
        """
        guards = [thing for thing in self.controller.table.locks() if thing.name == lock]
        for thing in self.controller.table.things:
            if isinstance(thing, XEvent) and thing.name == event:
                (thing.retry,) = guards
                thing.retry.marks = {}

    def stop_clock(self) -> None:
        """Disable deadlines, so that no time-out masks a lost wake-up."""
        self.controller.stop_clock()

    def note(self, text: str, *, lane: str | None = None, to: str | None = None) -> None:
        """Add a step to the story (`hfsched.explore.explain`), if one is recorded.

        `lane` is the actor, by default the current task; `to` makes it an arrow to another actor.
        """
        if self.recorder is not None:
            self.recorder.note(text, lane=lane, to=to)
