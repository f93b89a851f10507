"""What the exploring runtime's `spawn` and `process` return."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Group, Task

__all__ = ["ProcessHandle", "TaskHandle"]


class TaskHandle:
    """What `spawn` returns."""

    def __init__(self, runtime: ExploreRuntime, task: Task) -> None:
        self._runtime = runtime
        self.task = task
        self.name = task.name

    def join(self, deadline: int | None = None) -> bool:
        task = self.task
        self._runtime.point("join", None, condition=lambda: task.done, deadline=deadline)
        self._runtime.observe(task.done)
        return task.done


class ProcessHandle:
    """What `process` returns."""

    def __init__(self, runtime: ExploreRuntime, group: Group) -> None:
        self._runtime = runtime
        self.group = group
        self.name = group.name

    def kill(self) -> None:
        self._runtime.point("anything", None, write=True)
        self._runtime.kill(self.group)

    def join(self, deadline: int | None = None) -> bool:
        self._runtime.point("anything", None, condition=self.group.ended, deadline=deadline)
        self._runtime.observe(self.group.ended())
        return self.group.ended()

    @property
    def pid(self) -> None:
        return None

    @property
    def exit_status(self) -> int | None:
        self._runtime.point("anything", None)
        status = (-9 if self.group.dead else 0) if self.group.ended() else None
        self._runtime.observe(status)
        return status
