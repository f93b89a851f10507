"""Ends work that makes no progress: a thread that blocks, or spins, where it is not meant to.

A thread beside it looks at its steps.  Without one for `PATIENCE`, in which the processor has not run the
working thread either, or for `SPIN` of the processor's time, it interrupts that by a signal, whose handler
raises the work's own exception where the thread blocks.  Where that does not help, because it is no main
thread or blocks in C, the process ends with the same words.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol

__all__ = ["PATIENCE", "SPIN", "TICK", "Work", "watching_for_stalls"]

TICK = 0.25  # s between two looks
PATIENCE = 6  # looks without a step, and without a run on a processor
IDLE = 1_000_000  # ns of a processor's time in one look: less is none
SPIN = 10_000_000_000  # ns of a processor's time without a step
GRACE = 8  # looks until the process is ended
STATUS = 1
SIGNAL = signal.SIGRTMAX - 1


class Work(Protocol):
    """What a thread is to make progress with."""

    def mark(self) -> int:
        """Return a number that differs after each step, from those of other work too."""

    def stalled(self, frame: FrameType | None) -> BaseException:
        """Return what to raise in the thread, which is in `frame`; its text is one line."""


class _Watch:
    """A thread that is watched, made by that thread."""

    def __init__(self) -> None:
        self.work: Work | None = None
        self.thread = threading.get_ident()
        self.state = Path("/proc/self/task", str(threading.get_native_id()), "stat")
        self.clock = time.pthread_getcpuclockid(self.thread)
        self.mark = -1  # at the last look
        self.used = 0  # ns of the processor's time, at the last look
        self.began = 0  # likewise, when that mark was first seen
        self.idle = 0  # looks

    def _processor_time(self) -> int:
        """Return the ns for which a processor has run the thread; where that is not told, the process."""
        try:
            return time.clock_gettime_ns(self.clock)
        except OSError:  # a main thread whose id the C library does not know, as after some forks
            return time.process_time_ns()

    def _sleeps(self) -> bool:
        """Return whether the thread waits for something, and not only for a processor."""
        try:
            return self.state.read_bytes().rpartition(b")")[2].split()[0] != b"R"
        except OSError:  # there is no /proc
            return True

    def is_stuck(self) -> bool:
        """Look at it; return whether it does not come back."""
        work = self.work
        if work is None:
            self.mark, self.idle = -1, 0
            return False
        used, before = self._processor_time(), self.used
        self.used = used
        seen = work.mark()
        if seen != self.mark:
            self.mark, self.began, self.idle = seen, used, 0
            return False
        self.idle = self.idle + 1 if used - before < IDLE and self._sleeps() else 0
        return self.idle >= PATIENCE or used - self.began > SPIN


_watches: dict[int, _Watch] = {}  # by thread
_start = threading.Lock()
_threads: list[threading.Thread] = []


def _forget() -> None:
    _watches.clear()
    _threads.clear()


os.register_at_fork(after_in_child=_forget)  # it has neither the thread nor the work


@contextlib.contextmanager
def watching_for_stalls(work: Work) -> Iterator[None]:
    """Watch work that this thread does; it may do other work meanwhile, which is watched instead."""
    watch = _watches.get(threading.get_ident()) or _begin()
    before, watch.work = watch.work, work
    try:
        yield
    finally:
        watch.work = before


def _begin() -> _Watch:
    with _start:
        if threading.current_thread() is threading.main_thread():
            signal.signal(SIGNAL, _raise)
        watch = _watches[threading.get_ident()] = _Watch()
        if not any(thread.is_alive() for thread in _threads):
            _threads[:] = [threading.Thread(target=_look, name="hfsched.stalls", daemon=True)]
            _threads[0].start()
        return watch


def _look() -> None:
    asked: dict[int, int] = {}  # looks since a thread was interrupted
    while True:
        time.sleep(TICK)
        for ident, watch in list(_watches.items()):
            if not watch.is_stuck():
                asked.pop(ident, None)
                continue
            asked[ident] = asked.get(ident, 0) + 1
            if asked[ident] == 1 and ident == threading.main_thread().ident:
                signal.pthread_kill(ident, SIGNAL)
            elif asked[ident] > GRACE or ident != threading.main_thread().ident:
                _end(watch, sys._current_frames().get(ident))


def _raise(_number: int, frame: FrameType | None) -> None:
    """Raise the work's exception in the main thread, unless that has come back meanwhile."""
    watch = _watches.get(threading.get_ident())
    work = None if watch is None else watch.work
    if watch is not None and work is not None and watch.mark == work.mark():
        raise work.stalled(frame)


def _end(watch: _Watch, frame: FrameType | None) -> None:
    work = watch.work
    if work is not None:
        os.write(2, f"hfsched: {work.stalled(frame)}\n".encode(errors="backslashreplace"))
        os._exit(STATUS)
