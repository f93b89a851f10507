"""Stops of the process: guests' clocks stop with it, or the time is taken out of them afterwards.

Ctrl-Z (SIGTSTP), SIGTTIN and SIGTTOU are handled: the machine is suspended first.  SIGSTOP cannot be; when
SIGCONT comes, the time of the stop is measured, and the clocks are set back by it.

A background job that reads its terminal, or writes to one with ``stty tostop``, is stopped by the kernel's
signal, again and again while a handler catches it.  So the threads block the two signals, find out by
themselves that the terminal is another job's, and ask for the stop.
"""

from __future__ import annotations

import os
import signal
import termios
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.cli.output import notice
from hfsched.cli.stopwatch import Stopwatch
from hfsched.scheduler.suspension import SuspendError

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime
    from hfsched.vmm.machine import Machine

__all__ = ["STOPS", "JobControl"]

STOPS = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
_BLOCKED = {signal.SIGTTIN, signal.SIGTTOU}
_HOLDER = "job control"  # holds the suspension while the process is stopped
_NS = 1_000_000_000
_SUSPEND_WITHIN = (
    _NS  # a clock: the user waits for Ctrl-Z, and the guests' clocks can be put right later
)
_GAP_MIN = 20_000_000  # ns; less may be a thread that did not get the processor


class JobControl:
    """Created by the main thread before those that read or write a terminal.

    `changed` is set when `attend` has something to do, which the main thread then calls.
    """

    def __init__(self, runtime: Runtime, changed: Event) -> None:
        self._runtime = runtime
        self._changed = changed
        self._lock = runtime.lock("job", state=self.key)
        self._asked: int | None = None  # the signal to stop by
        self._group = False  # it is for the whole job: no other process has got it
        self._continued = False
        self._stopping = False
        self._stops = 0
        self._released = False
        self._waiting: list[Event] = []
        signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)  # inherited by later threads
        self._stopwatch = Stopwatch(runtime)

    # Any thread.

    def key(self) -> object:
        """Return all that the lock guards."""
        signals = (self._asked, self._group, self._continued)
        return (signals, self._stopping, self._stops, self._released, len(self._waiting))

    def note(self, number: int) -> None:
        """Note a signal that came: one of `STOPS`, or SIGCONT."""
        with self._lock:
            if number == signal.SIGCONT:
                self._continued = True
            elif self._asked is None:
                self._asked, self._group = number, False
        self._changed.set()

    def await_foreground(
        self, fd: int, number: int, wanted: Callable[[], bool] = lambda: True
    ) -> bool:
        """Have the job stopped by `number` while the terminal at `fd` is another job's.

        That is, unless the signal is ignored or nobody could continue the job, as the kernel does, and while
        `wanted` returns True.  Returns whether it was stopped.
        """
        stopped = False
        while True:
            with self._lock:
                if self._released:
                    return stopped
                stops = self._stops
            may = signal.getsignal(number) is not signal.SIG_IGN
            if not may or not _in_background(fd) or not wanted() or _orphaned():
                return stopped
            stopped = True
            with self._lock:
                if self._released or self._stops != stops:
                    continue  # it was stopped and continued since the look at the terminal
                event = self._runtime.event("job.continued")
                self._waiting.append(event)
                if not self._stopping and self._asked is None:
                    self._asked, self._group = number, True
            self._changed.set()
            event.wait()

    def gate(self, fd: int) -> Callable[[], None] | None:
        """Return what to call before a write to `fd`; None: nothing."""
        if not os.isatty(fd):
            return None

        def gate() -> None:
            if _in_background(fd) and _tostop(fd):
                self.await_foreground(fd, signal.SIGTTOU, lambda: _tostop(fd))

        return gate

    # The main thread.

    def attend(self, machine: Machine, say: Callable[[str], None], *, quiet: bool) -> bool:
        """Do what was asked for, and set the clocks right; return whether the process was stopped.

        `say` gets what the user may want to know, unless they want `quiet`.
        """
        if self._asked is not None:
            self._pause(machine, quiet=quiet)
            return True
        if not self._continued:
            return False
        self._continued = False
        gap = self._stopwatch.take()
        if gap < _GAP_MIN:
            return False
        ended = self._runtime.now()
        took = f"the process was stopped for {gap / _NS:.2f} s"
        try:
            with machine.suspension.held(_HOLDER, ended + _SUSPEND_WITHIN):
                machine.take_out(ended - gap, ended)
        except SuspendError as exc:
            say(f"{took}, and the guests' clocks count it: {exc}")
        else:
            say(f"{took}: taken out of the guests' clocks")
        return True

    def release(self) -> None:
        """Let these signals stop the process by themselves from now on."""
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        with self._lock:
            self._released = True
            self._wake()

    def _pause(self, machine: Machine, *, quiet: bool) -> None:
        try:
            machine.suspension.suspend(_HOLDER, self._runtime.now() + _SUSPEND_WITHIN)
        except SuspendError as exc:
            if not quiet:  # at once: nothing is written while the process is stopped
                notice(f"stopped, but the guests' clocks keep running: {exc}")
            self._stop()
        else:
            try:
                self._stop()
            finally:
                machine.suspension.resume(_HOLDER)

    def _stop(self) -> None:
        """Stop the process; return when it was continued.

        As usual, it has no effect without a shell that could continue it (an orphaned process
        group).
        """
        with self._lock:
            number, group = self._asked or signal.SIGTSTP, self._group
            self._asked = None  # one that comes from now on is another
            self._stopping = True
        handler = signal.getsignal(number)
        signal.signal(number, signal.SIG_IGN)  # one that is pending is dropped
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})  # a blocked one would not be ignored
        if group:
            os.killpg(os.getpgrp(), number)
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)  # to this thread: it returns once continued
        signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_BLOCK, {number} & _BLOCKED)
        self._stopwatch.take()  # the clocks have been stopped
        with self._lock:
            self._stopping = False
            self._stops += 1
            self._wake()

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()
        self._waiting.clear()


def _in_background(fd: int) -> bool:
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:
        return False


def _tostop(fd: int) -> bool:
    try:
        return bool(termios.tcgetattr(fd)[3] & termios.TOSTOP)
    except termios.error:
        return False


def _orphaned() -> bool:
    """Return whether no process of our session could continue our process group."""
    group, session, pid = os.getpgrp(), os.getsid(0), os.getpid()
    try:
        while os.getsid(pid) == session:
            if os.getpgid(pid) != group:
                return False
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        pass
    return True
