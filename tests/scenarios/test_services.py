"""The scenario of a utility service: ours holds in every interleaving, Linux's drivers do not."""

from __future__ import annotations

import pytest

from hfsched.explore.execution import search
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.services import ServicesScenario
from hfsched.scenarios.servicevariants import VARIANTS


@pytest.mark.parametrize(
    "scenario",
    [
        ServicesScenario(event="none", requests=1),
        ServicesScenario(requests=1, timers=False),
    ],
    ids=lambda scenario: scenario.name,
)
def test_it_holds_in_every_interleaving(scenario: ServicesScenario) -> None:
    """`bench/explore.py proofs --large --only services` has the larger sizes."""
    result = search(scenario, Exhaustive())
    assert result.failure is None, result.failure
    assert result.complete


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_driver_of_linux_fails(variant: str) -> None:
    result = search(ServicesScenario(variant=variant), Exhaustive())
    assert result.failure is not None
    assert isinstance(result.failure.failure, AssertionError)
