"""A runtime for tests in which nothing happens unless the test says so.

Tasks are greenlets.  Each operation that another task could tell apart is a point with a label;
`World.go` runs one task until it blocks, ends, or comes to a point whose label begins with what
the test asked for, and leaves it there.  So a test forces an interleaving by naming it::

    world.go("echo.0", until="ran 2.0 WaitForMessage")   # exited, and the mirror does not know yet
    harness.host.send(b"now")
    world.settle()

The test itself is not a task: its own operations never pause, and are a failure if they would
sleep.  Time stands still but for `advance`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

import pytest

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from hfsched.runtime.base import End, Process, Waitable

greenlet = pytest.importorskip("greenlet")

T = TypeVar("T")


class SpinningError(Exception):
    """More points were passed than a test without a loop in it can need."""


class WouldSleepError(Exception):
    """The test itself called something that sleeps."""


class TornError(Exception):
    """What a lock guards changed while no task held it."""


class WorldTask:
    """One task; `state` is new, ready, asleep or done."""

    def __init__(self, world: World, name: str, fn: Callable[[], None]) -> None:
        self.name = name
        self.world = world
        self.state = "ready"
        self.label = "new"
        self.until: Callable[[str], bool] | None = None
        self.deadline: int | None = None
        self.greenlet = greenlet.greenlet(fn)

    def join(self, deadline: int | None = None) -> bool:
        self.world.settle()
        return self.state == "done"


def wake(sleepers: list[WorldTask]) -> None:
    """Make every sleeper ready."""
    for task in sleepers:
        task.state = "ready"
    sleepers.clear()


class WorldLock:
    def __init__(self, world: World, name: str, state: Callable[[], object] | None) -> None:
        self._world = world
        self._name = name
        self._state = None if name.endswith(".hv") else state  # the scheduler's alone
        self._held = False
        self._sleepers: list[WorldTask] = []
        self._last: object = None
        self._released = False

    def __enter__(self) -> None:
        self._world.point(f"lock {self._name}")
        while self._held:
            self._world.sleep(self._sleepers, f"asleep {self._name}", None)
        self._held = True
        if self._released and self._state is not None and self._last != self._state():
            raise TornError(f"{self._name}: {self._last} became {self._state()}")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._state is not None:
            self._last = self._state()
        self._released = True
        self._held = False
        wake(self._sleepers)
        if kind is None:
            self._world.point(f"unlock {self._name}")

    def acquire(self) -> None:
        self.__enter__()

    def release(self) -> None:
        self.__exit__(None, None, None)


class WorldEvent:
    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self._world = world
        self._flag = False
        self.closed = False
        self._sleepers: list[WorldTask] = []

    def fileno(self) -> int:
        raise NotImplementedError

    def set(self) -> None:
        self._flag = True
        wake(self._sleepers)

    def clear(self) -> None:
        self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def wait(self, deadline: int | None = None) -> bool:
        world = self._world
        world.point(f"wait {self.name}")
        if self._flag:
            return True
        if deadline is not None and deadline <= world.time:
            return False
        return world.sleep(self._sleepers, f"asleep {self.name}", deadline)

    def close(self) -> None:
        assert not self._sleepers, f"{self.name} is closed, and somebody sleeps on it"
        self.closed = True


class WorldCell(Generic[T]):
    def __init__(self, world: World, name: str, value: T) -> None:
        self._world = world
        self._name = name
        self._value = value

    def get(self) -> T:
        self._world.point(f"get {self._name}")
        return self._value

    def set(self, value: T) -> None:
        self._world.point(f"set {self._name}")
        self._value = value

    def exchange(self, value: T) -> T:
        self._world.point(f"exchange {self._name}")
        old, self._value = self._value, value
        return old

    def compare_and_set(self, expected: T, value: T) -> bool:
        self._world.point(f"cas {self._name}")
        if self._value != expected:
            return False
        self._value = value
        return True


class WorldShared(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class World:
    """A `Runtime`; `limit` bounds the points of the whole test."""

    def __init__(self, limit: int = 20_000) -> None:
        self.hub = greenlet.getcurrent()
        self.time = 1_000_000
        self.events: list[WorldEvent] = []
        self.tasks: dict[str, WorldTask] = {}
        self.current: WorldTask | None = None
        self.steps = 0
        self.limit = limit

    # For the test.

    def go(self, name: str, until: str | None = None) -> str:
        """Run one task; return the label of the place where it stopped, or "done"."""
        task = self.tasks[name]
        task.until = None if until is None else lambda label: label.startswith(until)
        self._resume(task)
        return task.label

    def settle(self) -> None:
        """Run every task until all of them sleep or are done."""
        self.shuffle(None)

    def shuffle(self, order: random.Random | None) -> None:
        """Like `settle`, but the task may change at every point, as `order` has it."""
        while ready := [task for task in self.tasks.values() if task.state == "ready"]:
            task = ready[0] if order is None else order.choice(ready)
            task.until = None if order is None else lambda _: True
            self._resume(task)

    def advance(self, ns: int) -> None:
        """Let time pass: who slept to a deadline that is over is awake."""
        self.time += ns
        for task in self.tasks.values():
            if task.state == "asleep" and task.deadline is not None and task.deadline <= self.time:
                task.state = "ready"

    def asleep(self) -> list[str]:
        """Return the names of the tasks that sleep."""
        return [task.name for task in self.tasks.values() if task.state == "asleep"]

    def close(self) -> None:
        """Throw away what is not done."""
        for task in self.tasks.values():
            task.until = None
            self.steps = -self.limit
            if task.state != "done":
                self.current = task
                task.greenlet.throw()
                self.current = None

    def _resume(self, task: WorldTask) -> None:
        assert self.current is None, "only the test resumes tasks"
        if task.state != "ready":
            return
        self.current = task
        try:
            task.greenlet.switch()
        except BaseException:
            task.state = "done"
            raise
        finally:
            self.current = None
        if task.greenlet.dead:
            task.state = "done"
            task.label = "done"

    def point(self, label: str) -> None:
        """Pass a point, or stay there for now."""
        task = self.current
        if task is None:
            return
        self.steps += 1
        if self.steps > self.limit:
            self.current = None
            self.hub.throw(SpinningError(f"{task.name} at {label}"))
        if task.until is not None and task.until(label):
            task.label = label
            self.hub.switch()

    def sleep(self, sleepers: list[WorldTask], label: str, deadline: int | None) -> bool:
        """Sleep in a list until `wake` or the deadline; tell whether it was `wake`."""
        task = self.current
        if task is None:
            raise WouldSleepError(label)
        sleepers.append(task)
        task.state = "asleep"
        task.deadline = deadline
        task.label = label
        try:
            self.hub.switch()
        finally:
            task.deadline = None
            woken = task not in sleepers
            if not woken:
                sleepers.remove(task)
        return woken

    # The runtime.

    def lock(
        self, name: str, *, fair: bool = False, state: Callable[[], object] | None = None
    ) -> WorldLock:
        return WorldLock(self, name, state)

    def event(self, name: str) -> WorldEvent:
        event = WorldEvent(self, name)
        self.events.append(event)
        return event

    def cell(self, name: str, value: T) -> WorldCell[T]:
        return WorldCell(self, name, value)

    def shared(self, name: str, value: T) -> WorldShared[T]:
        return WorldShared(value)

    def channel(self, name: str) -> tuple[End, End]:
        raise NotImplementedError

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        raise NotImplementedError

    def spawn(self, name: str, fn: Callable[[], None]) -> WorldTask:
        assert name not in self.tasks, name
        task = self.tasks[name] = WorldTask(self, name, fn)
        return task

    def process(self, name: str, main: Callable[..., None], ends: Sequence[End]) -> Process:
        raise NotImplementedError

    def choose(self, name: str, n: int) -> int:
        return 0

    def now(self) -> int:
        return self.time

    def sleep_until(self, deadline: int) -> None:
        raise NotImplementedError

    def checkpoint(self, label: str) -> None:
        self.point(f"checkpoint {label}")

    def retain_only(self, *live: Any, level: int = 0) -> None:
        pass
