"""Requests by command to suspend and to resume: every one ends, whatever the others do."""

from __future__ import annotations

import pytest
from proof_table import small
from slices import holds

from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass


@pytest.mark.parametrize(("spec", "bound"), small("userhold"))
def test_every_request_ends_and_the_machine_runs_at_last(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


def test_an_end_that_is_not_told_fails() -> None:
    result = search(find("userhold", "untold"), Exhaustive())
    assert result.failure is not None
    assert "finds that something stands" in str(result.failure.failure)


def test_it_has_no_data_race_on_plain_state() -> None:
    result = race_pass(
        find("userhold,users=1,keeps=true,looks=1"), 1, walks=4, executions=100, merging=True
    )
    assert result.failure is None, result.failure
    assert result.doubts == []
