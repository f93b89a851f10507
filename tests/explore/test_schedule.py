"""Schedules: what is recorded, and that a replay decides the same again."""

from __future__ import annotations

import pytest
from worlds import UPSTREAM, Counter, Values, find_failure

from hfsched.explore.execution import execute
from hfsched.explore.registry import find
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import Scenario, World
from hfsched.explore.schedule import Recording, Replay, Schedule
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.strategy import Strategy, View
from hfsched.explore.task import Task


class Always:
    """Chooses by a rule of the test's; counts what it was asked."""

    name = "always"
    stateful = False

    def __init__(self, choice: int, *, every_point: bool = False) -> None:
        self.choice = choice
        self.every_point = every_point
        self.asked = 0

    def begin(self) -> bool:
        return True

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        self.asked += 1
        return enabled[min(self.choice, len(enabled) - 1)]

    def value(self, view: View, name: str, n: int) -> int:
        return min(self.choice, n - 1)

    def end(self, outcome: object) -> None:
        """Nothing to learn."""


def record(scenario: Scenario, strategy: Strategy) -> Recording:
    recording = Recording(strategy)
    assert recording.begin()
    recording.end(execute(scenario, recording))
    return recording


def test_the_default_has_no_deviations() -> None:
    recording = record(Counter(), Replay(Schedule()))
    assert recording.deviations == []
    assert recording.preemptions == 0
    assert recording.decisions > 0


def test_a_deviation_is_where_and_who() -> None:
    """The second of two first: a choice, but nobody is interrupted.

    Task 0 is the clock, so the two are tasks 1 and 2.
    """
    recording = record(Counter(), Always(1))
    assert recording.deviations == [(0, 2)]
    assert recording.preemptions == 0


def test_a_preemption_is_a_turn_taken_from_one_that_could_go_on() -> None:
    """The second begins, the first comes in between, and nothing is left to decide when one ends."""
    recording = record(Counter(), Replay(Schedule(((0, 2), (1, 1)))))
    assert recording.deviations == [(0, 2), (1, 1)]
    assert recording.preemptions == 1


def test_decisions_are_numbered_alike_whether_every_point_is_asked_or_not() -> None:
    """A point with one task is no decision."""
    some, every = Always(1), Always(1, every_point=True)
    one, two = record(Counter(tasks=3), some), record(Counter(tasks=3), every)
    assert every.asked > some.asked
    assert one.decisions == two.decisions
    assert one.deviations == two.deviations


def test_a_recording_is_of_the_last_execution() -> None:
    recording = record(Counter(), Always(1))
    assert recording.begin()
    assert (recording.deviations, recording.decisions, recording.preemptions) == ([], 0, 0)


def test_a_recording_is_what_its_strategy_is() -> None:
    for inner in (Exhaustive(), Exhaustive(1), RandomWalk(1)):
        recording = Recording(inner)
        assert recording.name == inner.name
        assert recording.stateful == inner.stateful
        assert recording.every_point == inner.every_point


def test_a_recording_changes_nothing() -> None:
    recording = Recording(RandomWalk(5))
    recording.begin()
    recorded = execute(find(UPSTREAM), recording, tracing=True)
    assert recorded.trace_hash == execute(find(UPSTREAM), RandomWalk(5), tracing=True).trace_hash


@pytest.mark.parametrize("scenario", [Counter(tasks=3), Values(of=4), find(UPSTREAM)])
@pytest.mark.parametrize("name", ["random", "pct", "pos", "urw", "bounded", "exhaustive"])
def test_a_replay_goes_step_for_step_as_what_was_recorded(scenario: Scenario, name: str) -> None:
    recording = Recording(make(name, 3))
    for _ in range(20):
        if not recording.begin():
            break
        was = execute(scenario, recording, tracing=True)
        recording.end(was)
        if was.pruned:
            continue
        schedule = recording.schedule(stateful=recording.stateful)
        again = Recording(Replay(schedule))
        again.begin()
        now = execute(scenario, again, tracing=True)
        again.end(now)
        assert now.trace == was.trace
        assert again.deviations == recording.deviations
        assert again.preemptions == recording.preemptions


def test_numbers_are_decisions_too() -> None:
    finding = find_failure(Values(of=4))
    assert finding.schedule.deviations == ((0, 3), (1, 1))
    assert finding.preemptions == 2


@pytest.mark.parametrize(
    ("deviations", "mismatch"),
    [
        (((0, 9),), "decision 0 is for task 9, but there is none"),
        (((0, 0),), "decision 0 is for task 0, but clock is not enabled"),
        (((0, 2), (700, 1)), "with 1 of 2 deviations not reached"),
    ],
)
def test_what_cannot_be_followed_is_a_misfit(
    deviations: tuple[tuple[int, int], ...], mismatch: str
) -> None:
    replay = Replay(Schedule(deviations))
    record(Counter(), replay)
    assert replay.mismatch is not None
    assert mismatch in replay.mismatch


def test_a_number_out_of_range_is_a_misfit_whatever_the_code_does_with_the_exception() -> None:
    class Catcher:
        name = "catcher"

        def build(self, runtime: ExploreRuntime) -> World:
            def work() -> None:
                try:
                    runtime.choose("size", 2)
                except Exception:  # noqa: BLE001 - the point of the test
                    return

            runtime.spawn("a", work)
            return World()

    replay = Replay(Schedule(((0, 2),)))
    record(Catcher(), replay)
    assert replay.mismatch == "decision 0 is 2, but size is below 2"


def test_not_strict_it_goes_on_with_the_default() -> None:
    replay = Replay(Schedule(((0, 9), (1, 2))), strict=False)
    recording = record(Counter(), replay)
    assert recording.deviations == [(1, 2)]
    assert replay.mismatch is not None


def test_a_replay_is_one_execution() -> None:
    replay = Replay(Schedule())
    assert replay.begin()
    assert not replay.begin()
