"""Failing executions to tell of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hfsched.explore.execution import execute
from hfsched.explore.explain.no_return import Replayed
from hfsched.explore.explain.recorder import Recorder
from hfsched.explore.explain.story import Story, record_story
from hfsched.explore.registry import find
from hfsched.explore.strategies.exhaustive import Exhaustive

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario


def failing(scenario: Scenario, bound: int) -> list[int] | None:
    """Return the decisions of a failing schedule with at most `bound` preemptions."""
    strategy = Exhaustive(bound)
    while strategy.begin():
        recorder = Recorder(strategy)
        outcome = execute(scenario, recorder)
        strategy.end(outcome)
        if outcome.failure is not None:
            return recorder.decisions
    return None


def story_of(scenario: Scenario, bound: int = 1, token: str = "") -> Story:
    decisions = failing(scenario, bound)
    assert decisions is not None, f"{scenario.name} does not fail"
    return record_story(scenario, Replayed(decisions), token=token)


@pytest.fixture(scope="session")
def upstream() -> Story:
    """The lost wake-up of the upstream driver, with one preemption."""
    for messages in (1, 2):  # with the start-up explored one is enough
        scenario = find("mailbox+upstream,receiver=echo,vcpus=1", messages=messages)
        if failing(scenario, 1) is not None:
            return story_of(scenario, token="AbCdEf0123-_x")
    raise AssertionError("the upstream driver loses nothing any more")
