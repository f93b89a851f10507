"""How long the process has been stopped, by SIGSTOP too, which no handler sees.

ppoll(2) writes back how much of its time-out is left when a stop interrupts it, and is restarted with that
rest once the process is continued.  So of the time that passes around one, what is missing from the time-out
is the time of the stop.  A task sleeps in one: nothing is polled.
"""

from __future__ import annotations

import ctypes
import os
import platform
import select
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["Stopwatch"]

_NS = 1_000_000_000
_LONG = 1 << 30  # seconds; a wait that is over begins again
# The C library's function leaves the time-out as it was.
_PPOLL = {"x86_64": 271, "aarch64": 73}.get(platform.machine())
_SIGSET_BYTES = 8


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Pollfd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


class Stopwatch:
    """Counts from its creation on.  `take` is for one thread."""

    def __init__(self, runtime: Runtime) -> None:
        self._fd, self._write = os.pipe()
        self._syscall = ctypes.CDLL(None, use_errno=True).syscall
        self._answered = runtime.event("stopwatch.answered")
        self._stopped = 0
        self._asked = 0  # when, in ns
        if _PPOLL is not None:
            runtime.spawn("stopwatch", self._watch)

    def take(self) -> int:
        """Return for how many ns the process was stopped since the last call.

        It may be some ms too little, where the processor is busy, but hardly too much: a guest's clock
        that is set back by it does not show a time again.
        """
        if _PPOLL is None:
            return 0
        self._answered.clear()
        self._asked = time.monotonic_ns()
        os.write(self._write, b"t")
        self._answered.wait()
        stopped, self._stopped = self._stopped, 0
        return stopped

    def _watch(self) -> None:
        # A signal's handler would end the wait, as a stop does not.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        entry = _Pollfd(self._fd, select.POLLIN, 0)
        while True:
            entry.revents = 0
            left = _Timespec(_LONG, 0)
            began = time.monotonic_ns()
            self._syscall(_PPOLL, ctypes.byref(entry), 1, ctypes.byref(left), None, _SIGSET_BYTES)
            if entry.revents:
                # Until it was asked, not until now: this thread may have waited for Python's lock.
                waited = _LONG * _NS - left.sec * _NS - left.nsec
                self._stopped += max(0, self._asked - began - waited)
                os.read(self._fd, 1)
                self._answered.set()
