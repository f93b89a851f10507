"""When a back-end that is gone is tried to be reached again."""

from __future__ import annotations

__all__ = ["RETRY_FOR", "Retry"]

RETRY_FOR = 60_000_000_000  # ns
_SETTLED_AFTER = 10_000_000_000  # ns
_FIRST, _LAST = 10_000_000, 500_000_000  # ns, between two tries


class Retry:
    """Tries at `at` (ns), later each time; None: not, for there is a back-end, or it is given up.

    A back-end that is lost again before it has *settled*, by serving a request or by staying, is none: pauses go on to
    grow, and it is `over` after `RETRY_FOR`.
    """

    def __init__(self) -> None:
        self.at: int | None = None
        self._begun = 0
        self._ended = 0
        self._settled = True
        self._pause = _FIRST

    def begin(self, now: int) -> bool:
        """Try from now on; return whether it was not tried already."""
        if self.at is not None:
            return False
        if self._settled or now - self._ended >= _SETTLED_AFTER:
            self._begun, self._pause = now, _FIRST
        self._settled = False
        self._later(now)
        return True

    def due(self, now: int) -> bool:
        """Return whether it is time to try."""
        return self.at is not None and now >= self.at

    def over(self, now: int) -> bool:
        """Return whether it was tried for long enough."""
        return now - self._begun >= RETRY_FOR

    def failed(self, now: int) -> None:
        """Try later."""
        self._later(now)

    def _later(self, now: int) -> None:
        self.at = now + self._pause
        self._pause = min(2 * self._pause, _LAST)

    def settle(self) -> None:
        """Note that the back-end serves requests."""
        self._settled = True

    def reached(self, now: int) -> None:
        """Try no more: there is a back-end."""
        self.at, self._ended = None, now

    def give_up(self) -> None:
        """Try no more, and begin anew the next time."""
        self.at, self._settled = None, True
