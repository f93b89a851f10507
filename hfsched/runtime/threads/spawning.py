"""Main's side of the spawner: the process that forks this one's children.

One thread, `spawner`, starts the spawner and uses its socket; other threads post requests to it.  The
kernel kills the children when the thread that has started their spawner ends, so it runs until `close`; those
that outlive this process are not killed.

Implementation note.  A spawner may die at any point.  A child whose pid main does not know then is in
the spawner's process group, which no other process enters: it is killed and reaped there, and the
request is repeated.  See `hfsched.runtime.threads.spawner` for the messages.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from hfsched.runtime.base import SpawnerLostError
from hfsched.runtime.threads.channel import poll_until, receive
from hfsched.runtime.threads.process import ChildProcess, reap
from hfsched.runtime.threads.progress import wait_for_child
from hfsched.runtime.threads.sync import FlagEvent
from hfsched.text import one_line

__all__ = ["Spawner"]

ATTEMPTS = 3  # spawners that may die during one request
_SAID_MAX = 4096  # bytes, and characters of a line
_POLL_AGAIN = 0.1  # seconds
_PROGRAM = "hfsched.runtime.threads.spawner"
_LOST = "the process that starts others has ended, and this one may not start another"


_Wait = Callable[[int, Sequence[int]], list[int]]  # as `wait_for_child`


class _DeadError(Exception):
    """The spawner has ended, or hangs."""


class _SpawnerProcess:
    """A spawner's process and the socket to it; only the thread `spawner` uses it.

    What the interpreter says before it runs the spawner is kept in a file of its own: where memory is short it
    may be a traceback of lines that are not ours.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        with ExitStack() as undo:
            self._said = os.memfd_create("spawner.said", os.MFD_CLOEXEC)
            undo.callback(os.close, self._said)
            self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(self.sock.close)
            with theirs, _standard_error() as error:
                passed = [theirs.fileno(), error]
                command = [sys.executable, "-m", _PROGRAM, *map(str, (*passed, os.getpid()))]
                # The children must import the same code as this process.
                roots = [entry or os.getcwd() for entry in sys.path]  # noqa: PTH109
                self._popen = subprocess.Popen(  # noqa: S603
                    [*command, *modules],
                    pass_fds=[fd for fd in passed if fd >= 0],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(roots)},
                    stdin=subprocess.DEVNULL,
                    stderr=self._said,
                    start_new_session=True,
                )
            undo.callback(self._end_group)
            self.pidfd = os.pidfd_open(self._popen.pid)
            undo.pop_all()
        self.ready = False

    @property
    def pid(self) -> int:
        return self._popen.pid

    def end(self) -> None:
        """Kill and reap it, and each child that it has forked and that has no job."""
        with suppress(OSError):
            self.ready = self.ready or bool(self.sock.recv(1, socket.MSG_DONTWAIT))
        self.sock.close()
        self._end_group()
        os.close(self.pidfd)
        os.close(self._said)

    def last_words(self) -> str:
        """Return the last line that the interpreter said, if it did not come to run the spawner."""
        first = max(0, os.fstat(self._said).st_size - _SAID_MAX)
        lines = os.pread(self._said, _SAID_MAX, first).decode(errors="replace").splitlines()
        said = [line for line in lines if line.strip()]
        return one_line(said[-1], _SAID_MAX) if said else ""

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            while True:
                os.waitid(os.P_PGID, self.pid, os.WEXITED)
        self._popen.returncode = 0  # it is reaped

    def fork(self, gate: socket.socket, wait: _Wait) -> tuple[int, int]:
        """Return the pid and a pidfd of a child that has `gate`; raises OSError, _DeadError."""
        try:
            socket.send_fds(self.sock, [b"fork"], [gate.fileno()])
            if not self.ready:
                self._receive(wait)
                self.ready = True
            data, fds = self._receive(wait)
        except ConnectionError:
            raise _DeadError from None
        number = int.from_bytes(data, sys.byteorder, signed=True)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        if not fds:  # this process has no descriptor left for it
            os.kill(number, signal.SIGKILL)
            os.waitid(os.P_PID, number, os.WEXITED)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return number, fds[0]

    def _receive(self, wait: _Wait) -> tuple[bytes, list[int]]:
        # The socket may still be open in a stopped child: the pidfd shows the spawner's end.
        if 0 not in wait(self.pid, (self.sock.fileno(), self.pidfd)):
            raise _DeadError
        data, fds, _ = receive(self.sock)
        if not data:
            raise _DeadError
        return data, fds


