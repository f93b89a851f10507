"""Swap's control plane under every interleaving; and with one mistake each."""

from __future__ import annotations

import pytest
from finals import finals
from proof_table import small
from slices import holds, sampled

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find, variants_of
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.swap import SwapScenario
from hfsched.swap.client.client import MonitorClient


@pytest.mark.parametrize(("spec", "bound"), small("swap"))
def test_pages_are_kept_and_requests_are_answered_whatever_the_order(
    spec: str, bound: int | None
) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize(
    "spec",
    [
        "deaths=1",
        "bugs=3,touches=2",
        "deaths=1,beside=discard,commands=enable-out-disable",
        "bugs=2,deaths=1,beside=disable-enable",
        "deaths=2,commands=enable-out-close",
        "beside=status",
        "beside=disable-enable,touches=2",
        "abort=true",
        "spawner_dies=true,deaths=1",
        "spawner_dies=true,deaths=1,beside=disable-enable,child=lives",
        "child=dies,deaths=1,commands=enable-out-enable-out-disable,touches=2",
        "child=lives,beside=disable-enable,touches=2",
        "child=lives,workers=2,guests=0,commands=enable-out-disable",
        "deaths=2,failing_starts=3,commands=enable-out-close",
        "child=comes,deaths=1,commands=enable-out-disable,touches=2",
        "child=comes,beside=disable-enable,workers=2,guests=0,commands=enable-out",
        "commands=enable-out-disable-enable-out,touches=2",
        "commands=enable-out-enable-trim-out-disable,touches=2,pages=2,guests=2",
        "commands=enable-out-live-disable,deaths=1,touches=2",
        "commands=live-live,beside=enable-out,touches=2",
        "commands=enable-live-disable,guests=2,pages=2,bugs=1",
        "commands=live,child=dies,deaths=1,touches=2",
        "commands=kept,child=dies,deaths=1,touches=2",
        "commands=enable-live-kept-disable,deaths=1,pages=2,touches=2",
        "commands=kept-kept,beside=enable-out,touches=2",
    ],
)
def test_larger_machines_are_sampled(spec: str) -> None:
    sampled(find(f"swap,{spec}"), "portfolio", 300)


@pytest.mark.parametrize(
    "spec",
    [
        "commands=enable,beside=live,child=lives",
        "commands=live,deaths=1",
        "commands=live-enable-out-disable,deaths=1,failing_starts=2",
        "commands=enable,beside=status,child=lives",
    ],
)
def test_what_must_be_undone_is_undone_however_late_requests_are(spec: str) -> None:
    """Another request may be in the way until the deadline of the one that undoes it."""
    sampled(find(f"swap,deadlines=true,guests=0,{spec}"), "pos", 600)


def test_an_enable_that_fails_beside_a_death_leaves_nothing_staged() -> None:
    """The request that undoes it may have passed its deadline before another monitor serves."""
    spec = "swap,deadlines=true,deaths=1,failing_starts=1,commands=enable,guests=0"
    result = search(find(spec), make("pos", 1), until=lambda so_far: so_far.executions >= 2000)
    assert result.failure is None


@pytest.mark.parametrize("variant", sorted(variants_of(SwapScenario)))
def test_every_mistake_is_found(variant: str) -> None:
    result = search(
        find("swap", variant), make("portfolio", 1), until=lambda so_far: so_far.executions > 20_000
    )
    assert result.failure is not None


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("child=lives,commands=enable", "is not resident"),
        ("deaths=1,failing_starts=1,commands=live", "moves wait for ever"),
    ],
)
def test_what_is_not_undone_when_another_request_is_in_the_way_is_found(
    spec: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MonitorClient, "_undo", MonitorClient._ask)
    find_it = find(f"swap,deadlines=true,guests=0,{spec}")
    result = search(find_it, make("pos", 1), until=lambda r: r.executions >= 600)
    assert result.failure is not None
    assert text in str(result.failure.failure)


def test_the_deadlock_is_told_for_what_it_is() -> None:
    result = search(find("swap", "enable-deadlock"), Exhaustive())
    assert result.failure is not None
    text, *_ = str(result.failure.failure).splitlines()  # pytest may add what it compared
    assert text == (
        "main waits for the answer to status, the monitor for the machine to be suspended"
    )


@pytest.mark.parametrize(
    "spec",
    [
        "swap,commands=enable",
        "swap,commands=enable-out,touches=0",
        "swap,commands=status,guests=0,deaths=1",
        "swap,commands=enable,guests=0,touches=1,child=dies",
        "swap,commands=status,beside=status,guests=0",
        "swap,commands=disable,beside=disable,guests=0",
        "swap,commands=status,guests=1,touches=0,abort=true",
        "swap,commands=enable,guests=2",
        "swap,commands=enable,guests=0,spawner_dies=true",
        "swap,commands=live,guests=0",
    ],
)
def test_what_spares_states_changes_no_end(spec: str) -> None:
    """With `retain_only` and opaque calls, or without; with sleep sets, or without."""
    ends = finals(spec, Exhaustive(), forgetting=True)
    assert ends == finals(spec, Exhaustive(), forgetting=False)
    assert ends == finals(spec, Exhaustive(sleep=False), forgetting=False)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("commands=enable-flood", "no command flood: known: enable, status"),
        ("beside=out-", "no command : known"),
        ("guests=5", "guests=5: not in 0..4"),
        ("pages=0", "pages=0: not in 1..3"),
        ("child=sleeps", "child=sleeps: not lives, dies, static, comes"),
        ("workers=2", "workers=2: not in 1..1"),
        ("failing_starts=1", "failing_starts=1: not in 0..0"),
        ("damaged=true", "damaged=true needs stored=true"),
        ("damaged=true,stored=true,beside=discard", "a discard would make zero what cannot be"),
        ("deaths=-1", "deaths=-1: not in 0..4"),
    ],
)
def test_what_cannot_be_is_named(spec: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        find(f"swap,{spec}")
