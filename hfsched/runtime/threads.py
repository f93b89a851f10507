"""The runtime of production: threads, descriptors, fresh programs.

Sleepers sleep on a futex (a lock of their own); an event that stands beside sockets in `select`
gets an eventfd.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from hfsched.runtime.base import (
    Cell,
    ChannelClosedError,
    End,
    Event,
    Lock,
    Process,
    Shared,
    Task,
    Waitable,
)

if TYPE_CHECKING:
    from _thread import LockType

__all__ = ["MESSAGE_MAX", "ThreadRuntime", "tune_process"]

T = TypeVar("T")

MESSAGE_MAX = 1 << 16
_FDS_MAX = 32
_NS = 1_000_000_000
_INT = struct.Struct("i")


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


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Pollfd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


# Python's poll() rounds to milliseconds; a guest's timer deserves better.
_ppoll = ctypes.CDLL(None, use_errno=True).ppoll
_ppoll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)


def _poll_until(fds: Sequence[int], deadline: int | None) -> list[int]:
    """Return the positions of the readable (or broken) descriptors, empty at the deadline."""
    array = (_Pollfd * len(fds))(*[_Pollfd(fd, select.POLLIN, 0) for fd in fds])
    while True:
        timeout = None
        if deadline is not None:
            left = max(0, deadline - time.monotonic_ns())
            timeout = ctypes.byref(_Timespec(left // _NS, left % _NS))
        count = _ppoll(array, len(fds), timeout, None)
        if count > 0:
            return [i for i, entry in enumerate(array) if entry.revents]
        if count < 0:
            # A signal: its Python handler runs (and may raise) before the next round.
            if ctypes.get_errno() != 4:  # EINTR
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        elif deadline is not None and time.monotonic_ns() >= deadline:
            return []


class _FairLock:
    """A lock that is handed over in the order of arrival.

    `_lock` is held whenever somebody has the lock.  A thread that finds it held queues a lock of
    its own to sleep on; whoever lets go hands over to the first of the queue, with `_lock` still
    held.  Both look once more after their own step, so that neither misses the other.
    """

    __slots__ = ("_guard", "_lock", "_queue")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guard = threading.Lock()
        self._queue: deque[LockType] = deque()

    def __enter__(self) -> None:
        if not self._queue and self._lock.acquire(blocking=False):
            return
        turn = threading.Lock()
        turn.acquire()
        with self._guard:
            self._queue.append(turn)
            self._hand_over()
        try:
            turn.acquire()
        except BaseException:  # interrupted: give the place up, or what came with it
            with self._guard:
                waiting = turn in self._queue
                if waiting:
                    self._queue.remove(turn)
            if not waiting:
                self.__exit__()
            raise

    def __exit__(self, *exc: object) -> None:
        self._lock.release()
        if self._queue:
            with self._guard:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give the lock to the first of the queue if nobody has it; under the guard."""
        if self._queue and self._lock.acquire(blocking=False):
            self._queue.popleft().release()


class _Event:
    """A flag; each sleeper waits for a lock of its own, which is one futex.

    Setting it is no system call unless somebody sleeps: a system call gives the interpreter lock
    away, and gets it back only when the one just woken lets go.  The eventfd is made for `select`
    alone.
    """

    __slots__ = ("_fd", "_flag", "_guard", "_sleepers", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self._guard = threading.Lock()
        self._flag = False
        self._sleepers: list[LockType] = []
        self._fd = -1

    def fileno(self) -> int:
        with self._guard:
            if self._fd < 0:
                self._fd = os.eventfd(int(self._flag), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._fd

    def set(self) -> None:
        with self._guard:
            was_set, self._flag = self._flag, True  # first: `select` may return at once
            if self._fd >= 0 and not was_set:
                os.eventfd_write(self._fd, 1)
            for sleeper in self._sleepers:
                sleeper.release()
            self._sleepers.clear()

    def clear(self) -> None:
        with self._guard:
            if self._fd >= 0 and self._flag:
                os.eventfd_read(self._fd)
            self._flag = False

    def is_set(self) -> bool:
        return self._flag

    def wait(self, deadline: int | None = None) -> bool:
        with self._guard:
            if self._flag:
                return True
            sleeper = threading.Lock()
            sleeper.acquire()
            self._sleepers.append(sleeper)
        try:
            if deadline is None:
                sleeper.acquire()
                return True
            left = max(0, deadline - time.monotonic_ns()) / _NS
            if sleeper.acquire(timeout=min(left, threading.TIMEOUT_MAX)):
                return True
        except BaseException:
            self._forget(sleeper)
            raise
        return self._forget(sleeper)

    def _forget(self, sleeper: LockType) -> bool:
        """Stop waiting; tell whether the event was set all the same."""
        with self._guard:
            if sleeper in self._sleepers:
                self._sleepers.remove(sleeper)
                return False
        return True

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()


class _Cell(Generic[T]):
    __slots__ = ("_guard", "_value")

    def __init__(self, value: T) -> None:
        self._guard = threading.Lock()
        self._value = value

    def get(self) -> T:
        return self._value

    def set(self, value: T) -> None:
        with self._guard:
            self._value = value

    def exchange(self, value: T) -> T:
        with self._guard:
            old, self._value = self._value, value
        return old

    def compare_and_set(self, expected: T, value: T) -> bool:
        with self._guard:
            if self._value != expected:
                return False
            self._value = value
        return True


class _Shared(Generic[T]):
    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value


class SocketEnd:
    """One end of a channel: an AF_UNIX seqpacket socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if not data or len(data) > MESSAGE_MAX or len(fds) > _FDS_MAX:
            raise ValueError(f"a message has 1 to {MESSAGE_MAX} bytes and at most {_FDS_MAX} fds")
        try:
            if fds:
                socket.send_fds(self._sock, [data], list(fds))
            else:
                self._sock.send(data)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise ChannelClosedError from exc

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        if deadline is not None and not _poll_until((self._sock.fileno(),), deadline):
            return None
        try:
            data, fds = self._receive()
        except ConnectionResetError:
            # The peer went without reading all of ours; said once, before what it wrote is read.
            data, fds = self._receive()
        if not data:  # empty messages are never sent
            raise ChannelClosedError
        return data, fds

    def _receive(self) -> tuple[bytes, list[int]]:
        # socket.recv_fds forgets its flags in Python 3.11.
        data, ancillary, _, _ = self._sock.recvmsg(
            MESSAGE_MAX, socket.CMSG_SPACE(_FDS_MAX * _INT.size), socket.MSG_CMSG_CLOEXEC
        )
        fds: list[int] = []
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                whole = len(content) - len(content) % _INT.size
                fds += [fd for (fd,) in _INT.iter_unpack(content[:whole])]
        return data, fds

    def close(self) -> None:
        self._sock.close()


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
            return _FairLock()
        return threading.Lock()

    def event(self, name: str) -> Event:
        return _Event(name)

    def cell(self, name: str, value: T) -> Cell[T]:  # noqa: ARG002
        return _Cell(value)

    def shared(self, name: str, value: T) -> Shared[T]:  # noqa: ARG002
        return _Shared(value)

    def channel(self, name: str) -> tuple[End, End]:  # noqa: ARG002
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return SocketEnd(left), SocketEnd(right)

    def select(self, waitables: Sequence[Waitable], deadline: int | None = None) -> list[Waitable]:
        ready = _poll_until([waitable.fileno() for waitable in waitables], deadline)
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
        thread.start()
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

    def forget(self, *live: object) -> None:
        pass
