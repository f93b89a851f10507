"""Suspend, abort, time-out, page fault and death, at any point of messages on their way."""

from __future__ import annotations

import pytest

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.events import EVENTS


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("receiver", ["echo", "trusty"])
def test_an_event_may_come_at_any_point(event: str, receiver: str) -> None:
    result = search(find(f"events,event={event},receiver={receiver},messages=1"), Exhaustive())
    assert result.failure is None
    assert result.complete


@pytest.mark.parametrize(
    ("event", "bound"), [("suspend", 1), ("timer", None), ("fault", None), ("death", None)]
)
def test_an_event_may_come_between_messages(event: str, bound: int | None) -> None:
    """`bench/explore.py proofs` has them without a bound."""
    result = search(find(f"events,event={event},messages=2"), Exhaustive(bound))
    assert result.failure is None
    assert result.complete


@pytest.mark.parametrize("receiver", ["wfi-echo", "reader-1"])
def test_a_machine_with_sleepers_is_suspended(receiver: str) -> None:
    result = search(find(f"events,receiver={receiver},vcpus=2,messages=1"), Exhaustive())
    assert result.failure is None
    assert result.complete


def test_a_pager_that_shares_a_lock_with_those_who_fault_is_found() -> None:
    result = search(find("events+locked-pager"), Exhaustive())
    assert result.failure is not None
    told = str(result.failure.failure)
    assert told.startswith("deadlock: pager waits for lock g.hv at events.py:")
    assert "; host.0 holds lock g.hv at primary.py:" in told


def test_an_event_that_nobody_knows_is_named() -> None:
    with pytest.raises(UserError, match="event=flood: known: suspend, abort"):
        find("events,event=flood")
