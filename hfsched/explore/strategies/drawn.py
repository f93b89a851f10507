"""A schedule that somebody else has drawn, as deviations from the default one.

Each deviation is {decisions to skip, index among the other enabled tasks}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["Drawn"]


class Drawn:
    """Decides one execution by drawn deviations."""

    name = "drawn"
    stateful = False
    every_point = False

    def __init__(self, deviations: list[tuple[int, int]]) -> None:
        self._at: dict[int, int] = {}
        at = -1
        for gap, choice in deviations:
            at += 1 + gap
            self._at[at] = choice
        self._decisions = 0

    def begin(self) -> bool:
        """See `Strategy`."""
        return True

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:  # noqa: ARG002
        """See `Strategy`."""
        if len(enabled) == 1:
            return enabled[0]
        choice = self._at.get(self._decisions)
        self._decisions += 1
        usual = current or enabled[0]
        if choice is None:
            return usual
        others = [task for task in enabled if task is not usual]
        return others[choice % len(others)]

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        """See `Strategy`."""
        choice = self._at.get(self._decisions, 0)
        self._decisions += 1
        return choice % n

    def end(self, outcome: Outcome) -> None:
        """See `Strategy`."""
