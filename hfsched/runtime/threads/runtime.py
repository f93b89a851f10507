"""The implementation of `Runtime` with threads."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from select import POLLIN
from typing import TYPE_CHECKING, TypeVar

from hfsched.errors import UserError
from hfsched.runtime.base import (
    Cell,
    Connection,
    End,
    Event,
    EventFd,
    Flag,
    Listener,
    Lock,
    Process,
    Shared,
    Task,
    Waitable,
)
from hfsched.runtime.threads.channel import SocketEnd, poll_until
from hfsched.runtime.threads.foreign import ForeignConnection, ForeignEventFd, ForeignListener
from hfsched.runtime.threads.sync import AtomicCell, FlagEvent, PlainFlag, PlainShared

if TYPE_CHECKING:
    from hfsched.runtime.threads.spawning import Spawner

__all__ = ["ThreadRuntime", "tune_process"]

T = TypeVar("T")

_NS = 1_000_000_000
_SWITCH_INTERVAL = 1e-4  # seconds


def tune_process() -> None:
    """Tune this process for vCPU threads; call it once, before they start.

    At Python's switch interval of 5 ms a busy thread delays a vCPU by milliseconds.  Under
    SCHED_BATCH a thread that is woken does not preempt its waker, which holds the interpreter lock:
    that halves the cost of a message.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL)
    if os.sched_getscheduler(0) == os.SCHED_OTHER:
        # A sandbox may forbid it: then messages are slower.
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

    def processor_time(self) -> int | None:
        number = self._thread.native_id
        try:
            # The clock of a thread by its id, unlike by its handle, may be asked after its end
            # (CPUCLOCK_SCHED | CPUCLOCK_PERTHREAD_MASK in Linux, include/linux/posix-timers.h).
            return None if number is None else time.clock_gettime_ns(~number << 3 | 6)
        except OSError:
            return None


class ThreadRuntime:
    """See `hfsched.runtime.base.Runtime`.

    `on_failure(task_name, exception)` is called, in the failing thread, for an exception that
    leaves a task; without one the exception goes to `threading.excepthook`.  The processes that it
    starts end with it (`close`, or its last reference), and with this process, but those that outlive it.
    """

    def __init__(self, on_failure: Callable[[str, BaseException], None] | None = None) -> None:
        self._on_failure = on_failure
        self._lost = FlagEvent("spawner.lost")
        self._mutex = threading.Lock()  # guards the two below
        self._spawner: Spawner | None = None
        self._closed = False

    def lock(
        self,
        name: str,  # noqa: ARG002
        *,
        state: Callable[[], object] | None = None,  # noqa: ARG002
    ) -> Lock:
        return threading.Lock()

    def event(self, name: str) -> Event:
        return FlagEvent(name)

    def cell(self, name: str, value: T) -> Cell[T]:  # noqa: ARG002
        return AtomicCell(value)

    def flag(self, name: str, *, value: bool) -> Flag:  # noqa: ARG002
        return PlainFlag(value)

    def shared(self, name: str, value: T) -> Shared[T]:  # noqa: ARG002
        return PlainShared(value)

    def channel(self, name: str) -> tuple[End, End]:  # noqa: ARG002
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return SocketEnd(left), SocketEnd(right)

    def adopt_end(self, name: str, fd: int) -> End:  # noqa: ARG002
        return SocketEnd(socket.socket(fileno=fd))

    def adopt_listener(self, name: str, fd: int) -> Listener:  # noqa: ARG002
        return ForeignListener(socket.socket(fileno=fd))

    def adopt_connection(self, name: str, fd: int) -> Connection:  # noqa: ARG002
        return ForeignConnection(socket.socket(fileno=fd))

    def adopt_eventfd(self, name: str, fd: int) -> EventFd:  # noqa: ARG002
        return ForeignEventFd(fd)

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        fds = [waitable.fileno() for waitable in waitables]
        ready = poll_until(fds, deadline, *[getattr(each, "events", POLLIN) for each in waitables])
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
                f"cannot start a thread for {name}: limit of threads or memory reached"
            ) from None
        return _Task(name, thread)

    def process(
        self, name: str, main: Callable[..., None], ends: Sequence[End], *, outlives: bool = False
    ) -> Process:
        fds = [end.fileno() for end in ends]
        process = self._made_spawner().start(name, main, fds, outlives=outlives)
        for end in ends:
            end.close()
        return process

    @property
    def spawner_lost(self) -> Event:
        return self._lost

    def start_spawner(self, modules: Sequence[str] = ()) -> None:
        """Start the process that forks this runtime's children, with `modules` imported.

        Otherwise the first `process` starts it.  Call it early: later changes of this process's limits
        and privileges do not affect its children.  Raises OSError.
        """
        self._made_spawner().prepare(modules)

    def forbid_exec(self) -> None:
        """Declare that from here on this process may not exec: a dead spawner is not replaced."""
        self._made_spawner().forbid_exec()

    @property
    def spawner_pid(self) -> int | None:
        """The process id of the spawner, None while there is none."""
        with self._mutex:
            return None if self._spawner is None else self._spawner.pid

    def close(self) -> None:
        """End all processes that this runtime has started, but those that outlive it; it cannot start more."""
        with self._mutex:
            self._closed = True
            spawner = self._spawner
        if spawner is not None:
            spawner.close()
        self._lost.close()

    def _made_spawner(self) -> Spawner:
        from hfsched.runtime.threads.spawning import Spawner  # noqa: PLC0415 - most runs need none

        with self._mutex:
            if self._spawner is None:
                self._spawner = Spawner(self._lost)
                if self._closed:
                    self._spawner.close()
            return self._spawner

    def choose(self, name: str, n: int) -> int:  # noqa: ARG002
        return 0

    def now(self) -> int:
        return time.monotonic_ns()

    def sleep_until(self, deadline: int) -> None:
        time.sleep(max(0, deadline - time.monotonic_ns()) / _NS)

    def checkpoint(self, label: str) -> None:  # noqa: ARG002
        time.sleep(0)  # yields the interpreter lock to another thread

    def retain_only(self, *live: object, level: int = 0) -> None:
        pass
