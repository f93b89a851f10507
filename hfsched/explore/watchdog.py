"""Ends a step that does not come back: a task that blocks, or spins, outside the runtime.

Between two points a task runs alone.  Where it waits there for what only another task could give it, a real
`threading.Lock` for example, no task runs any more, and no search comes to its budget's end.  So a thread
beside the explorer looks at its steps.  Without one for `PATIENCE`, in which the processor has not run the
explorer either, or for `SPIN` of the processor's time, it interrupts the explorer by a signal, whose handler
raises `StuckError` where the task blocks: the end of that execution, and its failure.  Where that does not
help, because the explorer is no main thread or blocks in C, the process ends with the same words.
"""

from __future__ import annotations

import contextlib
import linecache
import os
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from hfsched.explore.places import place_of_frame

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller

__all__ = ["StuckError", "watching"]

TICK = 0.25  # s between two looks
PATIENCE = 6  # looks without a step, and without a run on a processor
IDLE = 1_000_000  # ns of a processor's time in one look: less is none
SPIN = 10_000_000_000  # ns of a processor's time without a step
GRACE = 8  # looks until the process is ended
STATUS = 1
SIGNAL = signal.SIGRTMAX - 1

_LIBRARY = sysconfig.get_path("stdlib") + os.sep


class StuckError(BaseException):
    """A task does not come back to a point of the runtime; no code under test is to catch this."""


class _Watch:
    """The execution that is watched, by the thread that runs it."""

    def __init__(self) -> None:
        self.controller: Controller | None = None
        self.thread = threading.get_ident()
        self.state = Path("/proc/self/task", str(threading.get_native_id()), "stat")
        self.clock = time.pthread_getcpuclockid(self.thread)
        self.steps = -1  # at the last look
        self.used = 0  # ns of the processor's time, at the last look
        self.began = 0  # likewise, when that step was first seen
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
        controller = self.controller
        if controller is None:
            self.steps, self.idle = -1, 0
            return False
        used, before = self._processor_time(), self.used
        self.used = used
        seen = id(controller) ^ controller.steps
        if seen != self.steps:
            self.steps, self.began, self.idle = seen, used, 0
            return False
        self.idle = self.idle + 1 if used - before < IDLE and self._sleeps() else 0
        return self.idle >= PATIENCE or used - self.began > SPIN


_watches: dict[int, _Watch] = {}  # by thread
_start = threading.Lock()
_threads: list[threading.Thread] = []


def _forget() -> None:
    _watches.clear()
    _threads.clear()


os.register_at_fork(after_in_child=_forget)  # it has neither the thread nor the executions


@contextlib.contextmanager
def watching(controller: Controller) -> Iterator[None]:
    """Watch an execution, which this thread runs."""
    watch = _watches.get(threading.get_ident()) or _begin()
    before, watch.controller = watch.controller, controller
    try:
        yield
    finally:
        watch.controller = before


def _begin() -> _Watch:
    with _start:
        if threading.current_thread() is threading.main_thread():
            signal.signal(SIGNAL, _raise)
        watch = _watches[threading.get_ident()] = _Watch()
        if not any(thread.is_alive() for thread in _threads):
            _threads[:] = [
                threading.Thread(target=_look, name="hfsched.explore.watchdog", daemon=True)
            ]
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
    """Raise StuckError in the main thread, unless the task has come back meanwhile."""
    watch = _watches.get(threading.get_ident())
    controller = None if watch is None else watch.controller
    if (
        watch is not None
        and controller is not None
        and watch.steps == id(controller) ^ controller.steps
    ):
        raise StuckError(_text(controller, frame))


def _end(watch: _Watch, frame: FrameType | None) -> None:
    controller = watch.controller
    if controller is not None:
        os.write(2, f"hfsched: {_text(controller, frame)}\n".encode(errors="backslashreplace"))
        os._exit(STATUS)


def _text(controller: Controller, frame: FrameType | None) -> str:
    """Return who does not come back, from where."""
    who = "the scenario" if controller.current is None else f"task {controller.current.name}"
    inside = ""
    while frame is not None and frame.f_code.co_filename.startswith(_LIBRARY):
        inside = f" (in {Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname})"
        frame = frame.f_back
    place = place_of_frame(frame)
    if place is None:
        return f"{who} does not come back to the runtime"
    code, line = place
    source = linecache.getline(code.co_filename, line).strip()
    return (
        f"{who} does not come back to the runtime: it blocks or spins outside it, at"
        f" {Path(code.co_filename).name}:{line}: {source}{inside}"
    )
