"""Attributes that some watched code assigns or deletes, by name.

A function of a class is read by each call of it.  That need not be noted of one that nobody replaces, and what
is replaced is assigned somewhere by its name.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["REPLACED", "may_be_replaced"]

REPLACED: set[str] = set()


def may_be_replaced(names: Iterable[str]) -> None:
    """Note that watched code assigns attributes of these names."""
    REPLACED.update(names)
