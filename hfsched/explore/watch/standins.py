"""What is behind an object that stands for another one."""

from __future__ import annotations

import weakref
from typing import Any

__all__ = ["PROXIES", "behind"]

PROXIES: tuple[type, ...] = weakref.ProxyTypes


def behind(of: Any) -> Any:
    """Return the object of a weak proxy, unless that is dead; of all else, itself."""
    if type(of) not in PROXIES:
        return of
    try:
        return of.__repr__.__self__
    except (ReferenceError, AttributeError):
        return of
