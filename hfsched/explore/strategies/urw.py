"""URW: a random walk that is uniform over interleavings, given the tasks' lengths.

Source: H. Zhao, D. Wolff, U. Mathur, A. Roychoudhury, "Selectively Uniform Concurrency Testing",
ASPLOS 2025 (URW, its first algorithm; nothing is selected).  A task runs with a probability that is
proportional to its remaining steps: the share of all interleavings that begin with it.

Where this differs:

- The lengths are not given, nor counted in one trial run: they are the means over all earlier
  executions of this search.  In the first execution all tasks have equal weight.
- A task with more steps than estimated counts as one with a single remaining step.
- The steps of a task that is not yet spawned are not counted, in the paper they count for its parent:
  scenarios spawn their tasks before the first step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["UniformWalk"]


class UniformWalk:
    """An unlimited number of executions, determined by a seed and the lengths of the earlier ones."""

    name = "urw"
    stateful = False
    every_point = True  # steps without a choice are counted too

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - schedules, no secrets
        self._lengths: dict[str, tuple[int, int]] = {}  # by name: steps, and the number of tasks
        # By the task's index, in this execution.
        self._names: list[str] = []
        self._left: list[float] = []  # at least 1: the weight
        self._steps: list[int] = []

    def begin(self) -> bool:
        self._names.clear()
        self._left.clear()
        self._steps.clear()
        return True

    def pick(
        self,
        view: View,
        current: Task | None,  # noqa: ARG002
        enabled: list[Task],
    ) -> Task:
        left = self._left
        if len(left) < len(view.tasks):
            self._add_tasks(view.tasks[len(left) :])
        chosen = enabled[-1]
        if len(enabled) > 1:
            total = 0.0
            for task in enabled:
                total += left[task.index]
            at = self._random.random() * total
            for task in enabled:
                at -= left[task.index]
                if at < 0:
                    chosen = task
                    break
        index = chosen.index
        self._steps[index] += 1
        left[index] = max(left[index] - 1, 1)
        return chosen

    def _add_tasks(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            steps, count = self._lengths.get(task.name, (1, 1))
            self._names.append(task.name)
            self._left.append(max(steps / count, 1))
            self._steps.append(0)

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        return self._random.randrange(n)

    def end(self, outcome: Outcome) -> None:
        if outcome.pruned:
            return
        for name, steps in zip(self._names, self._steps, strict=True):
            before, count = self._lengths.get(name, (0, 0))
            self._lengths[name] = (before + steps, count + 1)
