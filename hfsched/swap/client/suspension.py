"""What swap needs of the machine: to be suspended while memory is staged, and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Suspendable", "suspended"]


class Suspendable(Protocol):
    """Suspends vCPUs and devices; a second caller waits for the first one's `resume`."""

    def suspend(self, deadline: int | None = None) -> None:
        """Suspend everything by the deadline (ns), or raise and leave everything running."""

    def resume(self) -> None:
        """Resume everything."""


@contextmanager
def suspended(suspendable: Suspendable, deadline: int | None = None) -> Iterator[None]:
    """Keep everything suspended for a ``with``."""
    suspendable.suspend(deadline)
    try:
        yield
    finally:
        suspendable.resume()
