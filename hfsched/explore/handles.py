"""Handles of tasks and processes, returned by the exploring runtime's `spawn` and `process`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hfsched.explore.deadlocks import find_cycle

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.task import Group, Task

__all__ = ["ProcessHandle", "TaskHandle"]


@contextmanager
def _awaiting(
    controller: Controller, kind: str, tasks: Sequence[Task], deadline: int | None
) -> Iterator[None]:
    """Wait, inside the ``with``, for the end of tasks; a wait that cannot end is a deadlock."""
    task = controller.current
    if task is None or controller.stopping:
        yield
        return
    task.awaits = tasks
    if deadline is None and not all(each.done for each in tasks):
        task.kind, task.thing, task.also, task.deadline = kind, None, (), None
        deadlock = find_cycle(task)
        if deadlock is not None:
            controller.fail(deadlock)
    yield
    task.awaits = ()
    if controller.races is not None:
        controller.races.joined(tasks)


class TaskHandle:
    """See `hfsched.runtime.base.Task`."""

    def __init__(self, controller: Controller, task: Task) -> None:
        self._controller = controller
        self.task = task
        self.name = task.name

    def join(self, deadline: int | None = None) -> bool:
        task = self.task
        with _awaiting(self._controller, "join", [task], deadline):
            self._controller.point("join", None, condition=lambda: task.done, deadline=deadline)
        self._controller.observe(task.done)
        if task.done and self._controller.races is not None:
            self._controller.races.joined((task,))
        return task.done

    def processor_time(self) -> None:
        return None


class ProcessHandle:
    """See `hfsched.runtime.base.Process`."""

    def __init__(self, controller: Controller, group: Group) -> None:
        self._controller = controller
        self.group = group
        self.name = group.name

    def kill(self) -> None:
        self._controller.point("anything", None, write=True)
        self._controller.kill(self.group)

    def join(self, deadline: int | None = None) -> bool:
        with _awaiting(self._controller, "anything", self.group.tasks, deadline):
            self._controller.point("anything", None, condition=self.group.ended, deadline=deadline)
        self._controller.observe(self.group.ended())
        self._order()
        return self.group.ended()

    def _order(self) -> None:
        """Order what an ended process did before what the current task does from here on."""
        if self.group.ended() and self._controller.races is not None:
            self._controller.races.joined(self.group.tasks)

    @property
    def pid(self) -> None:
        return None

    @property
    def exit_status(self) -> int | None:
        self._controller.point("anything", None)
        if self._controller.races is not None:
            self._controller.races.joined(self.group.tasks)
        status = (-9 if self.group.dead else 0) if self.group.ended() else None
        self._controller.observe(status)
        self._order()
        return status
