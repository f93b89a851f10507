"""The scenario of a utility service: ours holds in every interleaving, Linux's drivers do not."""

from __future__ import annotations

import pytest
from proof_table import small
from slices import holds

from hfsched.explore.execution import Outcome, search
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.watch.racepass import race_pass
from hfsched.scenarios.services import ServicesScenario
from hfsched.scenarios.servicevariants import VARIANTS

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


def test_what_the_variants_do_not_have_is_refused() -> None:
    for parameters in ({"asks": 1}, {"event": "pause"}, {"crashes": 1}):
        with pytest.raises(ValueError, match="Linux"):
            ServicesScenario(variant="mail", **parameters)
    with pytest.raises(ValueError, match="event=x"):
        ServicesScenario(event="x")
