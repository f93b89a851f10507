"""A whole campaign: search in this process, in a pool of processes, or on a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Found, Report, Task, failed, found_of, perform
from hfsched.explore.registry import find
from hfsched.explore.replay import confirm, schedule_of
from hfsched.explore.watch.racepass import RacePass, race_pass

__all__ = ["Campaign", "Summary"]

RACES_BUDGET_MIN = 5.0  # seconds: with less, there is a race pass only after a complete search
RACES_MAX = 15.0  # seconds that are kept for it
RACES_EXECUTIONS = 5000


@dataclass(frozen=True, slots=True)
class Summary:
    """The coverage so far, or at the end; `seconds` since the beginning.

    A state counts in `states` once for each worker that has visited it.  `complete`: every interleaving
    is covered; `complete_to`: every one with at most so many preemptions.  `full`: the search has ended
    because its memory was used.  `races` is what the race pass covered; None: there was none.
    """

    executions: int = 0
    steps: int = 0
    states: int = 0
    seconds: float = 0.0
    complete: bool = False
    complete_to: int | None = None
    full: bool = False
    found: Found | None = None
    interrupted: bool = False
    races: RacePass | None = None


@dataclass(frozen=True, slots=True)
class Campaign:
    """A search: the scenario's spec, the strategy, and the `budget` in seconds.

    `jobs` is the number of local worker processes, 1 for this process alone; `cluster` is the address
    of a Dask scheduler, whose workers are used instead.  `memory` is how many bytes the caches of states
    may take together, 0 for no limit.  With `races` a race pass (`hfsched.explore.watch.racepass`) in this
    process follows a search that finds nothing; a fifth of a budget of some seconds is kept for it.
    """

    spec: str
    strategy: str = "portfolio"
    bound: int | None = None
    seed: int = 0
    budget: float = 60.0
    jobs: int = 1
    cluster: str | None = None
    memory: int = 0
    races: bool = False

    def run(
        self,
        progress: Callable[[Summary], None] = lambda _summary: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Summary:
        """Search until every interleaving is covered, a schedule fails, or the budget is used.

        `progress` is called several times a second.  `interrupted` ends the campaign early.

        Raises UserError for a scenario that cannot be created, and if there are no workers.
        """
        start = time.monotonic()

        kept = self._kept()

        def over() -> bool:
            return interrupted() or time.monotonic() - start >= self.budget - kept

        if self.cluster is None and self.jobs == 1:
            summary = self._alone(start, progress, over)
        else:
            summary = self._together(start, progress, over)
        summary = replace(summary, interrupted=interrupted())
        if summary.found is None and not summary.interrupted and (kept or summary.complete):
            return self._look_for_races(summary, start, kept, interrupted)
        return summary

    def _kept(self) -> float:
        """Return the seconds that are kept for the race pass."""
        if not self.races or self.budget < RACES_BUDGET_MIN:
            return 0.0
        return min(self.budget / 5, RACES_MAX)

    def _look_for_races(
        self, summary: Summary, start: float, kept: float, interrupted: Callable[[], bool]
    ) -> Summary:
        """Run the race pass in the time that is kept for it; of a small budget, as long again.

        To prepare the code and the first execution, which there always is, take time that is not counted.
        """
        if not self.races:
            return summary
        seconds = kept or self.budget
        begun: float | None = None

        def over() -> bool:
            nonlocal begun
            now = time.monotonic()
            begun = begun or now
            return interrupted() or now - begun >= seconds

        races = race_pass(
            find(self.spec),
            self.seed,
            bound=self.bound,
            executions=RACES_EXECUTIONS,
            merging=summary.complete,
            over=over,
        )
        failure, found = races.failure, None
        if failure is not None:
            schedule = schedule_of(failure.recording, failure.outcome)
            found = found_of(confirm(failure.scenario, schedule, failure.outcome.failure))
        return replace(
            summary,
            seconds=time.monotonic() - start,
            complete=summary.complete and found is None and not races.doubts,
            found=found,
            interrupted=interrupted(),
            races=races,
        )

    def _alone(
        self, start: float, progress: Callable[[Summary], None], over: Callable[[], bool]
    ) -> Summary:
        spec = os.fsencode(self.spec)
        task = Task(1, spec, self.strategy, self.seed, self.bound, memory=self.memory)

        def report_progress(report: Report) -> bool:
            progress(self._summary(report, start))
            return over()

        report = perform(task, report_progress)
        if report.error is not None:
            raise UserError(report.error)
        return self._summary(report, start)

    def _summary(self, report: Report, start: float) -> Summary:
        return Summary(
            report.executions,
            report.steps,
            report.states,
            time.monotonic() - start,
            report.complete and report.found is None and self.bound is None,
            report.complete_to,
            report.full,
            report.found,
        )

    def _together(
        self, start: float, progress: Callable[[Summary], None], over: Callable[[], bool]
    ) -> Summary:
        from hfsched.explore.campaign.cluster import Cluster  # noqa: PLC0415 - slow to import
        from hfsched.explore.campaign.pool import Pool  # noqa: PLC0415

        with Pool(self.jobs) if self.cluster is None else Cluster(self.cluster) as workers:
            try:
                plan = Plan(
                    self.spec,
                    self.strategy,
                    self.seed,
                    self.bound,
                    workers.jobs,
                    over,
                    -(-self.memory // workers.jobs),
                )
            except (Exception, SystemExit) as error:  # the scenario's, as in a task
                report = failed(0, error)
                if report.found is None:
                    raise
                return self._summary(report, start)

            def summary() -> Summary:
                return Summary(
                    plan.executions,
                    plan.steps,
                    plan.states,
                    time.monotonic() - start,
                    plan.complete,
                    plan.complete_to,
                    plan.full,
                    plan.found,
                )

            def report_progress() -> bool:
                progress(summary())
                return over()

            workers.run(plan, report_progress)
            if plan.found is None and plan.error is not None:
                raise UserError(plan.error)
            return summary()
