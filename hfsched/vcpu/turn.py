"""The turn of an engine that executes one vCPU at a time: who has it executes, in the order of arrival.

A vCPU that waits for it can be *dismissed*: it leaves without the turn, at once.  It can also be *kept out*: it goes on
waiting, and does not get the turn before it is let in.  That is how many vCPUs are suspended without waking up a thread for
each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["Place", "Turn"]


class Place:
    """A thread's place in the queue, for one wait at a time.

    `waits` while it is in the queue, and `kept_out` then if it gets no turn; `has` says how the last wait ended, with the
    turn or without.
    """

    __slots__ = ("event", "has", "kept_out", "name", "waits")

    def __init__(self, name: str, event: Event) -> None:
        self.name = name
        self.event = event
        self.waits = False
        self.kept_out = False
        self.has = False

    def key(self) -> Hashable:
        """Return all of the state but the event."""
        return (self.name, self.waits, self.kept_out, self.has)


class Turn:
    """Use it in a ``with``, or by `take` and `give`.  One lock guards it, which is never held while waiting."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        self._runtime = runtime
        self._name = name
        self._lock = runtime.lock(name, state=self.key)
        self._taken = False
        self._places: list[Place] = []
        self._queue: deque[Place] = deque()

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        queue = tuple(place.name for place in self._queue)
        return (self._taken, queue, tuple(place.key() for place in self._places))

    def place(self, name: str) -> Place:
        """Return a place for a vCPU, or for another thread, until `forget`."""
        place = Place(name, self._runtime.event(f"{name}.turn"))
        with self._lock:
            self._places.append(place)
        return place

    def forget(self, place: Place) -> None:
        """Free a place that nobody waits in, nor will."""
        with self._lock:
            if place in self._places:
                self._places.remove(place)
        place.event.close()

    def take(self, place: Place, unwanted: Callable[[], bool]) -> bool:
        """Wait for the turn; False: not taken, because it was `unwanted()` before the wait, or `dismiss` came.

        Who dismisses a place makes `unwanted` true first: then no dismissal is lost.
        """
        with self._lock:
            if unwanted():
                return False
            if not self._taken:
                self._taken = True
                return True
            self._join(place)
        return self._wait(place)

    def give(self) -> None:
        """Hand the turn over to the first that waits and is not kept out."""
        with self._lock:
            for place in self._queue:
                if not place.kept_out:
                    self._leave(place, has=True)
                    return
            self._taken = False

    # Of another thread's wait: any thread, and none blocks.

    def dismiss(self, place: Place) -> None:
        """End a wait without the turn, if there is one."""
        with self._lock:
            if place.waits:
                self._leave(place, has=False)

    def keep_out(self, place: Place) -> bool:
        """Let a wait last until `let_in`; False: there is none."""
        with self._lock:
            place.kept_out = place.waits
            return place.waits

    def let_in(self, place: Place) -> None:
        """End what `keep_out` began, also where the wait has ended since."""
        with self._lock:
            if place.kept_out:
                place.kept_out = False
                if not self._taken:
                    self._taken = True
                    self._leave(place, has=True)

    def __enter__(self) -> None:
        with self._lock:
            if not self._taken:
                self._taken = True
                return
        place = self.place(self._name)
        try:
            self.take(place, lambda: False)
        finally:
            self.forget(place)

    def __exit__(self, *exc: object) -> None:
        self.give()

    # Under the lock.

    def _join(self, place: Place) -> None:
        place.waits = True
        place.has = False
        place.event.clear()
        self._queue.append(place)

    def _leave(self, place: Place, *, has: bool) -> None:
        """End a wait; the caller does not use the queue any more."""
        self._queue.remove(place)
        place.waits = place.kept_out = False
        place.has = has
        place.event.set()

    # Without it.

    def _wait(self, place: Place) -> bool:
        try:
            place.event.wait()
        except BaseException:  # interrupted: leave the queue, or hand over what was got meanwhile
            self.dismiss(place)
            if place.has:
                self.give()
            raise
        return place.has
