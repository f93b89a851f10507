"""Looks whether a machine is quiet, as `hfsched run` ends one when its input has ended."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from hfsched.explore.thing import Thing

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["Looks"]


class Looks(Thing):
    """Looks until nothing is on its way; then every message that was sent before the look is through.

    `amounts()` returns how many messages have been sent, and how many of those and of their answers are
    still on their way.  `changed` must be set when a look may find something else.
    """

    what = "looks"

    def __init__(self, runtime: ExploreRuntime, amounts: Callable[[], tuple[int, int]]) -> None:
        super().__init__(runtime, "looks")
        self.changed = runtime.event("changed")
        self._amounts = amounts
        self._looking = False
        self._found = False  # it is quiet
        self._sent: int | None = None  # before the look

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return (self._looking, self._found, self._sent)

    def until(self, quiet: Callable[[], bool], over: Callable[[], bool] = lambda: True) -> None:
        """Be a part of the main task: return once it is `quiet`, and everything is `over`."""
        while True:
            self.runtime.retain_only(level=1)
            self.changed.clear()
            self._looking = True
            self.runtime.checkpoint("looks")
            if quiet():
                self._found = True
                self.runtime.checkpoint("quiet")
                self._found = False
                if over():
                    break
            self._looking = False
            self.changed.wait()
        self._looking = False

    def look(self) -> None:
        """Check, for every step; the explorer calls this."""
        if not self._looking:
            self._sent = None
            return
        sent, left = self._amounts()
        if self._sent is None:
            self._sent = sent
        if self._found and sent == self._sent:
            assert left == 0, f"it is quiet, and {left} of {sent} messages are on their way"
