"""PCT: random priorities, and few change points at which the highest one is lowered.

Source: S. Burckhardt, P. Kothari, M. Musuvathi, S. Nagarakatte, "A Randomized Scheduler with
Probabilistic Guarantees of Finding Bugs", ASPLOS 2010: a bug of depth d in a program of n tasks and
k steps is found by each execution with a probability of at least 1 / (n k^(d-1)).

Where this differs:

- k is not given but estimated: it is the maximum of the earlier executions.  The guarantee holds once
  k has been reached; the first execution has no change point.
- A step is a point at which more than one task is enabled (section 4.1 of the paper: a change during
  a sequential phase has the effect of one at its end).  The first one needs no change either.
- The task is lowered before the step of a change point, and another one runs at that step.
- A task that yields gets the lowest priority, and beyond `FAIR_AFTER` steps each task does after its
  step (the paper leaves tasks that spin to a heuristic): else a task that waits by spinning would
  starve the task that it waits for.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hfsched.explore.strategies import FAIR_AFTER, YIELD

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["PCT"]


class PCT:
    """An unlimited number of executions, determined by a seed; each has `depth` - 1 change points."""

    name = "pct"
    stateful = False
    every_point = False

    def __init__(self, seed: int, depth: int = 3) -> None:
        self._random = random.Random(seed)  # noqa: S311 - schedules, no secrets
        self.depth = depth
        self._longest = 0  # the estimate of k, at most PATIENCE
        self._step = 0
        self._changes: dict[int, int] = {}  # step -> the priority that it gives
        # By the task's index.  Initial ones are in [depth, depth + 1), those given at change points in
        # [1, depth), and those of tasks that have yielded are lower, the last one lowest.
        self._priorities: list[float] = []
        self._lowest = 0

    def begin(self) -> bool:
        self._step = 0
        self._priorities.clear()
        self._lowest = 0
        steps = range(1, self._longest)
        points = self._random.sample(steps, min(self.depth - 1, len(steps)))
        self._changes = {step: priority for priority, step in enumerate(points, 1)}
        return True

    def pick(
        self,
        view: View,
        current: Task | None,  # noqa: ARG002
        enabled: list[Task],
    ) -> Task:
        priorities = self._priorities
        while len(priorities) < len(view.tasks):
            priorities.append(self.depth + self._random.random())
        best = self._highest(enabled)
        step = self._step
        self._step = step + 1
        change = self._changes.get(step)
        if change is not None:
            priorities[best.index] = change
            best = self._highest(enabled)
        if best.kind == YIELD or step >= FAIR_AFTER:
            self._lowest -= 1
            priorities[best.index] = self._lowest
        return best

    def _highest(self, enabled: list[Task]) -> Task:
        priorities = self._priorities
        best = enabled[0]
        highest = priorities[best.index]
        for task in enabled:
            if priorities[task.index] > highest:
                best = task
                highest = priorities[task.index]
        return best

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        return self._random.randrange(n)

    def end(self, outcome: Outcome) -> None:  # noqa: ARG002
        self._longest = max(self._longest, min(self._step, FAIR_AFTER))
