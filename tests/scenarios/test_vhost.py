"""A vhost-user device beside a guest's driver: each request is completed once, whoever sees whose stores when."""

from __future__ import annotations

import pytest
from proof_table import small
from slices import holds, sampled

from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.choose import make
from hfsched.explore.watch.racepass import race_pass

FOUND_WITHIN = 20_000  # schedules


@pytest.mark.parametrize(("spec", "bound"), small("vhost"))
def test_every_request_is_completed_once(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize("event_idx", ["true", "false"])
def test_so_it_is_while_the_ring_is_stopped_and_started(event_idx: str) -> None:
    sampled(find(f"vhost,messages=2,stops=2,event_idx={event_idx}"), "portfolio", 300)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        ("no-fence", "requests were completed"),
        ("no-look", "requests were completed"),
        ("waits-for-kick", "requests were completed"),
        ("goes-on", ""),
    ],
)
def test_other_devices_fail(variant: str, words: str) -> None:
    result = search(
        find("vhost", variant),
        make("portfolio", 1),
        until=lambda so_far: so_far.executions >= FOUND_WITHIN,
    )
    assert result.failure is not None
    assert words in str(result.failure.failure)


def test_it_has_no_data_race_on_plain_state() -> None:
    result = race_pass(find("vhost"), 1, walks=4, executions=60, merging=True)
    assert result.failure is None, result.failure
    assert result.doubts == []
