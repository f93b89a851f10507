"""The errors of main's side of swap."""

from __future__ import annotations

from hfsched.errors import HfschedError

__all__ = ["BusyError", "LostError", "MonitorFailedError", "SwapError"]


class SwapError(HfschedError):
    """A request was not done; the text is one line with the reason.  The guests keep running."""


class BusyError(SwapError):
    """A request was not made: another one did not end in time."""


class LostError(SwapError):
    """There is no monitor, and none could be started."""


class MonitorFailedError(SwapError):
    """The monitor has reported an internal error, and ends; the text is that error.

    `request`: the number of the request that it failed at, or `NO_NUMBER`.
    """

    def __init__(self, text: str, request: int) -> None:
        super().__init__(text)
        self.request = request
