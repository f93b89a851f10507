"""A whole campaign: search in this process, in a pool of processes, or on a cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Found, Report, Task, failed, perform

__all__ = ["Campaign", "Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """The coverage so far, or at the end; `seconds` since the beginning.

    A state counts in `states` once for each worker that has visited it.  `complete`: every interleaving
    is covered; `complete_to`: every one with at most so many preemptions.
    `full`: the search has ended because its memory was used.
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


@dataclass(frozen=True, slots=True)
class Campaign:
    """A search: the scenario's spec, the strategy, and the `budget` in seconds.

    `jobs` is the number of local worker processes, 1 for this process alone; `cluster` is the address
    of a Dask scheduler, whose workers are used instead.  `memory` is how many bytes the caches of states
    may take together, 0 for no limit.
    """

    spec: str
    strategy: str = "portfolio"
    bound: int | None = None
    seed: int = 0
    budget: float = 60.0
    jobs: int = 1
    cluster: str | None = None
    memory: int = 0

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

        def over() -> bool:
            return interrupted() or time.monotonic() - start >= self.budget

        if self.cluster is None and self.jobs == 1:
            summary = self._alone(start, progress, over)
        else:
            summary = self._together(start, progress, over)
        return replace(summary, interrupted=interrupted())

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
