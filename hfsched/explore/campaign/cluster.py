"""Workers of a Dask cluster: the same tasks, wherever its workers run.

A task that loses its worker is given to another by Dask itself (`retries`).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Found, Report, Task, work

__all__ = ["Cluster"]

RETRIES = 3
TICK = 0.25  # seconds between two looks at the clock
CONNECT = 10  # seconds


class Cluster:
    """The cluster whose scheduler listens at `address`, such as ``tcp://host:8786``."""

    def __init__(self, address: str) -> None:
        try:
            from distributed import Client  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise UserError(
                "--cluster needs the package 'distributed': pip install 'hfsched[cluster]'"
            ) from exc
        try:
            self._client = Client(address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError) as exc:
            raise UserError(f"cluster {address}: {exc or type(exc).__name__}") from exc

    @property
    def jobs(self) -> int:
        """How many tasks can be done at once."""
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def run(self, plan: Plan, over: Callable[[], bool]) -> None:
        """See `Pool.run`."""
        from distributed import FIRST_COMPLETED, wait  # noqa: PLC0415

        running: dict[object, Task] = {}
        try:
            while not over() and not plan.done:
                while len(running) < 2 * self.jobs and (task := plan.take()) is not None:
                    data = msgspec.msgpack.encode(task)
                    future = self._client.submit(work, data, pure=False, retries=RETRIES)
                    running[future] = task
                if not running:
                    return
                try:
                    done = wait(list(running), timeout=TICK, return_when=FIRST_COMPLETED).done
                except TimeoutError:
                    continue
                for future in done:
                    task = running.pop(future)
                    plan.note(_report(future, task))
                if any(report.found is not None for report in plan.reports.values()):
                    return
        finally:
            self._client.cancel(list(running))
            self._client.close()


def _report(future: object, task: Task) -> Report:
    error = future.exception()  # type: ignore[attr-defined]
    if error is not None:
        text = f"the cluster could not do {task.strategy} of this: {type(error).__name__}: {error}"
        return Report(task.number, ended=True, found=Found(text))
    return msgspec.msgpack.decode(future.result(), type=Report)  # type: ignore[attr-defined]
