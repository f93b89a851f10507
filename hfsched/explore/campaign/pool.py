"""Workers on this machine: new processes, not forks, since threads may be running here.

The task of a worker that dies is given to a new one.  A task that has lost `ATTEMPTS` workers is a
finding: its code ends the process.
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
from types import TracebackType
from typing import Self

import msgspec

from hfsched.errors import UserError
from hfsched.explore.campaign.plan import Plan
from hfsched.explore.campaign.tasks import Found, Report, Task
from hfsched.explore.campaign.worker import MESSAGE_MAX

__all__ = ["Pool"]

ATTEMPTS = 3
TICK = 0.1  # seconds between two checks of the time
END = 1.0  # seconds: the time limit for the exit of a process that has closed its output
LENGTH = struct.Struct("<I")
# A worker has this process's sys.path, without its working directory.
START = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from hfsched.explore.campaign.worker import main; main()"
)


class _Worker:
    def __init__(self) -> None:
        # A Ctrl-C is sent to all processes of a terminal: it is blocked until the worker ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", START, *sys.path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
            )
        except OSError as error:
            raise UserError(f"--jobs: no worker process: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input = self.process.stdin
        self.output = self.process.stdout
        os.set_blocking(self.output.fileno(), False)
        self.task: Task | None = None
        self._data = bytearray()

    def assign(self, task: Task) -> bool:
        """Give it a task; return False if it is dead."""
        self.task = task
        data = msgspec.msgpack.encode(task)
        view = memoryview(LENGTH.pack(len(data)) + data)
        try:
            while view:
                view = view[self.input.write(view) :]
        except OSError:
            return False
        return True

    def reports(self) -> list[Report] | None:
        """Return the reports that have arrived, None if it has ended."""
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

    def end(self, within: float = 0.0) -> None:
        """Wait until it has exited, and kill it after `within` seconds."""
        try:
            self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.input.close()
        self.output.close()


class Pool:
    """`jobs` local workers, which are killed at the end of the ``with``."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._lost: Counter[int] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.process.kill()  # all of them, before waiting for any
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        self._selector.close()

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        return [worker.process.pid for worker in self._workers]

    def run(self, plan: Plan, over: Callable[[], bool]) -> None:
        """Run the plan's tasks until it is done, no task is left, or `over` returns True."""
        while not over() and not plan.done and self._step(plan):
            pass

    def _step(self, plan: Plan) -> bool:
        """Keep all workers busy, and wait for reports; return False if no task is left."""
        while len(self._workers) < self.jobs:
            worker = _Worker()
            self._workers.append(worker)
            self._selector.register(worker.output, selectors.EVENT_READ, worker)
        for worker in list(self._workers):
            if worker.task is None:
                task = plan.take()
                if task is None:
                    break
                if not worker.assign(task):
                    self._replace(worker, plan)
                    return True
        if all(worker.task is None for worker in self._workers):
            return False
        for key, _ in self._selector.select(TICK):
            worker = key.data
            reports = worker.reports()
            if reports is None:
                self._replace(worker, plan)
                continue
            for report in reports:
                plan.note(report)
                if report.ended:
                    worker.task = None
        return True

    def _replace(self, worker: _Worker, plan: Plan) -> None:
        """Remove a worker that has ended, and give its task back."""
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        worker.end(END)
        task = worker.task
        if task is None:
            return
        self._lost[task.number] += 1
        if self._lost[task.number] < ATTEMPTS:
            plan.give_back(task)
            return
        how = _how(worker.process.returncode)
        text = f"the worker process ended ({how}) {ATTEMPTS} times during {task.strategy} of this scenario"
        plan.note(Report(task.number, ended=True, found=Found(text)))


def _how(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal
        return f"signal {-status}"
