"""Run-down protection: who uses something until it ends, which waits for them and lets nobody begin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hfsched.swap.client.errors import SwapError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["Rundown"]


class Rundown:
    """Counts those who use something; any thread.  `end` and `close` are for its owner."""

    def __init__(self, runtime: Runtime, name: str, why: str) -> None:
        self._lock = runtime.lock(name, state=self.key)
        self._why = why  # nobody may begin any more
        self._users = 0
        self._over = False
        self._idle = runtime.event(f"{name}.idle")

    def key(self) -> object:
        """Return all that the lock guards."""
        return (self._users, self._over)

    def enter(self) -> bool:
        """Begin to use it; `leave` must follow.  False: it ends, and may not be used."""
        with self._lock:
            if not self._over:
                self._users += 1
            return not self._over

    def must_enter(self) -> None:
        """Do `enter`; raises SwapError where that returns False."""
        if not self.enter():
            raise SwapError(self._why)

    def leave(self) -> None:
        """Use it no more."""
        with self._lock:
            self._users -= 1
            if self._over and not self._users:
                self._idle.set()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Use it for a ``with``; raises SwapError when it ends."""
        self.must_enter()
        try:
            yield
        finally:
            self.leave()

    def end(self, deadline: int) -> bool:
        """Let nobody begin; return whether nobody uses it any more, by the deadline (ns)."""
        with self._lock:
            self._over = True
            if not self._users:
                return True
        return self._idle.wait(deadline)

    def close(self) -> None:
        """Free its event, once `end` has returned True: nobody is about to set it."""
        self._idle.close()
