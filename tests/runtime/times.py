"""A time that is far away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from progress import QUIET_NS

if TYPE_CHECKING:
    from hfsched.runtime.threads import ThreadRuntime

__all__ = ["LONG", "later"]

LONG = QUIET_NS  # nothing here takes that long unless it is broken


def later(rt: ThreadRuntime) -> int:
    return rt.now() + LONG
