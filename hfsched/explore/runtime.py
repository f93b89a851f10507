"""The exploring runtime: greenlets, virtual time, and a strategy that chooses the next task.

The code explored is the production code; only its `Runtime` differs.  This module has the interface
for programs, and the other side of their sockets; `hfsched.explore.scenarioside` what else scenarios use.
`hfsched.explore.controller` schedules, `hfsched.explore.executionstate` has the execution's state.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from hfsched.errors import InternalError, UserError
from hfsched.explore.canonical import SIZE
from hfsched.explore.controller import STEPS_MAX, Controller
from hfsched.explore.foreign import XConnection, XEventFd, XListener
from hfsched.explore.handles import ProcessHandle, TaskHandle
from hfsched.explore.lock import XLock
from hfsched.explore.objects import XCell, XEnd, XEvent, XShared
from hfsched.explore.races import Races
from hfsched.explore.scenarioside import ScenarioSide
from hfsched.explore.task import Group
from hfsched.explore.thing import Thing
from hfsched.runtime.base import guards_nothing

if TYPE_CHECKING:
    from hfsched.explore.again import Witness
    from hfsched.explore.strategy import Strategy
    from hfsched.explore.watch.watcher import Watcher
    from hfsched.runtime.base import End, Waitable

__all__ = ["ExploreRuntime"]

T = TypeVar("T")
F = TypeVar("F", bound=Thing)


class ExploreRuntime(ScenarioSide):
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
        controller = make(
            strategy,
            tracing=tracing,
            races=races,
            joining=joining,
            steps_max=steps_max,
            witness=witness,
        )
        super().__init__(controller, watcher)
        self.forgetting = forgetting and strategy.stateful
        self._spawner_lost: XEvent | None = None
        self._descriptors: dict[int, Thing] = {}

    # The protocol.

    def lock(
        self,
        name: str,
        *,
        state: Callable[[], object] | None = None,
    ) -> XLock:
        if state is None and self.controller.unkeyed is None:
            self.controller.unkeyed = name
        if state is None or state is guards_nothing:
            return XLock(self, name, None)
        if not callable(state):
            raise UserError(
                f"lock {name}: state= is {type(state).__name__}, which cannot be called"
            )
        return XLock(self, name, self._exempt(state))

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

    def adopt_end(self, name: str, fd: int) -> XEnd:  # noqa: ARG002
        return self._adopt(fd, XEnd)

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

    def process(
        self,
        name: str,
        main: Callable[..., None],
        ends: Sequence[End],
        *,
        outlives: bool = False,  # noqa: ARG002 - each dies by itself
    ) -> ProcessHandle:
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

    def lose_spawner(self) -> None:
        """Set `spawner_lost`, within a step (`event_of`): no process can be started any more."""
        self.spawner_lost.become_set()

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
            found = tuple(each() if isinstance(each, MethodType) else each for each in live)
            live_key = self.controller.encoded(found, f"{task.name}: what it retains")
            self.controller.forgotten = True
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
            self.controller.forgotten = True
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
