"""Following the prefix of an execution that was run before, step by step, without asking the strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.explore.schedule import NondeterminismError

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.schedule import Prefix
    from hfsched.explore.task import Task

__all__ = ["Following"]


class Following:
    """What is left of a prefix, the next one last: tasks by index, and numbers chosen."""

    def __init__(self, prefix: Prefix | None) -> None:
        self.steps = [] if prefix is None else list(reversed(prefix.steps))
        self.values = [] if prefix is None else list(reversed(prefix.values))

    def next(self, controller: Controller) -> Task:
        """Return the next task, which must be enabled as it was; raises NondeterminismError."""
        index = self.steps.pop()
        tasks = controller.tasks
        if index < len(tasks):
            task = tasks[index]
            if task is controller.clock:
                if controller.table.next_deadline(controller.time) is not None:
                    return task
            elif not task.done and (task.condition is None or task.enabled(controller.time)):
                return task
        name = tasks[index].name if index < len(tasks) else "a further task"
        raise NondeterminismError(
            f"two runs of the same schedule differ: at step {controller.steps} the first ran {name},"
            " which the second cannot"
        )

    def chose(self, name: str, step: int) -> NondeterminismError:
        """Return the error of a choice of a number that was not there."""
        return NondeterminismError(
            f"two runs of the same schedule differ: at step {step} the second chooses {name},"
            " which the first did not"
        )
