"""An invariant that remembers something sees every step, also those in which an execution repeats another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from hfsched.explore.execution import Outcome, search
from hfsched.explore.scenario import World
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime


@dataclass(frozen=True)
class Counted:
    """Two tasks add to a cell; the final state is how often the invariant was called."""

    remembers: bool
    name: str = "counted"

    def small(self) -> Counted:
        return self

    def build(self, runtime: ExploreRuntime) -> World:
        cell = runtime.cell("sum", value=0)
        calls: list[int] = []

        def add() -> None:
            for _ in range(2):
                cell.set(cell.get() + 1)

        for name in ("one", "two"):
            runtime.spawn(name, add)
        return World(
            invariant=lambda: calls.append(1),
            remembers=self.remembers,
            idle=True,
            final=lambda: len(calls),
        )


@pytest.mark.parametrize("remembers", [True, False])
def test_it_is_called_before_every_step(remembers: bool) -> None:
    calls: list[object] = []

    def on_end(outcome: Outcome) -> None:
        if not outcome.pruned:
            calls.append(outcome.final)

    strategy = Exhaustive(cache=False, sleep=False)
    assert search(Counted(remembers), strategy, on_end=on_end).complete
    assert len(calls) > 20
    assert (len({*calls}) == 1) is remembers
