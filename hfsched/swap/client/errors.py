"""The errors of main's side of swap."""

from __future__ import annotations

from hfsched.errors import HfschedError

__all__ = ["LostError", "SwapError"]


class SwapError(HfschedError):
    """A request was not done; the text is one line with the reason.  The guests keep running."""


class LostError(SwapError):
    """There is no monitor, and none could be started."""
