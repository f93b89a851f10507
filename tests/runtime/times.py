"""A time that is far away."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.threads import ThreadRuntime

__all__ = ["LONG", "later"]

LONG = 20_000_000_000  # ns; nothing here takes that long unless it is broken


def later(rt: ThreadRuntime) -> int:
    return rt.now() + LONG
