"""A whole campaign: search here, in a pool of processes, or on a cluster, and sum up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Found, Report, Task, perform

__all__ = ["Campaign", "Summary"]


@dataclass(frozen=True, slots=True)
class Summary:
    """What was covered, up to now or in all; `seconds` since the beginning.

    `states` is the most that one search has seen; with several workers a state may count for each.
    """

    executions: int = 0
    steps: int = 0
    states: int = 0
    seconds: float = 0.0
    complete: bool = False
    complete_to: int | None = None
    found: Found | None = None
    interrupted: bool = False


@dataclass(frozen=True, slots=True)
class Campaign:
    """What to search, how, and for how long (seconds; executions 0 for no limit)."""

    spec: str
    strategy: str = "portfolio"
    bound: int | None = None
    seed: int = 0
    budget: float = 60.0
    jobs: int = 1
    cluster: str | None = None

    def run(
        self,
        progress: Callable[[Summary], None] = lambda _summary: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Summary:
        """Search until all is covered, something fails, or the time is over.

        `progress` is called several times a second.  `interrupted` ends the campaign early.
        """
        start = time.monotonic()
        if self.cluster is None and self.jobs == 1:
            return self._alone(start, progress, interrupted)
        return self._together(start, progress, interrupted)

    def _alone(
        self,
        start: float,
        progress: Callable[[Summary], None],
        interrupted: Callable[[], bool],
    ) -> Summary:
        task = Task(1, self.spec, self.strategy, self.seed, self.bound)

        def tell(report: Report) -> bool:
            progress(_summary([report], start, report.complete_to, complete=False))
            return interrupted() or time.monotonic() - start >= self.budget

        report = perform(task, tell)
        unbounded = self.strategy in ("exhaustive", "portfolio")
        return _summary(
            [report],
            start,
            report.complete_to,
            complete=report.complete and unbounded and report.found is None,
            interrupted=interrupted(),
        )

    def _together(
        self,
        start: float,
        progress: Callable[[Summary], None],
        interrupted: Callable[[], bool],
    ) -> Summary:
        from hfsched.explore.campaign.cluster import Cluster  # noqa: PLC0415 - slow to import
        from hfsched.explore.campaign.pool import Pool  # noqa: PLC0415

        workers = Pool(self.jobs) if self.cluster is None else Cluster(self.cluster)
        parallel = self.jobs if isinstance(workers, Pool) else workers.jobs
        plan = Plan(self.spec, self.strategy, self.seed, self.bound, parallel)

        def summary() -> Summary:
            return _summary(
                list(plan.reports.values()), start, plan.complete_to, complete=plan.complete
            )

        def over() -> bool:
            progress(summary())
            return interrupted() or time.monotonic() - start >= self.budget

        workers.run(plan, over)
        return _summary(
            list(plan.reports.values()),
            start,
            plan.complete_to,
            complete=plan.complete,
            interrupted=interrupted(),
        )


def _summary(
    reports: list[Report],
    start: float,
    complete_to: int | None,
    *,
    complete: bool,
    interrupted: bool = False,
) -> Summary:
    return Summary(
        sum(report.executions for report in reports),
        sum(report.steps for report in reports),
        sum(report.states for report in reports),
        time.monotonic() - start,
        complete,
        complete_to,
        next((report.found for report in reports if report.found is not None), None),
        interrupted,
    )
