"""Parsing of durations, such as 500ms, 30s or 2m; a number without a unit is in seconds."""

from __future__ import annotations

import re

__all__ = ["seconds"]

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ms|s|m|h|)")


def seconds(text: str) -> float | None:
    """Return a duration in seconds, also 0; None for an invalid text."""
    found = _TIME.fullmatch(text)
    return None if found is None else float(found[1]) * _UNITS[found[2]]
