"""POS: a random priority for each pending operation, and a new one when it has lost a race.

Source: X. Yuan, J. Yang, R. Gu, "Partial Order Aware Concurrency Sampling", CAV 2018 (POS, without
the variant with a bound on the depth).  Independent operations are ordered once, so the partial
orders are sampled more evenly than by a random walk, which favours short tasks.

Where this differs:

- A step here may contain more than its operation (a lock and the first access inside it); its further
  accesses are known after it, and the priorities of operations that race with them are drawn again.
- A yield races with everything, and so does each step beyond `FAIR_AFTER`.  Otherwise a pending
  operation would wait n iterations of a spinning task with a probability of 1 / (n + 1).
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hfsched.explore.strategies import FAIR_AFTER, YIELD
from hfsched.explore.task import dependent, touches

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["POS"]


class POS:
    """An unlimited number of executions, determined by a seed."""

    name = "pos"
    stateful = False
    every_point = True  # the only enabled operation has a successor too

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - schedules, no secrets
        self._step = 0
        self._priorities: list[float] = []  # of the task's pending operation, by the task's index

    def begin(self) -> bool:
        self._step = 0
        self._priorities.clear()
        return True

    def pick(
        self,
        view: View,
        current: Task | None,  # noqa: ARG002
        enabled: list[Task],
    ) -> Task:
        priorities = self._priorities
        draw = self._random.random
        while len(priorities) < len(view.tasks):
            priorities.append(draw())
        if len(enabled) == 1:
            priorities[enabled[0].index] = draw()  # that of its next operation
            return enabled[0]
        touched = view.touched
        if touched:
            for task in enabled:
                if touches(task, touched):
                    priorities[task.index] = draw()
        best = enabled[0]
        highest = priorities[best.index]
        for task in enabled:
            if priorities[task.index] > highest:
                best = task
                highest = priorities[task.index]
        self._step += 1
        everything = best.kind == YIELD or self._step > FAIR_AFTER
        for task in enabled:
            if task is best or everything or dependent(task, best):
                priorities[task.index] = draw()
        return best

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        return self._random.randrange(n)

    def end(self, outcome: Outcome) -> None:
        pass
