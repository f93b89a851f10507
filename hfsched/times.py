"""Parsing of durations, such as 500ms, 30s or 2m."""

from __future__ import annotations

import re

__all__ = ["seconds", "seconds_or_number", "with_unit"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}")
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")


def seconds(text: str) -> float | None:
    """Return a duration in seconds, more than 0; None for an invalid text."""
    found = _TIME.fullmatch(text)
    if found is None or float(found[1]) == 0:
        return None
    return float(found[1]) * _UNITS[found[2]]


def seconds_or_number(text: str) -> float | None:
    """Return a duration in seconds, also that of a number without a unit, and 0; None: invalid."""
    if _NUMBER.fullmatch(text):
        return float(text)
    found = _TIME.fullmatch(text)
    return None if found is None else float(found[1]) * _UNITS[found[2]]


def with_unit(text: str) -> str:
    """Return ": write 30s" for a number without a unit, else nothing."""
    return f": write {text}s" if _NUMBER.fullmatch(text) else ""
