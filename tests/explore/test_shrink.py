"""Shrinking: the fewest preemptions, and whether that is proved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from worlds import (
    UPSTREAM,
    Counter,
    Polite,
    Rounds,
    Spins,
    Values,
    failing,
    find_failure,
)

from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import search
from hfsched.explore.races import RaceError
from hfsched.explore.registry import find
from hfsched.explore.replay import confirm, kind, replay, run
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.schedule import Recording, Schedule
from hfsched.explore.shrink import shrink
from hfsched.explore.strategies.exhaustive import Exhaustive


def test_the_lost_wake_up_shrinks_to_one_preemption_and_that_is_proved() -> None:
    finding = failing(find(UPSTREAM), 6)
    shrunk = shrink(find(UPSTREAM), finding)
    assert shrunk.finding.preemptions == 1
    assert shrunk.clean == 0
    assert shrunk.minimal
    assert kind(shrunk.finding.failure) == kind(finding.failure)
    assert len(shrunk.finding.token) < len(finding.token)
    assert replay(shrunk.finding.token)[1].failure is not None


def test_the_proof_says_what_was_searched() -> None:
    shrunk = shrink(Counter(tasks=3), failing(Counter(tasks=3), 2))
    clean = Exhaustive(0)
    result = search(Counter(tasks=3), clean)
    assert result.complete
    assert shrunk.proof == (
        f"minimal: no schedule with 0 preemptions fails ({result.executions} executions, "
        f"{clean.states} states)"
    )


@pytest.mark.parametrize("switches", [2, 3, 4])
def test_the_least_is_what_the_bounded_search_finds_first(switches: int) -> None:
    world = Rounds(switches)
    minimal = next(n for n in range(9) if search(world, Exhaustive(n)).failure is not None)
    shrunk = shrink(world, failing(world, minimal + 1))
    assert shrunk.finding.preemptions == minimal
    assert shrunk.minimal


def test_nothing_more_can_be_left_out() -> None:
    shrunk = shrink(find(UPSTREAM), failing(find(UPSTREAM), 6))
    schedule = shrunk.finding.schedule
    for place in range(len(schedule.deviations)):
        left = schedule.without(place, place + 1)
        assert run(find(UPSTREAM), left, strict=False).outcome.failure is None


def test_a_failure_without_preemptions_is_the_least_at_once() -> None:
    finding = find_failure(Rounds(1))
    shrunk = shrink(Rounds(1), finding)
    assert shrunk.finding.schedule.deviations == ()
    assert shrunk.minimal
    assert shrunk.proof == "minimal: it fails without preemptions"


def test_another_failure_is_not_the_same() -> None:
    """Without a preemption it fails too, but in another way; that is not what is asked."""

    @dataclass
    class Two:
        name: str = "two"

        def build(self, runtime: ExploreRuntime) -> World:
            world = Counter().build(runtime)
            last = runtime.cell("last", "")
            runtime.spawn("x", lambda: last.set("x"))
            runtime.spawn("y", lambda: last.set("y"))

            def check() -> None:
                world.check()
                assert last.get() == "x", "y was last"

            return World(check)

    without = search(Two(), Exhaustive(0))
    assert without.failure is not None
    assert str(without.failure.failure).startswith("y was last")
    finding = failing(Two(), 3, "an update was lost")
    shrunk = shrink(Two(), finding)
    assert "an update was lost" in shrunk.finding.text
    assert shrunk.finding.preemptions == 1
    assert shrunk.minimal


def test_where_delta_debugging_sticks_the_search_goes_on() -> None:
    """Turn about, all eight steps, fails; with one turn less it does not, nor with any left out."""

    @dataclass
    class Stuck:
        name: str = "stuck"

        def build(self, runtime: ExploreRuntime) -> World:
            turns: list[str] = []
            lock = runtime.lock("turns", state=lambda: tuple(turns))

            def work(letter: str) -> None:
                for _ in range(4):
                    with lock:
                        turns.append(letter)

            runtime.spawn("a", lambda: work("a"))
            runtime.spawn("b", lambda: work("b"))

            def check() -> None:
                assert "".join(turns) not in ("abababab", "abbbbaaa"), "an update was lost"

            return World(check)

    long = next(
        found
        for found in (confirm(Stuck(), schedule) for schedule in _alternating())
        if "an update was lost" in found.text
    )
    assert long.preemptions > 3
    for place in range(len(long.schedule.deviations)):
        left = long.schedule.without(place, place + 1)
        assert run(Stuck(), left, strict=False).outcome.failure is None
    shrunk = shrink(Stuck(), long)
    assert shrunk.finding.preemptions == 1
    assert shrunk.minimal


def _alternating() -> Iterator[Schedule]:
    """Return schedules of two that take turns from some decision on."""
    for first in range(6):
        for length in range(4, 9):
            yield Schedule(tuple((first + n, 2 - n % 2) for n in range(length)))


def test_numbers_that_the_failure_needs_stay() -> None:
    shrunk = shrink(Values(of=4), find_failure(Values(of=4)))
    assert shrunk.finding.schedule.deviations == ((0, 3), (1, 1))
    assert shrunk.minimal


# What is no oracle's word.


def test_a_race_is_shrunk_without_the_cache() -> None:
    """They race only if the second comes while the first has said that it writes."""

    class Rare:
        name = "rare"

        def build(self, runtime: ExploreRuntime) -> World:
            shared, writing = runtime.shared("value", 0), runtime.cell("writing", value=False)

            def first() -> None:
                writing.set(True)
                shared.value = 1
                writing.set(False)

            def second() -> None:
                if writing.get():
                    shared.value = 2

            runtime.spawn("a", first)
            runtime.spawn("b", second)
            for name in ("c", "d"):
                runtime.spawn(name, lambda: runtime.checkpoint("beside"))
            return World()

    finding = failing(Rare(), 3)
    assert isinstance(finding.failure, RaceError)
    shrunk = shrink(Rare(), finding)
    assert isinstance(shrunk.finding.failure, RaceError)
    assert shrunk.finding.preemptions == 1
    assert shrunk.minimal
    assert shrunk.searched > 0
    assert shrunk.states == 0


def test_what_fails_beyond_the_bound_does_not_end_its_search() -> None:
    """The search looks into the cycle of one that waits, and the other comes in between twice.

    Once would do: that is found only if the search with 1 is reached.
    """

    @dataclass
    class Waits:
        name: str = "waits"

        def build(self, runtime: ExploreRuntime) -> World:
            go = runtime.cell("go", 0)

            def wait() -> None:
                while (seen := go.get()) != 2:
                    assert seen != 1, "half done"
                    runtime.retain_only()
                    runtime.checkpoint("yield")

            def work() -> None:
                go.set(1)
                runtime.checkpoint("half")
                go.set(2)

            runtime.spawn("a", wait)
            runtime.spawn("b", work)
            return World()

    beyond = Recording(Exhaustive(0))
    assert search(Waits(), beyond).failure is not None
    assert beyond.preemptions > 1
    shrunk = shrink(Waits(), failing(Waits(), 3))
    assert shrunk.finding.preemptions == 1
    assert shrunk.minimal


def test_an_exception_is_shrunk_even_where_races_were_looked_for_too() -> None:
    finding = confirm(Counter(), Schedule(((2, 2),), races=True))
    shrunk = shrink(Counter(), finding)
    assert "an update was lost" in shrunk.finding.text
    assert shrunk.minimal


def test_a_run_that_goes_round_is_cut_to_where_it_begins_to() -> None:
    """A random walk was given up after 20 000 steps; the livelock is there after a few."""
    finding = find_failure(Polite())
    assert len(finding.token) > 10_000
    shrunk = shrink(Polite(), finding, budget=200)
    assert isinstance(shrunk.finding.failure, LivelockError)
    assert len(shrunk.finding.schedule.deviations) <= 3
    assert shrunk.finding.preemptions < finding.preemptions / 100
    assert len(shrunk.finding.token) < 60
    assert not shrunk.minimal
    assert "the search does not cover every livelock" in shrunk.proof


def test_a_run_without_end_that_never_comes_back_stays_what_it_is() -> None:
    finding = find_failure(Spins())
    assert shrink(Spins(), finding).finding.schedule == finding.schedule


# Budgets.


def test_without_a_budget_left_it_is_what_it_was_and_nothing_is_proved() -> None:
    finding = failing(find(UPSTREAM), 6)
    shrunk = shrink(find(UPSTREAM), finding, budget=0)
    assert shrunk.finding == finding
    assert shrunk.executions == 0
    assert not shrunk.minimal
    assert "the search with at most 0 preemptions was not finished" in shrunk.proof


def test_leaving_out_comes_first_and_is_quick() -> None:
    finding = failing(find(UPSTREAM), 6)
    shrunk = shrink(find(UPSTREAM), finding, budget=len(finding.schedule.deviations))
    assert shrunk.finding.preemptions < finding.preemptions


def test_a_budget_that_ends_in_the_search_proves_nothing_of_that_bound() -> None:
    """What the bounds below it have proved stays."""
    finding = failing(Rounds(3), 3)
    whole = shrink(Rounds(3), finding)
    assert whole.clean == 1
    cleans = {shrink(Rounds(3), finding, budget=n).clean for n in range(whole.executions + 1)}
    assert cleans == {-1, 0, 1}


def test_until_is_asked_with_the_executions_so_far() -> None:
    asked: list[int] = []

    def until(executions: int) -> bool:
        asked.append(executions)
        return executions >= 3

    shrunk = shrink(find(UPSTREAM), failing(find(UPSTREAM), 6), until)
    assert asked[0] == 0
    assert asked == sorted(asked)
    assert asked[-1] >= 3
    assert shrunk.executions <= 3 + 2  # the two that confirm


def test_what_does_not_repeat_is_not_taken() -> None:
    """From its third execution on, the scenario fails every other time only."""
    builds = iter(range(10_000))

    class Moody:
        name = "moody"

        def build(self, runtime: ExploreRuntime) -> World:
            world = Counter(tasks=3).build(runtime)
            return world if next(builds) % 2 == 0 else World()

    finding = failing(Counter(tasks=3), 2)
    shrunk = shrink(Moody(), finding, budget=50)
    assert shrunk.executions > 2
    assert shrunk.finding == finding
