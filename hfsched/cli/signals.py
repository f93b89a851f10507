"""SIGINT and SIGTERM while a machine runs.

No handler raises: an exception out of the blue, between starting a thread and noting it, loses the
thread.  A task waits for signals instead, and says so to whoever waits for the end.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Signals"]


class Signals:
    """From its making on, `number` is the first signal that came (None: none yet).

    `changed` is set with it.  A second signal ends the process at once.
    """

    def __init__(self, runtime: Runtime, changed: Event) -> None:
        self.number: int | None = None
        self._changed = changed
        self._fd, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)
        runtime.spawn("signals", self._watch)

    def _watch(self) -> None:
        while byte := os.read(self._fd, 1):
            if self.number is not None:
                os._exit(128 + byte[0])
            self.number = byte[0]
            self._changed.set()
