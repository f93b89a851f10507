"""A race detector for shared values: vector clocks.

Two accesses to a `Shared`, one of them a write, race when neither happens before the other.  They are
ordered by the order of steps in a task, by spawning, joining, locks, cells, events and channels, and by a
channel's end.  Locks whose
names match `ignored` order nothing: those of another party (the hypervisor's) order the scheduler's
accesses by accident only.

Source: C. Flanagan and S. Freund, "FastTrack", PLDI 2009 (the plain vector-clock algorithm that it
starts from).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.task import Group, Task
    from hfsched.explore.thing import Thing

__all__ = ["RaceError", "Races"]


class RaceError(Exception):
    """Two unordered accesses to a shared value."""


Clock = dict[int, int]


def _join(into: Clock, other: Clock) -> None:
    for index, time in other.items():
        if into.get(index, 0) < time:
            into[index] = time


class Races:
    """The clocks of one execution; see `ExploreRuntime`."""

    def __init__(self, ignored: Callable[[str], bool] = lambda _name: False) -> None:
        self._ignored = ignored
        self._controller: Controller | None = None
        self._reads: dict[int, Clock] = {}
        self._writes: dict[int, tuple[int, int]] = {}

    def attach(self, controller: Controller) -> None:
        """Attach the detector to an execution."""
        self._controller = controller
        for task in controller.tasks:
            task.clock[task.index] = 1

    def _current(self) -> Task | None:
        return None if self._controller is None else self._controller.current

    def spawned(self, task: Task, parent: Task | None) -> None:
        """Initialise the clock of a new task from its parent's."""
        if parent is not None:
            _join(task.clock, parent.clock)
            parent.clock[parent.index] = parent.clock.get(parent.index, 0) + 1
        task.clock[task.index] = 1

    def acquire(self, thing: Thing) -> None:
        """Join the clock of `thing` into the current task's."""
        task = self._current()
        if task is not None and not (thing.unordered or self._ignored(thing.name)):
            _join(task.clock, thing.clock)

    def release(self, thing: Thing) -> None:
        """Join the current task's clock into that of `thing`."""
        task = self._current()
        if task is not None and not (thing.unordered or self._ignored(thing.name)):
            _join(thing.clock, task.clock)
            task.clock[task.index] = task.clock.get(task.index, 0) + 1

    def joined(self, tasks: Iterable[Task]) -> None:
        """Order all that tasks have done, which have ended, before what the current task does now."""
        task = self._current()
        if task is not None:
            for each in tasks:
                if each.done:
                    _join(task.clock, each.clock)

    def ended(self, group: Group) -> None:
        """Order all that a process has done before the end that its channels' peers read."""
        for end in group.ends:
            for task in group.tasks:
                _join(end.peer.clock, task.clock)

    def read(self, value: Any) -> None:
        """Check a read of a shared value; raises RaceError."""
        task = self._current()
        if task is None:
            return
        self._check_last_write(task, value, "read")
        self._reads.setdefault(id(value), {})[task.index] = task.clock[task.index]

    def write(self, value: Any) -> None:
        """Check a write of a shared value; raises RaceError."""
        task = self._current()
        if task is None:
            return
        self._check_last_write(task, value, "write")
        for index, time in self._reads.get(id(value), {}).items():
            if index != task.index and task.clock.get(index, 0) < time:
                raise RaceError(self._message(task, value, "write", index, "read"))
        self._reads[id(value)] = {}
        self._writes[id(value)] = (task.index, task.clock[task.index])

    def _check_last_write(self, task: Task, value: Any, what: str) -> None:
        index, time = self._writes.get(id(value), (task.index, 0))
        if index != task.index and task.clock.get(index, 0) < time:
            raise RaceError(self._message(task, value, what, index, "write"))

    def _message(self, task: Task, value: Any, what: str, other: int, its: str) -> str:
        assert self._controller is not None
        name = self._controller.tasks[other].name
        return f"{value.name}: the {what} by {task.name} and the {its} by {name} are not ordered"
