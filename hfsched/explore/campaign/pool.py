"""Workers on this machine: fresh processes, never forks, for threads may be running here.

A worker that dies gives its task back, and another takes its place.  A task that has lost
`ATTEMPTS` workers is a finding: something in it ends the process.
"""

from __future__ import annotations

import os
import selectors
import signal
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import msgspec

from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Found, Report, Task
from hfsched.explore.campaign.worker import MESSAGE_MAX

__all__ = ["Pool"]

ATTEMPTS = 3
TICK = 0.25  # seconds between two looks at the clock
LENGTH = struct.Struct("<I")


class _Worker:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hfsched.explore.campaign.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input = self.process.stdin
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self.task: Task | None = None
        self._data = bytearray()

    def ask(self, task: Task) -> bool:
        """Give it a task; False: it is dead."""
        self.task = task
        data = msgspec.msgpack.encode(task)
        try:
            self.input.write(LENGTH.pack(len(data)) + data)
            self.input.flush()
        except OSError:
            return False
        return True

    def answers(self) -> list[Report] | None:
        """Return the reports that have arrived; None: it has ended."""
        data = self.output.read()
        if data == b"":
            return None
        self._data += data or b""
        reports = []
        while len(self._data) >= LENGTH.size:
            size: int = LENGTH.unpack_from(self._data)[0]
            if size > MESSAGE_MAX:
                return None
            if len(self._data) < LENGTH.size + size:
                break
            body = bytes(self._data[LENGTH.size : LENGTH.size + size])
            del self._data[: LENGTH.size + size]
            try:
                reports.append(msgspec.msgpack.decode(body, type=Report))
            except msgspec.MsgspecError:
                return None
        return reports

    def end(self) -> None:
        """End it now."""
        self.process.kill()
        self.process.wait()
        self.input.close()
        self.output.close()


class Pool:
    """`jobs` local workers."""

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._lost: Counter[int] = Counter()

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self._workers]

    def run(self, plan: Plan, over: Callable[[], bool]) -> None:
        """Have the plan's tasks done until it is done, something is found, or `over` says so."""
        try:
            while not over() and not plan.done and not self._step(plan):
                pass
        finally:
            for worker in self._workers:
                worker.end()
            self._workers.clear()
            self._selector.close()

    def _step(self, plan: Plan) -> bool:
        """Wait for reports, and keep everybody busy; True: a failure, or nothing left to do."""
        while len(self._workers) < self._jobs:
            worker = _Worker()
            self._workers.append(worker)
            self._selector.register(worker.output, selectors.EVENT_READ, worker)
        for worker in list(self._workers):
            if worker.task is None:
                task = plan.take()
                if task is not None and not worker.ask(task):
                    self._replace(worker, plan)
        if all(worker.task is None for worker in self._workers):
            return True
        for key, _ in self._selector.select(TICK):
            worker = key.data
            reports = worker.answers()
            if reports is None:
                self._replace(worker, plan)
                continue
            for report in reports:
                plan.note(report)
                if report.ended:
                    worker.task = None
        return any(report.found is not None for report in plan.reports.values())

    def _replace(self, worker: _Worker, plan: Plan) -> None:
        """Put a new worker in the place of one that has ended."""
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        worker.end()
        task = worker.task
        if task is None:
            return
        self._lost[task.number] += 1
        if self._lost[task.number] < ATTEMPTS:
            plan.give_back(task)
            return
        status = worker.process.returncode
        how = f"status {status}" if status >= 0 else f"signal {signal.Signals(-status).name}"
        text = f"the worker process ended ({how}) {ATTEMPTS} times during {task.strategy} of this"
        plan.note(Report(task.number, ended=True, found=Found(text)))
