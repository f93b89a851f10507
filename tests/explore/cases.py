"""A scenario made of a function, and what a search of it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hfsched.explore.execution import search
from hfsched.explore.replay import failure_text
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.choose import make

__all__ = ["HOLDS", "Case", "said"]

HOLDS = "holds"


@dataclass
class Case:
    """See the module."""

    make: Callable[[ExploreRuntime], World]
    name: str = "case"

    def build(self, runtime: ExploreRuntime) -> World:
        return self.make(runtime)


def said(
    make_world: Callable[[ExploreRuntime], World], strategy: str = "exhaustive", most: int = 3000
) -> str:
    """Return the failure of a search, in one line; `HOLDS` for a complete one without."""
    result = search(
        Case(make_world), make(strategy, 1), until=lambda result: result.executions >= most
    )
    if result.failure is not None and result.failure.failure is not None:
        return failure_text(result.failure.failure)
    return HOLDS if result.complete else "not complete"
