"""Ports beside a snapshot that is given up: nothing is read meanwhile, and all of it afterwards."""

from __future__ import annotations

import pytest
from proof_table import small
from slices import holds

from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass


@pytest.mark.parametrize(("spec", "bound"), small("ports"))
def test_what_a_snapshot_has_is_read_once_and_not_before_it_is_given_up(
    spec: str, bound: int | None
) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize(
    ("variant", "words"),
    [("gives-out", "what is in the snapshot is read"), ("wakes-one", "there came")],
)
def test_other_ports_fail(variant: str, words: str) -> None:
    result = search(find("ports", variant), Exhaustive())
    assert result.failure is not None
    assert words in str(result.failure.failure)


@pytest.mark.parametrize(
    "beside", ["", ",beside=handles", ",beside=connects", ",shared=closed", ",live=reopened"]
)
def test_it_has_no_data_race_on_plain_state(beside: str) -> None:
    result = race_pass(find(f"ports{beside}"), 1, walks=4, executions=60, merging=True)
    assert result.failure is None, result.failure
    assert result.doubts == []
