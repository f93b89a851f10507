"""Whether a machine is quiet, beside those who send: never too early, and always in the end."""

from __future__ import annotations

import pytest
from proof_table import small
from slices import holds, sampled

from hfsched.control.session import Session
from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass


@pytest.mark.parametrize(("spec", "bound"), small("quiet"))
def test_it_is_found_quiet_when_every_message_is_through(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize(
    "spec", ["answers=true,messages=2", "vms=3,hosts=2", "hosts=2,leaves=true"]
)
def test_larger_ones_hold_in_random_orders(spec: str) -> None:
    sampled(find(f"quiet,{spec}"), "pos", 40)


@pytest.mark.parametrize("variant", ["one-look", "unasked"])
def test_a_look_that_misses_a_message_fails(variant: str) -> None:
    spec = "quiet,hosts=1,clients=0" if variant == "one-look" else "quiet"
    result = search(find(spec, variant), Exhaustive())
    assert result.failure is not None
    assert "1 of 1 messages are on their way" in str(result.failure.failure)


def test_a_session_that_tells_nobody_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Session._read

    def untold(session: Session, *args: object) -> None:
        session._on_idle = lambda: None
        read(session, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "_read", untold)
    result = search(find("quiet"), Exhaustive())
    assert result.failure is not None
    assert "main, which waits to be told so, has not seen it" in str(result.failure.failure)


@pytest.mark.parametrize("spec", ["quiet", "quiet,hosts=1,clients=0"])
def test_it_has_no_data_race_on_plain_state(spec: str) -> None:
    result = race_pass(find(spec), 1, walks=4, executions=60, merging=True)
    assert result.failure is None, result.failure
    assert result.doubts == []


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("clients=0", "hosts"),
        ("hosts=1,answers=true", "hosts"),
        ("clients=0,hosts=1,leaves=true", "leaves"),
    ],
)
def test_sizes_that_cannot_be_are_named(spec: str, name: str) -> None:
    with pytest.raises(UserError, match=f"scenario quiet: {name}="):
        find(f"quiet,{spec}")
