"""Snapshots beside cancellations: what was cancelled is none, and each change is in one or will be."""

from __future__ import annotations

from typing import Any

import pytest
from proof_table import small
from slices import holds

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass
from hfsched.vmm.snapshots import Snapshots


@pytest.mark.parametrize(("spec", "bound"), small("snapshots"))
def test_every_order_of_requests_holds(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


def test_a_cancellation_that_wakes_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Snapshots.__init__

    def deaf(snapshots: Any, *args: Any) -> None:
        original(snapshots, *args)
        snapshots._cancelled.set = lambda: None

    monkeypatch.setattr(Snapshots, "__init__", deaf)
    result = search(find("snapshots"), Exhaustive())
    assert result.failure is not None
    assert "taker" in str(result.failure.failure)


@pytest.mark.parametrize("endings", ["confirms", "ends", "fails"])
def test_they_have_no_data_race_on_plain_state(endings: str) -> None:
    result = race_pass(
        find(f"snapshots,endings={endings}"), 1, walks=8, executions=60, merging=True
    )
    assert result.failure is None, result.failure
    assert result.doubts == []
    assert result.covered


@pytest.mark.parametrize("endings", ["waits", "confirms-drops-ends", ""])
def test_endings_that_there_are_not(endings: str) -> None:
    with pytest.raises(UserError, match="endings="):
        find(f"snapshots,endings={endings}")
