"""SIGINT, SIGTERM and SIGTSTP (Ctrl-Z) while a machine runs.

No handler raises: an exception between the start of a thread and its registration would lose the
thread.  A handler notes the signal, and a task, which gets its number too, sets the event that the
main thread waits for.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Signals"]


def _seen(_number: int, _frame: object) -> None:
    """Do nothing: the signal's number is in the pipe."""


class Signals:
    """From its creation on, `number` is the first signal that came (None: none yet).

    `changed` is set with it, and `on_signal(number)` is called.  A second signal ends the process at
    once.

    `stop_asked` is whether the process was asked to stop, as by Ctrl-Z, and `changed` is set with it;
    `stop` does it.  A process that ignores SIGTSTP keeps ignoring it.  The methods are for the main
    thread.
    """

    def __init__(self, runtime: Runtime, changed: Event, on_signal: Callable[[int], None]) -> None:
        self.number: int | None = None
        self.stop_asked = False
        self._changed = changed
        self._on_signal = on_signal
        self._fd, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._note)
        if signal.getsignal(signal.SIGTSTP) is not signal.SIG_IGN:
            signal.signal(signal.SIGTSTP, _seen)
        runtime.spawn("signals", self._watch)

    def stop(self) -> None:
        """Stop the process; return when it was continued.

        As usual, it has no effect without a shell that could continue it (an orphaned process
        group).
        """
        self.stop_asked = False
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)  # to this thread: it returns once continued
        signal.signal(signal.SIGTSTP, _seen)

    def release(self) -> None:
        """Let Ctrl-Z stop the process by itself from now on."""
        if signal.getsignal(signal.SIGTSTP) is _seen:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _note(self, number: int, _frame: object) -> None:
        """Note the first signal, on the main thread: all that it does from now on comes after it.

        The task alone would be too late for a run that ends by itself just then.
        """
        if self.number is None:
            self.number = number

    def _watch(self) -> None:
        came = False
        while byte := os.read(self._fd, 1):
            if byte[0] == signal.SIGTSTP:
                self.stop_asked = True
            elif came:
                os._exit(128 + byte[0])
            else:
                came = True
                self._on_signal(byte[0])
            self._changed.set()
