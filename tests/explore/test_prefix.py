"""A search repeats the beginnings of its executions without being asked, and nothing changes by that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from drawn import mortals, programs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfsched.explore.execution import execute
from hfsched.explore.registry import find
from hfsched.explore.scenario import Scenario
from hfsched.explore.schedule import Prefix, Recording, Replay
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategy import View
from hfsched.explore.task import Task

if TYPE_CHECKING:
    from small import Program


class Asked(Exhaustive):
    """Is asked at every point."""

    def take_prefix(self) -> Prefix | None:
        return None


class Counting(Exhaustive):
    """Counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        self.asked += 1
        return super().pick(view, current, enabled)


@dataclass
class Run:
    """What a search has done: every schedule, how it ended, and how many states there were."""

    executions: list[object] = field(default_factory=list)
    states: int = 0


def run(scenario: Scenario, search: Exhaustive, most: int = 400) -> Run:
    recording, done = Recording(search), Run()
    while len(done.executions) < most and recording.begin():
        outcome = execute(scenario, recording, tracing=True)
        recording.end(outcome)
        schedule = recording.schedule(stateful=False)
        failure = None if outcome.failure is None else type(outcome.failure).__name__
        made = (schedule, recording.preemptions, recording.decisions)
        done.executions.append((made, outcome.trace, outcome.steps, outcome.pruned, failure))
    done.states = search.states
    return done


NAMES = [
    "mailbox,messages=2",
    "mailbox,messages=1,guests=1",
    "events,event=death",
    "swap,commands=enable,guests=0,deaths=1",
    "suspension",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bound", [None, 2])
def test_executions_are_the_same_as_if_it_were_asked(name: str, bound: int | None) -> None:
    assert run(find(name), Exhaustive(bound)) == run(find(name), Asked(bound))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(programs(), mortals()), st.sampled_from([None, 0, 1]))
def test_executions_of_a_drawn_program_are_the_same(program: Program, bound: int | None) -> None:
    assert run(program, Exhaustive(bound), 100) == run(program, Asked(bound), 100)


def test_most_points_are_not_asked_about() -> None:
    search = Counting()
    steps = 0
    while search.begin():
        outcome = execute(find("mailbox,messages=3"), search)
        search.end(outcome)
        steps += outcome.steps
    assert search.asked < steps / 2


@pytest.mark.parametrize("name", ["mailbox,messages=1", "swap"])
def test_a_recorded_schedule_with_a_prefix_replays(name: str) -> None:
    recording = Recording(Exhaustive())
    for _ in range(60):
        if not recording.begin():
            break
        outcome = execute(find(name), recording, tracing=True)
        recording.end(outcome)
        if outcome.pruned:
            continue
        replay = Replay(recording.schedule(stateful=False))
        again = execute(find(name), replay, tracing=True)
        replay.end(again)
        assert replay.mismatch is None
        assert again.trace == outcome.trace
