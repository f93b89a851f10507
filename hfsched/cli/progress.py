"""How far something is that takes long, on a terminal."""

from __future__ import annotations

import sys

__all__ = ["Progress"]


class Progress:
    """Shows on a terminal how far something is, in whole percents."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._percent = -1
        self._terminal = sys.stderr is not None and sys.stderr.isatty()

    def show(self, done: int, total: int) -> None:
        """Show that so much of all is done."""
        percent = 100 * done // total if total else 100
        if self._terminal and percent != self._percent:
            self._percent = percent
            end = "\n" if percent == 100 else ""
            print(f"\rhfsched: {self._what}: {percent} %", end=end, file=sys.stderr, flush=True)
