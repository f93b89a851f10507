"""Shrinking a failing schedule to the fewest preemptions that still fail.

Source: delta debugging (A. Zeller and R. Hildebrandt, "Simplifying and Isolating Failure-Inducing
Input", TSE 28(2), 2002) first, since it is quick; it ends at schedules from which no part can be
removed.  Then preemption-bounded search from 0 upward (see `strategies.exhaustive`): the first bound
with a failure is the minimum, and the complete searches below it, without a failure, are the proof.

What a lock without `state` guards is no part of a state either, so that search too has no cache then.

Failures are the same if `replay.kind` is.  Three kinds need care.  Data races depend on vector
clocks, which are no part of a state, so the search for them runs without the state cache.  Of
livelocks the search sees those whose cycle has no preemption; it may find a shorter schedule, but
finding none proves nothing.  And an execution that exceeds the step limit is a livelock only if a
state repeats: else, removing the deviations that let other tasks run would starve those, and "fail".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfsched.explore.controller import StepsExceededError
from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import execute
from hfsched.explore.races import RaceError
from hfsched.explore.replay import Finding, code_of, confirm, kind, run, schedule_of, watcher_of
from hfsched.explore.schedule import Recording, Schedule
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watchdog import StuckError
from hfsched.text import count

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario

__all__ = ["Shrunk", "shrink"]

CONFIRM = 2  # executions that `confirm` takes
# The step limit of a livelock's executions: this multiple of the steps of the first, plus a margin.
STEPS_FACTOR = 4
STEPS_MARGIN = 100


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The failure with the fewest preemptions; `clean` is the highest bound proved to have none, or -1.

    `executions` is the total number; `searched` of them, which have visited `states`, are the search
    that proves `clean`.
    """

    finding: Finding
    clean: int
    executions: int
    searched: int = 0
    states: int = 0

    @property
    def minimal(self) -> bool:
        """Whether no schedule with fewer preemptions fails."""
        return self.clean == self.finding.preemptions - 1

    @property
    def proof(self) -> str:
        """Whether it is minimal, and the reason, as text."""
        if self.finding.preemptions == 0:
            return "minimal: it fails without preemptions"
        if self.minimal:
            bound = count(self.clean, "preemption")
            most = f"at most {bound}" if self.clean else bound
            return (
                f"minimal: no schedule with {most} fails "
                f"({count(self.searched, 'execution')}, {count(self.states, 'state')})"
            )
        if isinstance(self.finding.failure, StuckError):
            return "not shrunk: each execution takes seconds"
        if isinstance(self.finding.failure, StepsExceededError):
            return "not shrunk: the step limit was exceeded, and no state repeats"
        if isinstance(self.finding.failure, LivelockError):
            return "not proved minimal: the search does not cover every livelock"
        bound = count(self.clean + 1, "preemption")
        return f"not proved minimal: the search with at most {bound} was not finished"


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
        self._limit: int | None = None  # points of an execution
        self._comparing = not self.racing  # states say all that matters

    def over(self) -> bool:
        return self._over(self.executions)

    def is_wanted(self, failure: BaseException | None) -> bool:
        return failure is not None and kind(failure) == self.wanted

    def fails(self, schedule: Schedule) -> tuple[Schedule, int] | None:
        """Return the schedule as executed, and its preemptions, if it fails in the same way."""
        if schedule in self._tried:
            return None
        self._tried.add(schedule)
        self.executions += 1
        again = run(self.scenario, schedule, strict=False, tracing=False, limit=self._limit)
        self._comparing &= again.outcome.unkeyed is None
        if not self.is_wanted(again.outcome.failure):
            return None
        executed = schedule_of(again.recording, again.outcome, races=self.racing)
        return executed, again.recording.preemptions

    def accept(self, schedule: Schedule) -> bool:
        """Confirm a schedule and make it the best; return whether it is reproducible."""
        self.executions += CONFIRM
        finding = confirm(self.scenario, schedule)
        if not self.is_wanted(finding.failure):
            return False
        self.best = finding
        return True

    def locate_cycle(self) -> bool:
        """Find the cycle of an execution that does not end; return whether shrinking is possible."""
        failure = self.best.failure
        if not isinstance(failure, LivelockError | StepsExceededError):
            return True
        schedule = replace(self.best.schedule, stateful=True, cycles=True)
        if self.over():
            return False
        self.executions += 1
        again = run(self.scenario, schedule, strict=False, tracing=False)
        if not isinstance(again.outcome.failure, LivelockError):
            return False
        self.wanted = kind(again.outcome.failure)
        self._limit = STEPS_FACTOR * again.outcome.steps + STEPS_MARGIN
        return self.accept(schedule_of(again.recording, again.outcome))

    def minimize(self) -> None:
        """Remove deviations, in ever smaller parts, as long as the schedule fails."""
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
            self.accept(schedule)

    def search(self) -> int:
        """Search with 0, 1, 2 ... preemptions; return the highest bound that is clean."""
        clean, bound = -1, 0
        while bound < self.best.preemptions and self._search(bound):
            if not isinstance(self.best.failure, LivelockError):
                clean = bound
            bound += 1
        return clean

    def _search(self, bound: int) -> bool:
        """Search with one bound, and accept a failure; return whether it is complete without one.

        Inside a cycle the search runs all tasks in turn, beyond the bound; a failure found there is
        accepted if it is better, but is no failure within the bound.
        """
        search = Exhaustive(bound, cache=self._comparing and not self.best.schedule.watched)
        strategy = Recording(search)
        before = self.executions
        taken = 0  # executions that confirm
        while not self.over():
            if not strategy.begin():
                self.searched, self.states = self.executions - before - taken, search.states
                return True
            self.executions += 1
            watcher = watcher_of(self.best.schedule)
            outcome = execute(self.scenario, strategy, watcher=watcher)
            strategy.end(outcome)
            if self._comparing and outcome.unkeyed is not None:
                self._comparing = False
                return self._search(bound)
            if not self.is_wanted(outcome.failure):
                continue
            within = strategy.preemptions <= bound
            if within or strategy.preemptions < self.best.preemptions:
                self.accept(schedule_of(strategy, outcome, races=self.racing))
                taken += CONFIRM
            if within:
                return False
        return False


def _weight(schedule: Schedule, preemptions: int) -> tuple[int, int]:
    return preemptions, len(schedule.deviations)


def shrink(
    scenario: Scenario,
    finding: Finding,
    until: Callable[[int], bool] = lambda _n: False,
    *,
    budget: int | None = None,
) -> Shrunk:
    """Return the failure with the fewest preemptions.

    It takes at most `budget` executions, besides those that confirm the result; `until(executions)`
    may end it early too.
    """
    shrinker = _Shrinker(
        scenario,
        finding,
        until if budget is None else lambda n: n >= budget or until(n),
    )
    clean = -1
    with code_of(finding.schedule):
        if not isinstance(finding.failure, StuckError) and shrinker.locate_cycle():
            shrinker.minimize()
            clean = shrinker.search()
            shrinker.minimize()  # deviations that are no preemptions
    return Shrunk(shrinker.best, clean, shrinker.executions, shrinker.searched, shrinker.states)
