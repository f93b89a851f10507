"""A slice of what `bench/explore.py proofs` searches to its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.explore.execution import search
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario

__all__ = ["holds", "sampled"]

SLICE = 60  # executions of the search without an end,
DRAWN = 10  # and of random ones, unless the first were all


def holds(scenario: Scenario, bound: int | None = None) -> None:
    """Search a scenario to its end where that is near, else a part of it, and random orders of the rest."""
    result = search(scenario, Exhaustive(bound), until=lambda so_far: so_far.executions >= SLICE)
    assert result.failure is None, result.failure
    if result.complete:
        return
    assert result.executions >= SLICE
    sampled(scenario, "portfolio", DRAWN)


def sampled(scenario: Scenario, strategy: str, executions: int) -> None:
    """Search so many executions of a strategy, of a scenario that has more."""
    result = search(
        scenario, make(strategy, 1), until=lambda so_far: so_far.executions >= executions
    )
    assert result.failure is None, result.failure
    assert result.executions >= executions