@contextmanager
def _standard_error() -> Iterator[int]:
    """Duplicate this process's standard error for a ``with``; -1: it has none."""
    try:
        fd = os.dup(2)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        yield -1
        return
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass
class _Request:
    """A process to be started; the caller owns `fds`.  Without a target, only a spawner is started."""

    name: str = ""
    target: str = ""
    fds: Sequence[int] = ()
    outlives: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    child: tuple[int, int] | None = None
    error: Exception | None = None

    def job(self) -> bytes:
        return json.dumps([self.name, self.target, len(self.fds), self.outlives]).encode()


class _Thread:
    """The thread `spawner`: its state, and its requests."""

    def __init__(self, lost: FlagEvent) -> None:
        self.modules: Sequence[str] = ()
        # pidfds of processes that run and have no `ChildProcess`, and whether they outlive this one
        self.orphans: dict[int, bool] = {}
        self._may_exec = True
        self._lost = lost
        self._main = os.getpid()
        self._wake = FlagEvent("spawner.wake")
        self._lock = threading.Lock()
        self._queue: deque[_Request] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._process: _SpawnerProcess | None = None

    # Any thread.

    def perform(self, request: _Request) -> None:
        """Post a request and wait for it; raises OSError, SpawnerLostError."""
        with self._lock:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the runtime is closed")
            if self._thread is None:
                self._wake.fileno()  # may fail
                self._thread = threading.Thread(target=self._run, name="spawner", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError:
                    self._thread = None
                    raise OSError(errno.EAGAIN, "no thread") from None
            self._queue.append(request)
        self._wake.set()
        request.done.wait()
        if request.error is not None:
            raise request.error

    def forbid_exec(self) -> None:
        """See `Spawner`."""
        with self._lock:
            self._may_exec = False
            if self._thread is None:
                self._lost.set()
        self._wake.set()

    @property
    def pid(self) -> int | None:
        """See `Spawner`."""
        process = self._process
        return None if process is None else process.pid

    def close(self) -> None:
        """End the spawner, then the thread: the kernel kills the children with it."""
        if os.getpid() != self._main:
            return  # a fork of main, which owns none of this
        with self._lock:
            closed, self._closed = self._closed, True
            thread = self._thread
        if closed:
            return
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for pidfd, outlives in self.orphans.items():
            reap(pidfd, block=thread is not None and not outlives)
            os.close(pidfd)
        self._wake.close()

    # The thread.

    def _run(self) -> None:
        try:
            while not self._closed:
                self._step()
        finally:
            if self._process is not None:
                self._discard()
            with self._lock:
                self._closed = True
                for request in self._queue:
                    request.error = OSError(errno.ESHUTDOWN, "the runtime is closed")
                    request.done.set()

    def _step(self) -> None:
        fds = [self._wake.fileno()]
        if self._process is not None:
            fds.append(self._process.pidfd)
        try:
            ready = poll_until(fds, None)
        except OSError:  # this process's limits may forbid it temporarily
            time.sleep(_POLL_AGAIN)
            return
        self._wake.clear()
        if 1 in ready:
            self._replace()
        if self._process is None and not self._may_exec:
            self._lost.set()
        while self._queue and not self._closed:
            self._answer(self._queue.popleft())
        for pidfd in list(self.orphans):
            if reap(pidfd) is not None:
                del self.orphans[pidfd]
                os.close(pidfd)

    def _discard(self) -> bool:
        """Remove the spawner that has ended; return whether it had started completely."""
        assert self._process is not None
        self._process.end()
        ready = self._process.ready
        self._process = None
        return ready

    def _replace(self) -> None:
        if self._discard() and self._may_exec:
            with suppress(OSError):  # the next request tries again
                self._process = _SpawnerProcess(self.modules)

    def _answer(self, request: _Request) -> None:
        try:
            self._carry_out(request)
        except Exception as exc:  # noqa: BLE001 - the requester gets it
            request.error = exc
        request.done.set()

    def _carry_out(self, request: _Request) -> None:
        said = ""
        for _ in range(ATTEMPTS):
            if self._process is None:
                if not self._may_exec:
                    raise SpawnerLostError(_LOST)
                self._process = _SpawnerProcess(self.modules)
            if not request.target:
                return
            try:
                request.child = self._start(self._process, request)
            except _DeadError:
                said = self._process.last_words() or said
                self._discard()
            else:
                return
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the runtime is closed")
        if not self._may_exec:
            self._lost.set()
            raise SpawnerLostError(_LOST)
        raise OSError(errno.ECHILD, f"{ATTEMPTS} spawners have died" + (said and f": {said}"))

    def _start(self, process: _SpawnerProcess, request: _Request) -> tuple[int, int]:
        gate, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with gate, theirs:
            pid, pidfd = process.fork(theirs, self._wait_for_spawner)
            theirs.close()
            with suppress(ConnectionError):  # it has died: the caller sees that by its pidfd
                socket.send_fds(gate, [request.job()], list(request.fds))
            # It has left the process group of the spawner, or died, when this returns.
            if not self._wait_for_child(pid, (gate.fileno(), pidfd)):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        return pid, pidfd

    def _wait_for_spawner(self, pid: int, fds: Sequence[int]) -> list[int]:
        # One that cannot be replaced is waited for, whatever it does.
        return wait_for_child(pid, fds, patient=not self._may_exec, cancelled=self._is_closed)

    def _wait_for_child(self, pid: int, fds: Sequence[int]) -> list[int]:
        return wait_for_child(pid, fds, patient=False, cancelled=self._is_closed)

    def _is_closed(self) -> bool:
        return self._closed


class Spawner:
    """Starts processes, from any thread; all end with it, but those that outlive this process.

    `lost` is set when no more can be started.  It is closed when the last reference is dropped.
    """

    def __init__(self, lost: FlagEvent) -> None:
        self._thread = _Thread(lost)
        self.close = weakref.finalize(self, self._thread.close)

    def prepare(self, modules: Sequence[str]) -> None:
        """Start the spawner's process, which imports `modules`; raises OSError."""
        self._thread.modules = tuple(modules)
        self._thread.perform(_Request())

    def forbid_exec(self) -> None:
        """Never start another spawner: this process may no longer exec."""
        self._thread.forbid_exec()

    @property
    def pid(self) -> int | None:
        """The process id of the spawner, None while there is none."""
        return self._thread.pid

    def start(
        self, name: str, main: Callable[..., None], fds: Sequence[int], *, outlives: bool = False
    ) -> ChildProcess:
        """Start a process that calls `main` with an end for each of `fds`, which the caller still owns.

        Raises OSError, SpawnerLostError.
        """
        request = _Request(name, f"{main.__module__}:{main.__qualname__}", fds, outlives)
        if not self._thread.modules:
            self._thread.modules = (main.__module__,)
        self._thread.perform(request)
        assert request.child is not None
        return ChildProcess(name, *request.child, partial(self._abandon, outlives=outlives))

    def _abandon(self, pidfd: int, *, outlives: bool) -> None:
        self._thread.orphans[pidfd] = outlives
