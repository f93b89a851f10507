"""The second runtime: greenlets, virtual time, and a strategy that decides who goes next.

The code explored is the production code; only its `Runtime` differs.  `hfsched.explore.points` is
the engine below: here is what programs and scenarios call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from hfsched.errors import InternalError
from hfsched.explore.handles import ProcessHandle, TaskHandle
from hfsched.explore.objects import Thing, XCell, XEnd, XEvent, XLock, XShared, plain
from hfsched.explore.points import Points
from hfsched.explore.races import Races
from hfsched.explore.task import Group, Task

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Waitable

__all__ = ["ExploreRuntime"]

T = TypeVar("T")


@cache
def _named(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether one of the patterns (``*`` for any text) is of this name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class ExploreRuntime(Points):
    """One execution's runtime; see `hfsched.runtime.base.Runtime`."""

    # The protocol.

    def lock(
        self,
        name: str,
        *,
        fair: bool = False,  # noqa: ARG002 - any order may come, so also the fair one
        state: Callable[[], object] | None = None,
    ) -> XLock:
        return XLock(self, name, state)

    def event(self, name: str) -> XEvent:
        return XEvent(self, name)

    def cell(self, name: str, value: T) -> XCell[T]:
        return XCell(self, name, value)

    def shared(self, name: str, value: T) -> XShared[T]:
        if self.races is None:  # from the first one on, every access is looked at
            self.races = Races()
            self.races.attach(self)
        return XShared(self, name, value)

    def channel(self, name: str) -> tuple[XEnd, XEnd]:
        left, right = XEnd(self, f"{name}.left"), XEnd(self, f"{name}.right")
        left.peer, right.peer = right, left
        return left, right

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        def ready() -> list[int]:
            return [i for i, each in enumerate(waitables) if each.ready()]  # type: ignore[attr-defined]

        things: Sequence[Thing] = waitables  # type: ignore[assignment]  # all are this runtime's
        self.point("select", None, condition=lambda: bool(ready()), deadline=deadline, also=things)
        found = ready()
        for i in found:
            self.take_over(waitables[i])  # type: ignore[arg-type]
        self.observe(tuple(found))
        return [waitables[i] for i in found]

    def spawn(self, name: str, fn: Callable[[], None]) -> TaskHandle:
        group = None if self.current is None else self.current.group
        return TaskHandle(self, self._task(name, fn, group))

    def process(self, name: str, main: Callable[..., None], ends: Sequence[End]) -> ProcessHandle:
        group = Group(name)
        group.ends = [end for end in ends if isinstance(end, XEnd)]
        group.things = [each for end in group.ends for each in (end, end.peer)]
        self._task(name, lambda: main(self, *ends), group)
        return ProcessHandle(self, group)

    def choose(self, name: str, n: int) -> int:
        if n < 1:
            raise InternalError(f"choose {name}: nothing to choose from")
        if n == 1 or self.current is None or self.settling:
            return 0
        picked = self._strategy.value(self, name, n)
        self.observe(picked)
        self._record(f"{self.current.name}: choose {name}: {picked} of {n}")
        return picked

    def now(self) -> int:
        self.point("now", None)
        self.observe(self.time)
        return self.time

    def sleep_until(self, deadline: int) -> None:
        self.point("sleep", None, condition=lambda: False, deadline=deadline)

    def checkpoint(self, label: str) -> None:
        self.point(f"checkpoint {label}", None)

    def retain_only(self, *live: object, level: int = 0) -> None:
        task = self.current
        if self.forgetting and self.stateful and task is not None:
            task.kept = (*task.kept[:level], hash(plain(live)))
            task.history = hash(task.kept)

    def start_again(self, lock: XLock) -> None:
        """Let the current task know what it knew at `lock`."""
        task = self.current
        if self.forgetting and self.stateful and task is not None and lock.marks is not None:
            task.history, task.kept = lock.marks[task.index]

    # For scenarios.

    def event_of(self, name: str, act: Callable[[], None]) -> Task:
        """Let something happen once, at any point: a death, a fault, a time-out of the outside."""
        task = self._pseudo(name, "anything", lambda: None)

        def once() -> None:
            self._end(task)
            act()

        task.act = once
        return task

    def settle(self) -> None:
        """Run what was spawned so far until it rests, in one fixed order that is not explored.

        For the start-up of what is explored afterwards; call it from `Scenario.build`.
        """
        self.settling = True
        try:
            self.explore()
        finally:
            self.settling = False
            self.previous = None

    def may_die(self, process: ProcessHandle) -> None:
        """Let a process die at any point, up to its end."""
        group = process.group
        task = self.event_of(f"death of {process.name}", lambda: self.kill(group))
        task.kind = "death"
        task.condition = lambda: not group.ended()
        task.kills = group

    def attach(self, task: str, state: Callable[[], object]) -> None:
        """Say that `state` (hashable, touched by that task alone) belongs to the task's state."""
        for each in self.tasks:
            if each.name == task:
                each.extra = state
                return
        raise InternalError(f"no task {task}")

    def declare_private(self, *names: str) -> None:
        """Promise that each thing with such a name (``*`` for any text) has one user.

        Its operations are no points then.  A second user is a failure.  For cells and locks, and
        for events that nobody waits for.
        """
        for thing in self.things:
            thing.private = _named(thing.name, names) or thing.private

    def declare_unordered(self, *names: str) -> None:
        """Let such things order no accesses to shared values.

        Another party's locks do by accident only: a race that they hide is one all the same.
        """
        for thing in self.things:
            thing.blind = _named(thing.name, names) or thing.blind

    def declare_exclusive(self, task: str, names: str, alone: Callable[[], bool]) -> None:
        """Promise that nobody but `task` can come to use such a thing while `alone()` holds.

        Nobody, that is, before `task` itself does something else.  Its operations on them are no
        points meanwhile.  `alone` looks at what it likes; it is trusted, so compare the final
        states with and without it.
        """
        for thing in self.things:
            if _named(thing.name, (names,)):
                thing.alone = (task, alone)

    def declare_retry(self, lock: str, event: str) -> None:
        """Promise that who waits for `event` starts again at `lock`, knowing what it knew there.

        It has found under the lock that it must wait, and has learnt nothing else.  This is trusted
        as `retain_only` is.
        """
        guards = [thing for thing in self._locks() if thing.name == lock]
        for thing in self.things:
            if isinstance(thing, XEvent) and thing.name == event:
                (thing.retry,) = guards
                thing.retry.marks = {}

    def stop_clock(self) -> None:
        """Let no deadline pass: a lost wake-up must not hide behind a time-out."""
        self._clock = None

    def note(self, text: str, *, lane: str | None = None, to: str | None = None) -> None:
        """Say what was just done, for a story (`hfsched.explore.explain`); else nothing happens.

        `lane` is the actor, by default the current task; `to` makes it an arrow to another actor.
        """
        if self.recorder is not None:
            self.recorder.note(text, lane=lane, to=to)
