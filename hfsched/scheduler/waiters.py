"""Tasks that wait for a change of what a lock guards, each for a condition of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Waiters"]


class Waiters:
    """Every call is under the lock; a task waits, without it, for the event that `enter` has returned.

    With one event for all, a task that finds its condition not met would clear what another one, whose condition is met by
    now, is about to wait for.
    """

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._name = name
        self._events: list[Event] = []
        self._spare: list[Event] = []

    def key(self) -> tuple[int, int]:
        """Return how many there are, and how many events there were at most, beside them."""
        return len(self._events), len(self._spare)

    def enter(self) -> Event:
        """Return an event that the next `wake` sets; `leave` afterwards."""
        event = self._spare.pop() if self._spare else self._runtime.event(self._name)
        event.clear()
        self._events.append(event)
        return event

    def leave(self, event: Event) -> None:
        """End what `enter` began."""
        self._events.remove(event)
        self._spare.append(event)

    def wake(self) -> None:
        """Wake every task that waits, or is about to."""
        for event in self._events:
            event.set()
