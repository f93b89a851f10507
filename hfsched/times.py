"""How long: what a user writes for a time, such as 500ms, 30s or 2m."""

from __future__ import annotations

import re

__all__ = ["seconds"]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_TIME = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s|m|h)")


def seconds(text: str) -> float | None:
    """Return a time in seconds, more than 0; None for what is no such time."""
    found = _TIME.fullmatch(text)
    if found is None or float(found[1]) == 0:
        return None
    return float(found[1]) * _UNITS[found[2]]
