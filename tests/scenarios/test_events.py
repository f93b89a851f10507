"""Suspend, abort, time-out, page fault and death, at any point of messages on their way."""

from __future__ import annotations

import pytest
from proof_table import small
from slices import holds

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.events import EVENTS


@pytest.mark.parametrize(("spec", "bound"), small("events"))
def test_an_event_may_come_at_any_point(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


def test_no_event_is_left_out() -> None:
    assert {find(spec).event for spec, _ in small("events")} == {*EVENTS}  # type: ignore[attr-defined]


def test_a_pager_that_shares_a_lock_with_those_who_fault_is_found() -> None:
    result = search(find("events+locked-pager"), Exhaustive())
    assert result.failure is not None
    told = str(result.failure.failure)
    assert told.startswith("deadlock: pager waits for lock g.hv at events.py:")
    assert "; host.0 holds lock g.hv at primary.py:" in told


def test_an_event_that_nobody_knows_is_named() -> None:
    with pytest.raises(UserError, match="event=flood: known: suspend, abort"):
        find("events,event=flood")
