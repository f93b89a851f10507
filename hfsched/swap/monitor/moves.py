"""The moves of a monitor: the one under way, and the last ones that have ended, for the status."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.swap.protocol.messages import MOVED_MAX, Moved, Transition, reply_text

if TYPE_CHECKING:
    from hfsched.swap.protocol.messages import State

__all__ = ["Moves"]

_NS_PER_MS = 1_000_000


class Moves:
    """Counts the pages and the time of each move; `now` returns ns.

    `error` is why the last one did not come to its end, else empty.
    """

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._name = ""  # of the move that has not ended
        self._pages = 0  # of the last move that began,
        self._began = 0  # ns
        self._ms = 0  # when it last moved a page
        self._ended = 0  # moves
        self._history: deque[Moved] = deque(maxlen=MOVED_MAX)
        self.error = ""

    def key(self) -> object:
        """Return the whole state, hashable."""
        counts = (self._pages, self._began, self._ms, self._ended)
        return (self._name, *counts, self.error, *map(str, self._history))

    @property
    def under_way(self) -> str:
        """The name of the move that has not ended; empty without one."""
        return self._name

    def begin(self, name: str, state: State) -> None:
        """Begin a move; the one under way ends, in `state`."""
        if self._name:
            self.end(state, f"ended for {name}")
        self._name = name
        self._pages = self._ms = 0
        self._began = self._now()
        self.error = ""

    def count(self, pages: int) -> None:
        """Count pages as moved."""
        self._pages += pages
        self._ms = self._elapsed()

    def end(self, state: State, error: str = "") -> None:
        """End the move under way, or that of a monitor before; `state` is the one after it."""
        self._ended += 1
        self._ms = self._elapsed() if self._name == "enable" else self._ms
        self._history.append(
            Moved(
                number=self._ended,
                move=self._name or "disable",  # of a monitor before this one
                state=state,
                pages=self._pages,
                ms=self._ms,
                error=reply_text(error),
            )
        )
        self._name = ""

    def last(self, *, moving: bool) -> Transition:
        """Return the move under way, or the last one."""
        return Transition(self._pages, self._elapsed() if moving else self._ms)

    def history(self) -> tuple[Moved, ...]:
        """Return the last moves that have ended, oldest first."""
        return tuple(self._history)

    def _elapsed(self) -> int:
        return (self._now() - self._began) // _NS_PER_MS
