"""The exploring runtime: greenlets, virtual time, and a strategy that chooses the next task.

The code explored is the production code; only its `Runtime` differs.  This module has the interface
for programs and scenarios; `hfsched.explore.controller` schedules and keeps the execution's state.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from hfsched.errors import InternalError
from hfsched.explore.canonical import SIZE
from hfsched.explore.controller import STEPS_MAX, Controller
from hfsched.explore.foreign import XConnection, XEventFd, XListener
from hfsched.explore.handles import ProcessHandle, TaskHandle
from hfsched.explore.lock import XLock
from hfsched.explore.objects import XCell, XEnd, XEvent, XShared
from hfsched.explore.races import Races
from hfsched.explore.task import Group, Task
from hfsched.explore.thing import Thing
from hfsched.runtime.base import guards_nothing

if TYPE_CHECKING:
    from hfsched.explore.again import Witness
    from hfsched.explore.explain.recorder import Recorder
    from hfsched.explore.strategy import Strategy
    from hfsched.explore.watch.watcher import Watcher
    from hfsched.runtime.base import End, Waitable

__all__ = ["ExploreRuntime"]

T = TypeVar("T")
F = TypeVar("F", bound=Thing)


@cache
def _named(name: str, patterns: tuple[str, ...]) -> bool:
    """Return whether one of the patterns (``*`` for any text) matches the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class ExploreRuntime:
    """One execution's runtime; see `hfsched.runtime.base.Runtime`.

    `tracing`, `races`, `joining`, `steps_max` and `witness` are the controller's.  With a `watcher` the accesses
    to plain state are checked for races (`hfsched.explore.watch`).  Without `forgetting`,
    `retain_only` and opaque calls have no effect, as under a strategy that compares no states.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        tracing: bool = False,
        races: Races | None = None,
        forgetting: bool = True,
        joining: bool = True,
        steps_max: int = STEPS_MAX,
        watcher: Watcher | None = None,
        witness: Witness | None = None,
    ) -> None:
        make: Callable[..., Controller] = Controller
        if watcher is not None:
            from hfsched.explore.watch.control import WatchedController  # noqa: PLC0415 - seldom used

            make = partial(WatchedController, watcher=watcher)
        self.controller = make(
            strategy,
            tracing=tracing,
            races=races,
            joining=joining,
            steps_max=steps_max,
            witness=witness,
        )
        self._watcher = watcher
        self.forgetting = forgetting and strategy.stateful
        self.recorder: Recorder | None = None  # records the story of this execution
        self._spawner_lost: XEvent | None = None
        self._descriptors: dict[int, Thing] = {}

    # The protocol.

    def lock(
        self,
        name: str,
        *,
        fair: bool = False,  # noqa: ARG002 - every order is explored, the fair one too
        state: Callable[[], object] | None = None,
    ) -> XLock:
        if state is None and self.controller.unkeyed is None:
            self.controller.unkeyed = name
        if state is None or state is guards_nothing:
            return XLock(self, name, None)
        return XLock(self, name, self._exempt(state))

    def _exempt(self, function: Callable[[], T]) -> Callable[[], T]:
        """Return a function that only looks at the state: its accesses are not watched."""
        return function if self._watcher is None else self._watcher.exempt(function)

    def event(self, name: str) -> XEvent:
        return XEvent(self, name)

    def cell(self, name: str, value: T) -> XCell[T]:
        return XCell(self, name, value)

    def flag(self, name: str, *, value: bool) -> XCell[bool]:
        return XCell(self, name, value)

    def shared(self, name: str, value: T) -> XShared[T]:
        if self.controller.races is None:  # from the first one on, every access is checked
            self.controller.races = Races()
            self.controller.races.attach(self.controller)
        return XShared(self, name, value)

    def channel(self, name: str) -> tuple[XEnd, XEnd]:
        left, right = XEnd(self, f"{name}.left"), XEnd(self, f"{name}.right")
        left.peer, right.peer = right, left
        return left, right

    def adopt_listener(self, name: str, fd: int) -> XListener:  # noqa: ARG002
        return self._adopt(fd, XListener)

    def adopt_connection(self, name: str, fd: int) -> XConnection:  # noqa: ARG002
        return self._adopt(fd, XConnection)

    def adopt_eventfd(self, name: str, fd: int) -> XEventFd:  # noqa: ARG002
        return self._adopt(fd, XEventFd)

    def _adopt(self, fd: int, kind: type[F]) -> F:
        found = self._descriptors.get(fd)
        if not isinstance(found, kind):
            raise OSError(errno.EBADF, f"descriptor {fd} is no {kind.__name__}")
        return found

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        def ready() -> list[int]:
            return [i for i, each in enumerate(waitables) if each.ready()]  # type: ignore[attr-defined]

        every: Sequence[Any] = waitables  # all are this runtime's
        things: list[Thing] = [getattr(each, "thing", each) for each in every]
        owners: list[Thing] = [getattr(each, "owner", each) for each in every]
        self.controller.point(
            "select",
            None,
            condition=lambda: bool(ready()) or any(thing.closer for thing in owners),
            deadline=deadline,
            also=things,
        )
        for owner in owners:
            owner.check_open("select")
        found = ready()
        for i in found:
            self.controller.take_over(things[i])
        self.controller.observe(tuple(found))
        return [waitables[i] for i in found]

    def spawn(self, name: str, fn: Callable[[], None]) -> TaskHandle:
        current = self.controller.current
        group = None if current is None else current.group
        return TaskHandle(self.controller, self.controller.spawn(name, fn, group))

    def process(self, name: str, main: Callable[..., None], ends: Sequence[End]) -> ProcessHandle:
        group = Group(name)
        group.ends = [end for end in ends if isinstance(end, XEnd)]
        for end in group.ends:
            end.holder = group
        group.things = [each for end in group.ends for each in (end, end.peer)]
        self.controller.spawn(name, lambda: main(self, *ends), group)
        return ProcessHandle(self.controller, group)

    @property
    def spawner_lost(self) -> XEvent:
        if self._spawner_lost is None:
            self._spawner_lost = XEvent(self, "spawner.lost")
        return self._spawner_lost

    def choose(self, name: str, n: int) -> int:
        if n < 1:
            raise InternalError(f"choose {name}: n must be at least 1, got {n}")
        controller = self.controller
        if n == 1 or controller.current is None or controller.settling:
            return 0
        picked = controller.value(name, n)
        controller.observe(picked)
        controller.record(f"{controller.current.name}: choose {name}: {picked} of {n}")
        return picked

    def now(self) -> int:
        controller = self.controller
        controller.point("now", None)
        controller.observe(controller.time)
        return controller.time

    def sleep_until(self, deadline: int) -> None:
        self.controller.point("sleep", None, condition=lambda: False, deadline=deadline)

    def checkpoint(self, label: str) -> None:
        self.controller.point(f"checkpoint {label}", None)

    def retain_only(self, *live: object, level: int = 0) -> None:
        task = self.controller.current
        if self.forgetting and self.controller.stateful and task is not None:
            live_key = self.controller.encoded(live, f"{task.name}: what it retains")
            task.retain(level, blake2b(live_key, digest_size=SIZE).digest())

    def start_again(self, lock: XLock) -> None:
        """Reset the current task's history to that at `lock`."""
        task = self.controller.current
        if (
            self.forgetting
            and self.controller.stateful
            and task is not None
            and lock.marks is not None
        ):
            task.recall(lock.marks[task.index])

    # For scenarios: the other side of foreign sockets and eventfds.

    def listener(self, name: str) -> XListener:
        """Return a socket that is connected to by `connect`."""
        return XListener(self, name)

    def eventfd(self, name: str) -> XEventFd:
        """Return an eventfd that both sides may use."""
        return XEventFd(self, name)

    def connection(
        self, name: str, *, packets: bool = True, capacity: int = 1 << 16, uid: int = 0
    ) -> tuple[XConnection, XConnection]:
        """Return both ends of a connection by a user; `capacity`: bytes that may be unread."""
        ends = [
            XConnection(self, f"{name}.{side}", packets=packets, capacity=capacity, uid=uid)
            for side in ("left", "right")
        ]
        ends[0].peer, ends[1].peer = ends[1], ends[0]
        return ends[0], ends[1]

    def connect(self, name: str, listener: XListener, **kind: Any) -> XConnection:
        """Connect to a listener, as `connection` does; raises ConnectionRefusedError."""
        mine, theirs = self.connection(name, **kind)
        listener.admit(theirs)
        return mine

    def descriptor(self, thing: XListener | XConnection | XEventFd) -> int:
        """Return a number that stands for a thing, and can be sent as a descriptor."""
        number = 1000 + len(self._descriptors)
        self._descriptors[number] = thing
        return number

    # For scenarios and their things.

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

    def lose_spawner(self) -> None:
        """Set `spawner_lost`, within a step (`event_of`): no process can be started any more."""
        self.spawner_lost.become_set()

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
