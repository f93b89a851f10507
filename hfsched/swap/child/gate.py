"""A gate around accesses to guest memory, which main closes while memory is staged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["Gate"]


class Gate:
    """Tasks are inside between `enter` and `leave`; `close` admits no more and waits for those inside.

    It is closed at first.
    """

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._lock = runtime.lock(name, state=self.key)
        self._is_open = False
        self._inside = 0
        self._opened = runtime.event(f"{name}.opened")
        self._empty = runtime.event(f"{name}.empty")

    def key(self) -> object:
        """Return all that the lock guards."""
        return (self._is_open, self._inside)

    def enter(self) -> None:
        """Wait until it is open, and be inside."""
        while True:
            with self._lock:
                if self._is_open:
                    self._inside += 1
                    return
            self._runtime.retain_only(level=1)
            self._opened.wait()

    def leave(self) -> None:
        """Be outside again."""
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    def open(self) -> None:
        """Admit tasks."""
        with self._lock:
            self._is_open = True
            self._opened.set()

    def close(self, deadline: int | None) -> bool:
        """Admit no task; return whether none was inside any more at the deadline (ns)."""
        with self._lock:
            self._is_open = False
            self._opened.clear()
            if not self._inside:
                return True
            self._empty.clear()
        return self._empty.wait(deadline)
