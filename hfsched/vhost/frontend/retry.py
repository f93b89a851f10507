"""When a back-end that is gone is tried to be reached again."""

from __future__ import annotations

__all__ = ["RETRY_FOR", "Retry"]

RETRY_FOR = 60_000_000_000  # ns
_FIRST, _LAST = 10_000_000, 500_000_000  # ns, between two tries


class Retry:
    """Tries at `at` (ns), later each time; None: not, for there is a back-end, or it is given up."""

    def __init__(self) -> None:
        self.at: int | None = None
        self._begun = 0
        self._pause = _FIRST

    def begin(self, now: int) -> bool:
        """Try from now on; return whether it was not tried already."""
        if self.at is not None:
            return False
        self._begun, self._pause = now, _FIRST
        self.at = now + _FIRST
        return True

    def due(self, now: int) -> bool:
        """Return whether it is time to try."""
        return self.at is not None and now >= self.at

    def failed(self, now: int) -> bool:
        """Try later; return False, and end, after `RETRY_FOR`."""
        if now - self._begun >= RETRY_FOR:
            self.end()
            return False
        self._pause = min(2 * self._pause, _LAST)
        self.at = now + self._pause
        return True

    def end(self) -> None:
        """Try no more."""
        self.at = None
