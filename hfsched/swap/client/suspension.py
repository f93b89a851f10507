"""What swap needs of whatever runs: to be suspended while memory is staged, and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Standstill", "still"]


class Standstill(Protocol):
    """Brings vCPUs and devices to a standstill: one at a time, others wait for its end."""

    def suspend(self, deadline: int | None = None) -> None:
        """Stop everything, by the deadline; else raise, with nothing left stopped."""

    def resume(self) -> None:
        """Let everything go on."""


@contextmanager
def still(standstill: Standstill, deadline: int | None = None) -> Iterator[None]:
    """Keep everything stopped for a ``with``."""
    standstill.suspend(deadline)
    try:
        yield
    finally:
        standstill.resume()
