"""A bounded queue of lines and the task that writes them to a descriptor.

A line offered on a vCPU's thread must not wait for a reader: when the queue is full it is counted as
lost, and a line that reports the loss takes its place.
"""

from __future__ import annotations

import os
import select
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Lines", "write_all"]

QUEUE_MAX = 1000  # lines
_CHUNK = 1 << 16


class Lines:
    """Writes to `fd`.  `loss(n)` is the line that reports n lost ones, `gate()` comes before each write.

    `error` is the OSError that ended it, None while it works; `changed` is set with it.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        fd: int,
        loss: Callable[[int], bytes],
        changed: Event,
        gate: Callable[[], None] | None = None,
    ) -> None:
        self._gate = gate
        self._fd = fd
        self._loss = loss
        self._changed = changed
        self._lock = runtime.lock(
            name, state=lambda: (tuple(self._lines), self._lost, self._closing)
        )
        self._lines: deque[bytes] = deque()
        self._filled = runtime.event(f"{name}.filled")
        self._space = runtime.event(f"{name}.space")
        self._lost = 0
        self._closing = False
        self.error: OSError | None = None
        self._task = runtime.spawn(name, self._write)

    def offer(self, line: bytes) -> None:
        """Queue a line if there is space; never blocks."""
        with self._lock:
            if len(self._lines) >= QUEUE_MAX:
                self._lost += 1
                return
            self._report_loss()
            self._lines.append(line)
            self._filled.set()

    def put(self, line: bytes) -> None:
        """Queue a line, and wait for space."""
        while True:
            with self._lock:
                if len(self._lines) < QUEUE_MAX or self.error is not None:
                    self._lines.append(line)
                    self._filled.set()
                    return
                self._space.clear()
            self._space.wait()

    def close(self, deadline: int | None = None) -> bool:
        """Write what is left; return whether all of it was written before the deadline."""
        with self._lock:
            self._report_loss()
            self._closing = True
            self._filled.set()
        return self._task.join(deadline) and self.error is None

    def _report_loss(self) -> None:
        if self._lost:
            self._lines.append(self._loss(self._lost))
            self._lost = 0

    def _write(self) -> None:
        while True:
            with self._lock:
                chunk = b"".join(self._lines)
                self._lines.clear()
                self._space.set()
                if not chunk:
                    if self._closing:
                        return
                    self._filled.clear()
            if not chunk:
                self._filled.wait()
                continue
            try:
                for start in range(0, len(chunk), _CHUNK):
                    if self._gate is not None:
                        self._gate()
                    write_all(self._fd, chunk[start : start + _CHUNK])
            except OSError as exc:
                with self._lock:
                    self.error = exc
                    self._space.set()
                self._changed.set()
                return


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, waiting also for a non-blocking descriptor."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
