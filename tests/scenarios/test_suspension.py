"""The scenario of a suspension's holders, and what it finds."""

from __future__ import annotations

import pytest

from hfsched.explore.execution import Outcome, search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive


def test_it_holds_in_every_interleaving() -> None:
    """`bench/explore.py proofs --large` has more holders and rounds."""
    result = search(find("suspension"), Exhaustive())
    assert result.failure is None, result.failure
    assert result.complete


def test_holders_that_hold_it_together_do_not_wait_for_ever() -> None:
    result = search(
        find("suspension,holders=0,together=true"),
        Exhaustive(),
        until=lambda r: r.executions >= 1000,
    )
    assert result.failure is None, result.failure


@pytest.mark.parametrize("variant", ["unchecked", "alone"])
def test_a_mistake_is_found(variant: str) -> None:
    result = search(find("suspension", variant), Exhaustive())
    assert result.failure is not None
    assert isinstance(result.failure.failure, AssertionError)


def test_retain_only_changes_no_final_state() -> None:
    ends = [
        {outcome.final for outcome in _all("suspension", forgetting=forgetting)}
        for forgetting in (True, False)
    ]
    assert ends[0] == ends[1]


def _all(spec: str, *, forgetting: bool) -> list[Outcome]:
    outcomes: list[Outcome] = []
    search(find(spec), Exhaustive(), on_end=outcomes.append, forgetting=forgetting)
    return outcomes
