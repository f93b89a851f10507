"""Workers of a Dask cluster, which run the same tasks as local ones.

Dask itself gives a task that loses its worker to another one (`retries`).  A worker may have started
long ago, from other files: each task has a digest of its code (`fingerprint`).  A cancelled task ends
by itself.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

import hfsched
from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Caches, Found, Report, Task, failed, perform
from hfsched.explore.registry import find

__all__ = ["Cluster", "checked_client", "fingerprint", "work"]

RETRIES = 3
TICK = 0.25  # seconds between two checks of the time
CONNECT = 10  # seconds
ADDRESS = re.compile(r"(tcp|tls|ucx|wss?)://[^/\s]+:[0-9]{1,5}")


@functools.cache
def fingerprint(spec: str) -> str:
    """Return a digest of this package and of the scenario's file, as they are at the first call."""
    digest = blake2b(digest_size=8)
    own = inspect.getsourcefile(type(find(spec)))
    files = sorted(Path(hfsched.__file__).parent.rglob("*.py"))
    for file in [*files, *([Path(own)] if own else [])]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def checked_client(address: str) -> Any:
    """Return the class of a cluster's clients; raises UserError without one, or for a wrong address."""
    try:
        from distributed import Client  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise UserError(
            "--cluster needs the package 'distributed': pip install 'hfsched[cluster]'"
        ) from exc
    if not ADDRESS.fullmatch(address):  # without one, closing the client would hang
        raise UserError(f"--cluster {address}: not an address such as tcp://host:8786")
    return Client


class Cluster:
    """The cluster whose scheduler listens at `address`, such as ``tcp://host:8786``.

    Raises UserError when it cannot be reached.
    """

    def __init__(self, address: str) -> None:
        client = checked_client(address)
        self._address = address
        try:
            self._client: Any = client(address, timeout=CONNECT, set_as_default=False)
        except (OSError, ValueError) as exc:
            raise UserError(f"--cluster {address}: {exc or type(exc).__name__}") from exc
        self.jobs = sum(self._client.nthreads().values())
        if not self.jobs:
            self._client.close()
            raise UserError(f"--cluster {address}: it has no workers")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def run(self, plan: Plan, over: Callable[[], bool]) -> None:
        """See `Pool.run`."""
        from distributed import wait  # noqa: PLC0415

        code = fingerprint(plan.spec)
        running: dict[Any, Task] = {}
        try:
            while not over() and not plan.done:
                while len(running) < 2 * self.jobs and (task := plan.take()) is not None:
                    data = msgspec.msgpack.encode(task)
                    future = self._client.submit(work, data, code, pure=False, retries=RETRIES)
                    running[future] = task
                if not running:
                    return
                try:
                    with self._client.as_current():  # `wait` needs it
                        done = wait(list(running), TICK, "FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                for future in done:
                    plan.note(self._report(future, running.pop(future)))
        finally:
            self._client.cancel(list(running), force=True)

    def _report(self, future: Any, task: Task) -> Report:
        error = future.exception()
        if error is None:
            return msgspec.msgpack.decode(future.result(), type=Report)
        if type(error).__name__ == "KilledWorker":
            text = f"the cluster's workers ended repeatedly during {task.strategy} of this scenario"
            return Report(task.number, ended=True, found=Found(text))
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Report(task.number, ended=True, error=f"--cluster {self._address}: {text}")


def work(data: bytes, code: str) -> bytes:
    """Run an encoded task in a cluster's worker and return the encoded report.

    `code` is the campaign's `fingerprint`.
    """
    from distributed import get_worker  # noqa: PLC0415

    task = msgspec.msgpack.decode(data, type=Task)
    worker: Any = get_worker()
    key = worker.get_current_task()

    def cancelled(_report: Report) -> bool:
        known = worker.state.tasks.get(key)
        return known is None or known.state != "executing"

    try:
        same = fingerprint(os.fsdecode(task.spec)) == code
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the scenario's
        report = failed(task.number, error)
    else:
        if same:
            report = perform(task, cancelled, _CACHES)
        else:
            text = f"the worker at {worker.address} has different code: restart it"
            report = Report(task.number, ended=True, error=text)
    return msgspec.msgpack.encode(report)


_CACHES: Caches = {}
