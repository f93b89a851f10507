"""Programs that Hypothesis draws: the mistakes of the past are found and shrunk, ours holds."""

from __future__ import annotations

import pytest

from hfsched.errors import UserError
from hfsched.explore.execution import search
from hfsched.explore.races import RaceError
from hfsched.explore.registry import find
from hfsched.explore.replay import replay
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.drawing import find_failure
from hfsched.scenarios.programs import describe
from hfsched.scheduler.driver import Driver


@pytest.mark.parametrize(
    ("variant", "seed"),
    [("upstream", 4), ("wake-vcpu0", 6), ("fixed-target", 4), ("waiter-livelock", 6)],
)
def test_a_mistake_is_found_and_shrunk_to_what_a_person_can_read(variant: str, seed: int) -> None:
    result = find_failure(3000, seed, variant)
    assert result.found is not None
    assert result.found.preemptions <= 1
    assert len(describe(result.program)) <= 4
    assert len(result.program) <= 12
    _, outcome = replay(result.found.token)
    assert outcome.failure is not None


def test_the_code_that_ships_holds() -> None:
    """`hfsched fuzz programs` draws as many as there is time for."""
    result = find_failure(500, 1)
    assert result.found is None, (result.program, result.found)
    assert result.examples >= 500
    assert result.watched >= 50


def test_a_data_race_is_found_in_drawn_programs_too(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"delivered": 0}
    deliver = Driver.deliver

    def counting(self: Driver, number: int, *, ends_send: bool = False) -> None:
        counts["delivered"] += 1  # by every task that sends
        deliver(self, number, ends_send=ends_send)

    monkeypatch.setattr(Driver, "deliver", counting)
    result = find_failure(500, 1)
    assert result.found is not None
    assert "data race on dict" in result.found.text
    assert "test_programs.py" in result.found.text
    _, outcome = replay(result.found.token)
    assert isinstance(outcome.failure, RaceError)


@pytest.mark.parametrize("program", ["W;01;", "x;02;", "R;02;", "fI_jW;;", "W;01;S", "nI-W;;"])
def test_a_program_holds_under_every_interleaving(program: str) -> None:
    result = search(find(f"programs,program={program}"), Exhaustive())
    assert result.complete
    assert result.failure is None


def test_a_program_is_told_in_words() -> None:
    assert describe("weW_x-nI;02;S") == [
        "vm g0, vCPU 0: MSG_WAIT, enable READABLE, repeat: wait for messages",
        "vm g0, vCPU 1: end",
        "vm g1, vCPU 0: send to the next VM, wait, repeat: WFI",
        "host 0: 2 messages to g0",
        "the machine is suspended and resumed",
    ]


@pytest.mark.parametrize(
    "program", ["W", "W;0;", "W;11;", ";01;", "w;01;", "W;01;SS", "W-W-W-W;;", "q;;", "W_W_W_W;;"]
)
def test_what_is_no_program_is_named(program: str) -> None:
    with pytest.raises(UserError, match="not a program"):
        find(f"programs,program={program}")
