"""What swap needs of whatever runs: to be suspended while memory is staged, and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Suspendable", "suspended"]


class Suspendable(Protocol):
    """Brings vCPUs and devices to a suspendable: one at a time, others wait for its end."""

    def suspend(self, deadline: int | None = None) -> None:
        """Stop everything, by the deadline; else raise, with nothing left stopped."""

    def resume(self) -> None:
        """Let everything go on."""


@contextmanager
def suspended(suspendable: Suspendable, deadline: int | None = None) -> Iterator[None]:
    """Keep everything stopped for a ``with``."""
    suspendable.suspend(deadline)
    try:
        yield
    finally:
        suspendable.resume()
