"""Shrinking a failing schedule to the fewest preemptions that still fail.

Source: delta debugging (A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", TSE 28(2), 2002) first, since it is quick; it sticks at schedules from which no part can be
left out.  Then preemption-bounded search from 0 upward (see `strategies.exhaustive`): the first
bound with a failure is the least, and the bounds below it, complete and clean, are the proof.

What counts as the same failure is `replay.kind`.  Two kinds need care in the search.  Data races
depend on who knows of what, which is no part of a state, so there it runs without the state cache.
And of code that does not end, a bounded search sees some cycles only, those without a preemption; it
may find a shorter schedule, but that it finds none proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import execute
from hfsched.explore.races import RaceError, Races
from hfsched.explore.replay import Finding, confirm, kind, run, schedule_of
from hfsched.explore.runtime import StepsExceededError
from hfsched.explore.schedule import Recording, Schedule
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario

__all__ = ["Shrunk", "shrink"]


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The shortest failure; `clean` is the highest bound proved to have none, -1 without any.

    `executions` is what all of it took, `searched` what the searches below the bounds took, and
    `states` the most that one of them has seen.
    """

    finding: Finding
    clean: int
    executions: int
    searched: int = 0
    states: int = 0

    @property
    def least(self) -> bool:
        """Whether no schedule with fewer preemptions fails."""
        return self.clean == self.finding.preemptions - 1

    @property
    def proof(self) -> str:
        """Whether it is the least, and how that is known, in words."""
        if self.finding.preemptions == 0:
            return "the least: no preemption is needed"
        if self.least:
            return (
                f"the least: complete and clean at {self.clean} preemptions, "
                f"{self.searched} executions, {self.states} states"
            )
        if _endless(self.finding.failure):
            return "perhaps not the least: of code that does not end that is not proved"
        return f"perhaps not the least: the search at {self.clean + 1} preemptions was not finished"


class _Shrinker:
    def __init__(self, scenario: Scenario, finding: Finding, over: Callable[[int], bool]) -> None:
        self.scenario = scenario
        self.best = finding
        self.wanted = kind(finding.failure)
        self.racing = isinstance(finding.failure, RaceError)
        self.executions = 0
        self.searched = 0
        self.states = 0
        self._over = over
        self._tried: set[Schedule] = set()

    def over(self) -> bool:
        return self._over(self.executions)

    def is_wanted(self, failure: BaseException | None) -> bool:
        return failure is not None and kind(failure) == self.wanted

    def fails(self, schedule: Schedule) -> tuple[Schedule, int] | None:
        """Return the schedule as it went, and its preemptions, if it fails in the same way."""
        if schedule in self._tried:
            return None
        self._tried.add(schedule)
        self.executions += 1
        again = run(self.scenario, schedule, strict=False, tracing=False)
        if not self.is_wanted(again.outcome.failure):
            return None
        went = schedule_of(again.recording, again.outcome, races=self.racing)
        return went, again.recording.preemptions

    def take(self, schedule: Schedule) -> bool:
        """Confirm a schedule and make it the best; False: it does not repeat."""
        self.executions += 2
        finding = confirm(self.scenario, schedule)
        if not self.is_wanted(finding.failure):
            return False
        self.best = finding
        return True

    def look_closer(self) -> None:
        """Look only for what has failed; where code does not end, for where it begins to go round."""
        schedule = replace(self.best.schedule, races=self.racing)
        if isinstance(self.best.failure, StepsExceededError):
            schedule = replace(schedule, stateful=True, cycles=True)
        if schedule != self.best.schedule and not self.over():
            found = self.fails(schedule)
            if found is not None:
                self.take(found[0])

    def leave_out(self) -> None:
        """Leave out what can be left out, in ever smaller parts."""
        schedule, preemptions = self.best.schedule, self.best.preemptions
        size, start, shorter = len(schedule.deviations), 0, False
        while not self.over():
            if start >= len(schedule.deviations):
                if not shorter:
                    if size <= 1:
                        break
                    size = size // 2
                start, shorter = 0, False
                continue
            found = self.fails(schedule.without(start, start + size))
            if found is not None and _weight(*found) < _weight(schedule, preemptions):
                schedule, preemptions = found
                shorter = True
            else:
                start += size
        if schedule != self.best.schedule:
            self.take(schedule)

    def search(self) -> int:
        """Search with 0, 1, 2 ... preemptions; return the highest bound that is clean."""
        clean = -1
        for bound in range(self.best.preemptions):
            if not self._search(bound):
                break
            if not _endless(self.best.failure):
                clean = bound
        return clean

    def _search(self, bound: int) -> bool:
        """Search with one bound, and take what fails; tell whether it is complete and clean."""
        search = Exhaustive(bound, cache=not self.racing)
        strategy = Recording(search)
        races = Races if self.racing else None
        try:
            while not self.over():
                if not strategy.begin():
                    return True
                self.executions += 1
                self.searched += 1
                outcome = execute(self.scenario, strategy, races=races)
                strategy.end(outcome)
                # Where code does not end, what is found may have more preemptions than the bound.
                if self.is_wanted(outcome.failure) and (
                    strategy.preemptions < self.best.preemptions
                ):
                    self.take(schedule_of(strategy, outcome, races=self.racing))
                    return False
            return False
        finally:
            self.states = max(self.states, search.states)


def _weight(schedule: Schedule, preemptions: int) -> tuple[int, int]:
    return preemptions, len(schedule.deviations)


def _endless(failure: BaseException) -> bool:
    return isinstance(failure, LivelockError | StepsExceededError)


def shrink(
    scenario: Scenario,
    finding: Finding,
    until: Callable[[int], bool] = lambda _n: False,
    *,
    budget: int | None = None,
) -> Shrunk:
    """Return the failure with the fewest preemptions.

    It takes at most `budget` executions, but for those that confirm the result; `until(executions)`
    may end it early too.
    """
    shrinker = _Shrinker(
        scenario,
        finding,
        until if budget is None else lambda n: n >= budget or until(n),
    )
    shrinker.look_closer()
    shrinker.leave_out()
    clean = shrinker.search()
    shrinker.leave_out()  # what is no preemption and need not be
    return Shrunk(shrinker.best, clean, shrinker.executions, shrinker.searched, shrinker.states)
