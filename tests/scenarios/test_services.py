"""The scenario of a utility service: ours holds in every interleaving, Linux's drivers do not."""

from __future__ import annotations

from typing import Any

import pytest
from proof_table import small
from slices import holds

from hfsched.explore.execution import Outcome, search
from hfsched.explore.registry import find
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass
from hfsched.scenarios.services import ServicesScenario
from hfsched.scenarios.servicesguest import Way
from hfsched.scenarios.servicevariants import VARIANTS
from hfsched.services import service
from hfsched.services.service import UtilityService
from hfsched.services.transaction import Answer, Ticket

SMALL = ServicesScenario(event="none", requests=1, timers=False)


@pytest.mark.parametrize(("spec", "bound"), small("services"))
def test_it_holds_whatever_the_order(spec: str, bound: int | None) -> None:
    holds(find(spec), bound)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_driver_of_linux_fails(variant: str) -> None:
    result = search(ServicesScenario(variant=variant), Exhaustive())
    assert result.failure is not None
    assert isinstance(result.failure.failure, AssertionError)


def test_the_least_failure_needs_no_hibernation_and_one_preemption() -> None:
    scenario = ServicesScenario(variant="before", event="none", requests=1, tolerant=True)
    ends = []
    for bound in (0, 1):
        outcomes: list[Outcome] = []
        assert search(scenario, Exhaustive(bound), on_end=outcomes.append).complete
        ends.append({outcome.final for outcome in outcomes} - {None})
    assert ends == [{()}, {(), ("stuck in USERSPACE_RECV",)}]


def test_a_compare_and_set_alone_gives_a_reply_to_the_wrong_request() -> None:
    result = search(ServicesScenario(variant="compare-and-set"), Exhaustive())
    assert result.failure is not None
    assert str(result.failure.failure) == "a reply given to the wrong request"


def test_retain_only_changes_no_final_state() -> None:
    ends = [
        {outcome.final for outcome in _all(SMALL, forgetting=forgetting)}
        for forgetting in (True, False)
    ]
    assert ends[0] == ends[1]


def _all(scenario: ServicesScenario, *, forgetting: bool) -> list[Outcome]:
    outcomes: list[Outcome] = []
    search(scenario, Exhaustive(), on_end=outcomes.append, forgetting=forgetting)
    return outcomes


@pytest.mark.parametrize("event", ["hibernate", "pause", "restore"])
def test_there_is_no_data_race_on_plain_state(event: str) -> None:
    result = race_pass(
        ServicesScenario(event=event, asks=1), 1, walks=8, executions=50, merging=True
    )
    assert result.failure is None, result.failure
    assert result.doubts == []


@pytest.mark.parametrize(
    "spec",
    [
        "asks=2,crashes=2,event=pause",
        "asks=2,crashes=1,event=hibernate,hosts=3,leavers=1,requests=1",
        "asks=2,crashes=1,event=restore,hosts=2,leavers=1,requests=1",
        "asks=2,crashes=2,event=none,hosts=3,leavers=2,boot=true",
        "asks=2,crashes=1,event=pause,hosts=2,leavers=1,mute=true",
    ],
)
def test_a_larger_service_holds_in_random_orders(spec: str) -> None:
    scenario = find(f"services,{spec}")
    result = search(scenario, make("pos", 1), until=lambda so_far: so_far.executions >= 100)
    assert result.failure is None


def _fails(**sizes: Any) -> str:
    scenario = ServicesScenario(**{"event": "none", "timers": False, **sizes})
    result = search(scenario, Exhaustive())
    assert result.failure is not None
    return str(result.failure.failure)


def test_a_request_that_is_given_up_and_leaves_the_channel_unread_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_up = UtilityService.give_up

    def mute(utility: UtilityService, ticket: Ticket) -> Answer:
        with monkeypatch.context() as patch:
            patch.setattr(utility, "_poll", lambda: None)
            return give_up(utility, ticket)

    monkeypatch.setattr(UtilityService, "give_up", mute)
    assert "a request waits, and none is under way" in _fails(requests=1, hosts=2, leavers=1)


def test_a_request_that_is_given_up_and_sent_yet_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UtilityService, "_withdraw", lambda _self, _request: None)
    assert "has ended, and is to be sent" in _fails(requests=1, leavers=1, boot=True)


def test_a_timer_that_is_not_told_of_the_resume_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    resume = UtilityService.resume

    def silent(utility: UtilityService) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(utility, "timer", utility.asks)
            resume(utility)

    monkeypatch.setattr(UtilityService, "resume", silent)
    found = _fails(requests=1, event="pause", mute=True, timers=True)
    assert "0 of 1 requests are answered" in found


def test_a_courier_that_keeps_its_place_for_a_withdrawn_message_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Way, "leave", lambda _self: None)
    assert "keeps its place" in _fails(requests=1, leavers=1, boot=True)


def test_that_a_daemon_gets_the_answer_to_one_that_has_crashed_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(service, "EPOCHS", 1)  # then its epoch is that of the one before
    assert "b'g1' is answered b'g0'" in _fails(requests=0, asks=2, crashes=1)


def test_what_the_variants_do_not_have_is_refused() -> None:
    for parameters in (
        {"asks": 1},
        {"event": "pause"},
        {"crashes": 1},
        {"hosts": 2},
        {"leavers": 1},
    ):
        with pytest.raises(ValueError, match="Linux"):
            ServicesScenario(variant="mail", **parameters)
    with pytest.raises(ValueError, match="event=x"):
        ServicesScenario(event="x")
