"""Follows the state of swap while a program subscribes to events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hfsched.control.events import Hub, SwapChanged, SwapMoved
from hfsched.swap.client.errors import SwapError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.swap.protocol.messages import Status

__all__ = ["INTERVAL", "SwapWatch"]

INTERVAL = 100_000_000  # ns
_STATUS_WITHIN = 2_000_000_000  # ns; a clock, since the next look comes anyway


class _Watched(Protocol):
    def status(self, deadline: int | None = None) -> Status:
        """Return the status; may raise SwapError."""


class SwapWatch:
    """Asks for the status every `INTERVAL` while there is a subscriber, until `close`.

    The monitor reports a state only when it is asked, so a state that lasts less than `INTERVAL` may be
    missed; the moves that have ended are not, as long as the monitor lives and they are no more than
    `MOVED_MAX` in that time.
    """

    def __init__(self, runtime: Runtime, swap: _Watched, hub: Hub) -> None:
        self._runtime = runtime
        self._swap = swap
        self._hub = hub
        self._seen: int | None = None  # the number of the last move that was seen
        self._closing = runtime.event("control.swap.closing")
        self._task = runtime.spawn("control.swap", self._run)

    def close(self, deadline: int | None = None) -> list[str]:
        """End; return the name of the task if it did not end by the deadline (ns)."""
        self._closing.set()
        if not self._task.join(deadline):
            return [self._task.name]
        self._closing.close()
        return []

    def _run(self) -> None:
        while self._closing not in self._runtime.select([self._closing, self._hub.watched]):
            now = self._runtime.now()
            try:
                status = self._swap.status(now + _STATUS_WITHIN)
            except SwapError:
                pass  # the monitor is busy, or ends
            else:
                self._publish(status)
            self._closing.wait(now + INTERVAL)

    def _publish(self, status: Status) -> None:
        last = status.moved[-1].number if status.moved else 0
        if self._seen is None or last < self._seen:  # at first, or of another monitor
            self._seen = last if self._seen is None else 0
        for moved in status.moved:
            if moved.number > self._seen:
                self._hub.publish(
                    SwapMoved(
                        move=moved.move,
                        state=str(moved.state),
                        pages=moved.pages,
                        ms=moved.ms,
                        error=moved.error,
                    )
                )
        self._seen = last
        self._hub.publish(SwapChanged(state=str(status.state)))
