"""Random walk: at each point any enabled task, with equal probability.

The simplest strategy; it did well in Thomson, Donaldson, Betts, "Concurrency Testing Using Controlled
Schedulers: An Empirical Study", TOPC 2016.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["RandomWalk"]


class RandomWalk:
    """An unlimited number of executions, determined by a seed."""

    name = "random"
    stateful = False
    every_point = False

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - schedules, no secrets
        self._draw = self._random.random

    def begin(self) -> bool:
        return True

    def pick(
        self,
        view: View,  # noqa: ARG002
        current: Task | None,  # noqa: ARG002
        enabled: list[Task],
    ) -> Task:
        return enabled[int(self._draw() * len(enabled))]  # faster than choice()

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        return self._random.randrange(n)

    def end(self, outcome: Outcome) -> None:
        pass
