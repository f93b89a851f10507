"""Errors of swap requests, as main's side raises them."""

from __future__ import annotations

from hfsched.errors import HfschedError

__all__ = ["LostError", "SwapError"]


class SwapError(HfschedError):
    """A request was not done; the text is one line, and says why.  The guest runs on."""


class LostError(SwapError):
    """There is no monitor any more, and none could be started."""
