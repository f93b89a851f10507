"""Signals while a machine runs: SIGINT, SIGTERM and SIGHUP end it, those of job control stop it.

No handler raises: an exception between the start of a thread and its registration would lose the
thread.  A handler notes the signal, and a task, which gets its number too, sets the event that the
main thread waits for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.cli.ending import handle_ends
from hfsched.cli.jobcontrol import STOPS

if TYPE_CHECKING:
    from hfsched.cli.jobcontrol import JobControl
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Signals"]


def _seen(_number: int, _frame: object) -> None:
    """Do nothing: the signal's number is in the pipe."""


class Signals:
    """From its creation on, `number` is the first signal that came (None: none yet).

    `changed` is set with it, and `on_signal(number)` is called.  A second signal ends the process at
    once, but for SIGHUP, of which a terminal that is closed may send several.  `job` is told of stops
    and of SIGCONT.  Those of SIGHUP and of the stops that the process ignores it keeps ignoring.
    """

    def __init__(
        self,
        runtime: Runtime,
        changed: Event,
        on_signal: Callable[[int], None],
        job: JobControl,
    ) -> None:
        self.number: int | None = None
        self._changed = changed
        self._on_signal = on_signal
        self._job = job
        self._fd, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        handle_ends(self._note)
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _seen)
        signal.signal(signal.SIGCONT, _seen)
        runtime.spawn("signals", self._watch)

    def _note(self, number: int, _frame: object) -> None:
        """Note the first signal, on the main thread: all that it does from now on comes after it.

        The task alone would be too late for a run that ends by itself just then.
        """
        if self.number is None:
            self.number = number

    def _watch(self) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)  # blocked in all other threads
        came = False
        while byte := os.read(self._fd, 1):
            number = byte[0]
            if number in STOPS or number == signal.SIGCONT:
                self._job.note(number)
                continue
            if not came:
                came = True
                self._on_signal(number)
            elif number != signal.SIGHUP:
                os._exit(128 + number)
            self._changed.set()
