"""What is on purpose not as the explorer wants it: declared where it stands, with the reason.

::

    @unordered(wake_ups="a counter for the summary, which is printed when all threads have ended")
    @uncompared(line="follows from the interrupts, which are compared")
    class Vcpu:
        ...

In an `unordered` field, and in the container that it holds, the explorer finds no data race.  A field that
decides control flow is never declared so: its accesses need an order.

An `uncompared` field is written under a lock whose `state=` does not read it: it follows from what is
compared, or nothing that tasks do depends on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

__all__ = ["UNCOMPARED", "UNORDERED", "Declaration", "uncompared", "unordered"]

T = TypeVar("T", bound=type)


class Declaration(NamedTuple):
    """A field of a class (and of its subclasses), and the reason."""

    owner: type
    field: str
    reason: str


UNORDERED: list[Declaration] = []
UNCOMPARED: list[Declaration] = []


def unordered(**reasons: str) -> Callable[[T], T]:
    """Return a decorator that declares fields that several tasks access without an order."""
    return _declare(UNORDERED, "unordered", reasons)


def uncompared(**reasons: str) -> Callable[[T], T]:
    """Return a decorator that declares fields that no lock's `state=` reads."""
    return _declare(UNCOMPARED, "uncompared", reasons)


def _declare(known: list[Declaration], what: str, reasons: dict[str, str]) -> Callable[[T], T]:
    def declare(kind: T) -> T:
        for field, reason in reasons.items():
            if not reason.strip():
                raise ValueError(f"{kind.__name__}.{field}: {what}, but no reason is given")
            known.append(Declaration(kind, field, reason))
        return kind

    return declare
