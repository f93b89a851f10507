"""The ends of a scenario, for comparing searches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.explore.execution import Outcome, search
from hfsched.explore.registry import find

if TYPE_CHECKING:
    from hfsched.explore.strategies.exhaustive import Exhaustive

__all__ = ["finals"]


def finals(spec: str, strategy: Exhaustive, *, forgetting: bool) -> set[object]:
    """Return the final states that a complete search without a failure comes to."""
    found: set[object] = set()

    def on_end(outcome: Outcome) -> None:
        if not outcome.pruned:
            found.add(outcome.final)

    result = search(find(spec), strategy, on_end=on_end, forgetting=forgetting)
    assert result.complete
    assert result.failure is None
    return found
