"""A gate that keeps a machine's CPUs out of the guest while its memory changes.

Memory changes that follow each other without a pause would starve the CPUs: each would arrive when
the next change has closed the gate.  So the gate closes again only after every thread that it kept
out has passed, and has had as long as it was kept.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfsched.runtime.base import Runtime

__all__ = ["Gate"]


class Gate:
    """One thread at a time closes it; any number waits for it."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._mutex = runtime.lock(
            f"{name}.gate.mutex", state=lambda: (self.waiting, self._shut, self._rest)
        )
        self._open = runtime.event(f"{name}.gate")
        self._open.set()
        self._empty = runtime.event(f"{name}.gate.empty")  # set: no thread waits
        self._empty.set()
        self.waiting = 0  # how many threads
        self._shut = 0  # ns: how long it was closed the last time
        self._rest = 0  # ns: when it may close again, if a thread was kept out

    def wait(self) -> None:
        """Wait until the gate is open."""
        with self._mutex:
            if self._open.is_set():
                return
            self.waiting += 1
            self._empty.clear()
        self._open.wait()
        with self._mutex:
            self.waiting -= 1
            if not self.waiting:
                self._rest = self._runtime.now() + self._shut
                self._empty.set()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep threads out inside the ``with``; the caller handles those that have passed."""
        self._empty.wait()
        if self._runtime.now() < self._rest:
            self._runtime.sleep_until(self._rest)
        with self._mutex:
            self._open.clear()
        begun = self._runtime.now()
        try:
            yield
        finally:
            self._shut = self._runtime.now() - begun
            self._open.set()

    def close(self) -> None:
        """Free what it holds."""
        self._open.close()
        self._empty.close()
