"""The scenario of a suspension's holders, and what it finds."""

from __future__ import annotations

import pytest
from finals import finals

from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive


def test_it_holds_in_every_interleaving_and_retain_only_changes_no_final_state() -> None:
    """`bench/explore.py proofs --large` has more holders and rounds."""
    ends = finals("suspension", Exhaustive(), forgetting=True)
    assert ends == finals("suspension", Exhaustive(), forgetting=False)


def test_holders_that_hold_it_together_do_not_wait_for_ever() -> None:
    result = search(
        find("suspension,holders=0,together=true"),
        make("portfolio", 1),
        until=lambda r: r.executions >= 500,
    )
    assert result.failure is None, result.failure


@pytest.mark.parametrize("variant", ["unchecked", "alone"])
def test_a_mistake_is_found(variant: str) -> None:
    result = search(find("suspension", variant), Exhaustive())
    assert result.failure is not None
    assert isinstance(result.failure.failure, AssertionError)
