"""How an execution ends before its tasks do."""

from __future__ import annotations

__all__ = ["Pause", "Prune", "StepsExceededError"]


class Prune(Exception):  # noqa: N818 - no error
    """The strategy has already explored everything that can follow."""


class Pause(Exception):  # noqa: N818 - no error
    """The strategy returns control to the caller of `Controller.explore`, which may call it again."""


class StepsExceededError(Exception):
    """An execution that does not end: a livelock, or a bound that is too low."""
