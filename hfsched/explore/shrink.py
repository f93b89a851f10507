"""Shrinking a failing schedule to the fewest preemptions that still fail.

Source: delta debugging (A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", TSE 28(2), 2002) first, since it is quick; it sticks at schedules from which no part can be
left out.  Then preemption-bounded search from 0 upward (see `strategies.exhaustive`): the first
bound with a failure is the least, and the bounds below it, complete and clean, are the proof.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.explore.execution import execute
from hfsched.explore.races import Races
from hfsched.explore.replay import Finding, confirm, kind, run, schedule_of
from hfsched.explore.schedule import Recording, Schedule
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario

__all__ = ["Shrunk", "shrink"]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The shortest failure; `clean` is the highest bound proved to have none, -1 without any.

    It is the least when `clean` is one less than its preemptions.
    """

    finding: Finding
    clean: int
    executions: int

    @property
    def least(self) -> bool:
        """Whether no schedule with fewer preemptions fails."""
        return self.clean == self.finding.preemptions - 1


class _Shrinker:
    def __init__(self, scenario: Scenario, finding: Finding, until: Callable[[int], bool]) -> None:
        self.scenario = scenario
        self.best = finding
        self.wanted = kind(finding.failure)
        self.until = until
        self.executions = 0

    def over(self) -> bool:
        return self.until(self.executions)

    def fails(self, schedule: Schedule) -> tuple[Schedule, int] | None:
        """Return the schedule as it went, and its preemptions, if it fails in the same way."""
        self.executions += 1
        outcome, recording, _ = run(self.scenario, schedule, strict=False)
        if outcome.failure is None or kind(outcome.failure) != self.wanted:
            return None
        return schedule_of(recording, outcome, races=schedule.races), recording.preemptions

    def take(self, schedule: Schedule) -> None:
        self.best = confirm(self.scenario, schedule)

    def leave_out(self) -> None:
        """Leave out what can be left out, in ever smaller parts."""
        schedule, preemptions = self.best.schedule, self.best.preemptions
        size = max(1, len(schedule.deviations) // 2)
        while not self.over():
            found = None
            for start in range(0, len(schedule.deviations), size):
                found = self.fails(schedule.without(set(range(start, start + size))))
                if found is not None and _weight(*found) < _weight(schedule, preemptions):
                    break
                found = None
                if self.over():
                    break
            if found is not None:
                schedule, preemptions = found
            elif size == 1:
                break
            else:
                size //= 2
        self.take(schedule)

    def search(self) -> int:
        """Search with 0, 1, 2 ... preemptions; return the highest bound that is clean."""
        for bound in range(self.best.preemptions):
            strategy = Recording(Exhaustive(bound))
            while not self.over():
                if not strategy.begin():
                    break
                self.executions += 1
                outcome = execute(
                    self.scenario,
                    strategy,
                    races=Races if self.best.schedule.races else None,
                )
                strategy.end(outcome)
                if outcome.failure is not None and kind(outcome.failure) == self.wanted:
                    races = self.best.schedule.races
                    self.take(schedule_of(strategy, outcome, races=races))
                    return bound - 1
            else:
                return bound - 1
        return self.best.preemptions - 1


def _weight(schedule: Schedule, preemptions: int) -> tuple[int, int]:
    return preemptions, len(schedule.deviations)


def shrink(
    scenario: Scenario, finding: Finding, until: Callable[[int], bool] = lambda _n: False
) -> Shrunk:
    """Return the failure with the fewest preemptions; `until(executions)` may end it early."""
    shrinker = _Shrinker(scenario, finding, until)
    shrinker.leave_out()
    clean = shrinker.search()
    if clean >= 0:
        shrinker.leave_out()  # what is no preemption and need not be
    return Shrunk(shrinker.best, clean, shrinker.executions)
