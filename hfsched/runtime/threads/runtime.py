"""The runtime itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from hfsched.errors import UserError
from hfsched.runtime.base import Cell, End, Event, Lock, Process, Shared, Task, Waitable
from hfsched.runtime.threads.channel import SocketEnd, poll_until
from hfsched.runtime.threads.sync import AtomicCell, FairLock, FlagEvent, PlainShared

__all__ = ["ThreadRuntime", "tune_process"]

T = TypeVar("T")

_NS = 1_000_000_000
_SWITCH_INTERVAL = 1e-4  # seconds


def tune_process() -> None:
    """Make this process a good place for vCPU threads; call it once, before they start.

    At Python's switch interval of 5 ms a busy thread holds a vCPU up for milliseconds.  Under
    SCHED_BATCH a thread that is woken does not take the processor from its waker, which holds the
    interpreter lock and would get it back at once: that halves the cost of a message.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        # A sandbox may forbid it: then all works, a little slower.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


class _Task:
    def __init__(self, name: str, thread: threading.Thread) -> None:
        self.name = name
        self._thread = thread

    def join(self, deadline: int | None = None) -> bool:
        timeout = None if deadline is None else max(0, deadline - time.monotonic_ns()) / _NS
        self._thread.join(timeout)
        return not self._thread.is_alive()


class _Process:
    def __init__(self, name: str, popen: subprocess.Popen[bytes]) -> None:
        self.name = name
        self._popen = popen

    def kill(self) -> None:
        self._popen.send_signal(signal.SIGKILL)

    def join(self, deadline: int | None = None) -> bool:
        timeout = None if deadline is None else max(0, deadline - time.monotonic_ns()) / _NS
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def pid(self) -> int | None:
        return self._popen.pid if self._popen.returncode is None else None

    @property
    def exit_status(self) -> int | None:
        return self._popen.poll()


class ThreadRuntime:
    """See `hfsched.runtime.base.Runtime`.

    `on_failure(task_name, exception)` is called, in the failing thread, for an exception that
    leaves a task; without one the exception goes to `threading.excepthook`.
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._on_failure = on_failure

    def lock(
        self,
        name: str,  # noqa: ARG002
        *,
        fair: bool = False,
        state: Callable[[], object] | None = None,  # noqa: ARG002
    ) -> Lock:
        if fair:
            return FairLock()
        return threading.Lock()

    def event(self, name: str) -> Event:
        return FlagEvent(name)

    def cell(self, name: str, value: T) -> Cell[T]:  # noqa: ARG002
        return AtomicCell(value)

    def shared(self, name: str, value: T) -> Shared[T]:  # noqa: ARG002
        return PlainShared(value)

    def channel(self, name: str) -> tuple[End, End]:  # noqa: ARG002
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return SocketEnd(left), SocketEnd(right)

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        ready = poll_until([waitable.fileno() for waitable in waitables], deadline)
        return [waitables[i] for i in ready]

    def spawn(self, name: str, fn: Callable[[], None]) -> Task:
        def body() -> None:
            try:
                fn()
            except BaseException as exc:
                if self._on_failure is None:
                    raise
                self._on_failure(name, exc)

        thread = threading.Thread(target=body, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            raise UserError(
                f"no thread for {name}: this process may have no more of them, or no more memory"
            ) from None
        return _Task(name, thread)

    def process(self, name: str, main: Callable[..., None], ends: Sequence[End]) -> Process:
        # The package's own place goes first: the child must import what this process runs.
        descriptors = [end.fileno() for end in ends]
        command = [sys.executable, "-m", "hfsched.runtime.child"]
        command += [f"{main.__module__}:{main.__qualname__}", *map(str, descriptors)]
        roots = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
        popen = subprocess.Popen(  # noqa: S603
            command, pass_fds=descriptors, env=environment, stdin=subprocess.DEVNULL
        )
        for end in ends:
            end.close()
        return _Process(name, popen)

    def choose(self, name: str, n: int) -> int:  # noqa: ARG002
        return 0

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep_until(self, deadline: int) -> None:
        time.sleep(max(0, deadline - time.monotonic_ns()) / _NS)

    def checkpoint(self, label: str) -> None:  # noqa: ARG002
        time.sleep(0)  # lets another thread have the interpreter lock

    def retain_only(self, *live: object, level: int = 0) -> None:
        pass
