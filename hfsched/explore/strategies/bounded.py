"""Iterative context bounding: every interleaving without preemption, then with one, with two ...

Source: M. Musuvathi and S. Qadeer, "Iterative Context Bounding for Systematic Testing of
Multithreaded Programs", PLDI 2007.  The first failure found has the fewest preemptions possible.

Where this differs: each bound is searched from the beginning (see `exhaustive`), instead of from the
states deferred by the bound before; this repeats a part of the work, but stores no states.

It ends by itself when a bound took no more executions than the one before: the higher bound tries
every choice that the lower bound allows, and each further choice would be another execution; so no
interleaving has that many preemptions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.explore.schedule import Prefix, prefix_of
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["Bounded"]


class Bounded:
    """One search after the other, each complete before the next.

    `bound` is that of the current search, `complete_to` the last complete one (None: not even 0);
    `states` is the largest number of states that one of them has visited.
    """

    name = "bounded"

    def __init__(self) -> None:
        self._search = Exhaustive(0)
        self.stateful = self._search.stateful
        self.every_point = self._search.every_point
        self.bound = 0
        self.complete_to: int | None = None
        self._states = 0
        self._executions = 0
        self._before = 0  # executions of the search before this one

    @property
    def states(self) -> int:
        """The number of states visited."""
        return max(self._states, self._search.states)

    @property
    def memory(self) -> int:
        """The bytes that the cache of states takes."""
        return self._search.memory

    def begin(self) -> bool:
        while not self._search.begin():
            self.complete_to = self.bound
            if self._executions == self._before:
                return False
            self._before, self._executions = self._executions, 0
            self._states = self.states
            self.bound += 1
            self._search = Exhaustive(self.bound)
        self._executions += 1
        return True

    def take_prefix(self) -> Prefix | None:
        """See `Exhaustive.take_prefix`."""
        return prefix_of(self._search)

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        return self._search.pick(view, current, enabled)

    def value(self, view: View, name: str, n: int) -> int:
        return self._search.value(view, name, n)

    def end(self, outcome: Outcome) -> None:
        self._search.end(outcome)
