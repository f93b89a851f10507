"""What several tasks access without an order, on purpose: declared where it stands, with the reason.

::

    @unordered(wake_ups="a counter for the summary, which is printed when all threads have ended")
    class Mirror:
        ...

The explorer then finds no data race in these fields, nor in the container that such a field holds.  A
field that decides control flow is never declared: its accesses need an order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

__all__ = ["DECLARED", "Declaration", "unordered"]

T = TypeVar("T", bound=type)


class Declaration(NamedTuple):
    """A field of a class (and of its subclasses), and why its accesses need no order."""

    owner: type
    field: str
    reason: str


DECLARED: list[Declaration] = []


def unordered(**reasons: str) -> Callable[[T], T]:
    """Return a decorator that declares fields of a class, each with its reason."""

    def declare(kind: T) -> T:
        for field, reason in reasons.items():
            if not reason.strip():
                raise ValueError(f"{kind.__name__}.{field}: unordered, but no reason is given")
            DECLARED.append(Declaration(kind, field, reason))
        return kind

    return declare
