"""The point of no return: the first decision of a failing schedule after which all schedules fail.

If every continuation of a prefix fails, so does every continuation of a longer prefix; so the point is
found by bisection.  Each probe is an exhaustive search of the continuations of a prefix, stopped by the
first execution without a failure.  A probe that exceeds its budget counts as "may succeed": the point
found may then come later than the first, but that every schedule from there fails is proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.explore.execution import execute
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.scenario import Scenario
    from hfsched.explore.strategy import Strategy, View
    from hfsched.explore.task import Task

__all__ = ["Replayed", "point_of_no_return"]

STEPS_MAX = 60_000  # the budget of one probe, in steps


class Replayed:
    """Repeats `decisions`; after the last one, decides as `then` does.

    `decisions` has an entry for each point, also where there was no choice: the task's index, or
    the value chosen.
    """

    name = "replayed"
    every_point = True

    def __init__(self, decisions: Sequence[int], then: Strategy | None = None) -> None:
        self._decisions = decisions
        self._then = then
        self._at = 0
        self.stateful = then is not None and then.stateful

    def begin(self) -> bool:
        """See `Strategy.begin`."""
        self._at = 0
        return self._then is None or self._then.begin()

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """See `Strategy.pick`."""
        if self._at < len(self._decisions):
            wanted = self._decisions[self._at]
            self._at += 1
            for task in enabled:
                if task.index == wanted:
                    return task
            raise UserError("the scenario is not deterministic: the same schedule runs differently")
        if self._then is not None and (len(enabled) > 1 or self._then.every_point):
            return self._then.pick(view, current, enabled)
        return enabled[0]

    def value(self, view: View, name: str, n: int) -> int:
        """See `Strategy.value`."""
        if self._at < len(self._decisions):
            self._at += 1
            return self._decisions[self._at - 1]
        return 0 if self._then is None else self._then.value(view, name, n)

    def end(self, outcome: Outcome) -> None:
        """See `Strategy.end`."""
        if self._then is not None:
            self._then.end(outcome)


def point_of_no_return(scenario: Scenario, decisions: Sequence[int]) -> int | None:
    """Return the index of the decision after which every schedule fails; `decisions` fail.

    None if every schedule of the scenario fails.
    """
    if _always_fails(scenario, decisions[:0]):
        return None
    # A continuation of the first `low` decisions may succeed, all of the first `high` fail.
    low, high = 0, len(decisions)
    while high - low > 1:
        middle = (low + high) // 2
        if _always_fails(scenario, decisions[:middle]):
            high = middle
        else:
            low = middle
    return high - 1


def _always_fails(scenario: Scenario, prefix: Sequence[int]) -> bool:
    """Return whether it is proved that every schedule with this prefix fails."""
    strategy = Replayed(prefix, Exhaustive())
    steps = 0
    while strategy.begin():
        outcome = execute(scenario, strategy)
        if outcome.failure is None and not outcome.pruned:
            return False
        strategy.end(outcome)
        steps += outcome.steps
        if steps > STEPS_MAX:
            return False
    return True
