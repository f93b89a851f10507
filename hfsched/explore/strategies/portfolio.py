"""All strategies in turn: no single one is the best on every scenario.

The idea is that of algorithm portfolios (B. Huberman, R. Lukose, T. Hogg, "An Economics Approach to
Hard Computational Problems", Science 275, 1997): with members that take turns, the first failure
costs at most their number times the cost of the best one.  A turn is one execution of the member that
has used the fewest steps so far, so a member with long executions gets fewer of them.  After `EARLY`
steps each, shallow failures become unlikely, and the exhaustive search, which can prove that there is
no failure, gets most of the turns.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hfsched.explore.schedule import Prefix, prefix_of
from hfsched.explore.strategies.bounded import Bounded
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.pct import PCT
from hfsched.explore.strategies.pos import POS
from hfsched.explore.strategies.urw import UniformWalk
from hfsched.explore.strategies.walk import RandomWalk

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import Strategy, View
    from hfsched.explore.task import Task

__all__ = ["Portfolio"]


EARLY = 100_000  # steps
LATE = 12  # the cost factor of a step after that, except for the exhaustive search


class _Member:
    def __init__(self, name: str, strategy: Strategy) -> None:
        self.name = name
        self.strategy = strategy
        self.steps = 0

    def used(self) -> int:
        """Return the weighted number of steps: the member with the fewest has the next turn."""
        return self.steps + (LATE - 1) * max(0, self.steps - EARLY)


class Portfolio:
    """Executions until every interleaving is covered; a seed determines the random members'.

    `states` is the number of states that the exhaustive search has visited, and `complete` whether it
    is complete; `complete_to` is the preemption bound that is complete (None: not even 0); `found_by`
    is the member whose execution failed last.
    """

    name = "portfolio"

    def __init__(self, seed: int) -> None:
        seeds = random.Random(seed)  # noqa: S311 - schedules, no secrets
        self._bounded = Bounded()
        self._exhaustive = Exhaustive()
        # In order of the executions needed for a shallow failure.
        self._members = [
            _Member("bounded", self._bounded),
            _Member("exhaustive", self._exhaustive),
            _Member("pos", POS(seeds.getrandbits(64))),
            _Member("urw", UniformWalk(seeds.getrandbits(64))),
            _Member("random", RandomWalk(seeds.getrandbits(64))),
            _Member("pct 2", PCT(seeds.getrandbits(64), 2)),
            _Member("pct 3", PCT(seeds.getrandbits(64), 3)),
        ]
        self._turn = self._members[0]
        self.stateful = self._turn.strategy.stateful
        self.every_point = self._turn.strategy.every_point
        self.complete = False
        self.found_by: str | None = None

    @property
    def states(self) -> int:
        """The number of states that the exhaustive search has visited."""
        return self._exhaustive.states

    @property
    def memory(self) -> int:
        """The bytes that the caches of states take."""
        return self._exhaustive.memory + self._bounded.memory

    @property
    def complete_to(self) -> int | None:
        """The preemption bound that is complete so far."""
        return self._bounded.complete_to

    @property
    def steps(self) -> dict[str, int]:
        """The steps of each member."""
        return {member.name: member.steps for member in self._members}

    def _used(self, member: _Member) -> int:
        return member.steps if member.strategy is self._exhaustive else member.used()

    def begin(self) -> bool:
        while not self.complete:
            turn = min(self._members, key=self._used)  # the first of equals
            if turn.strategy.begin():
                self._turn = turn
                self.stateful = turn.strategy.stateful
                self.every_point = turn.strategy.every_point
                return True
            if turn.strategy is self._exhaustive:
                self.complete = True
            else:
                self._members.remove(turn)
        return False

    def take_prefix(self) -> Prefix | None:
        """See `Exhaustive.take_prefix`."""
        return prefix_of(self._turn.strategy)

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        return self._turn.strategy.pick(view, current, enabled)

    def value(self, view: View, name: str, n: int) -> int:
        return self._turn.strategy.value(view, name, n)

    def end(self, outcome: Outcome) -> None:
        turn = self._turn
        turn.strategy.end(outcome)
        turn.steps += outcome.steps
        if outcome.failure is not None:
            self.found_by = turn.name
            if turn.strategy is self._bounded:
                self.found_by += f" {self._bounded.bound}"
