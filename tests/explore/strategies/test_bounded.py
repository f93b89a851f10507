"""Iterative context bounding: each bound complete before the next, and an end."""

from __future__ import annotations

import pytest
from worlds import Counter

from hfsched.explore.execution import search
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import Scenario, World
from hfsched.explore.strategies.bounded import Bounded
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.mailbox import MailboxScenario

from .worlds import run


class Zip:
    """The end "abab" must not be: each task is preempted once on the way to it."""

    name = "zip"

    def build(self, runtime: ExploreRuntime) -> World:
        order = runtime.cell("order", "")

        def lane(name: str) -> None:
            for _ in range(2):
                while not order.compare_and_set(seen := order.get(), seen + name):
                    pass

        for name in "ab":
            runtime.spawn(name, lambda name=name: lane(name))  # type: ignore[misc]

        def check() -> None:
            assert order.get() != "abab", "zipped"

        return World(check, final=order.get)


def test_the_first_failure_has_the_fewest_preemptions() -> None:
    one, two = Bounded(), Bounded()
    assert search(Counter(), one).failure is not None
    assert (one.bound, one.complete_to) == (1, 0)
    assert search(Zip(), two).failure is not None
    assert (two.bound, two.complete_to) == (2, 1)


def test_before_the_first_execution_nothing_is_complete() -> None:
    assert Bounded().complete_to is None


@pytest.mark.parametrize(
    "scenario",
    [Counter(locked=True, tasks=3), Counter(tasks=2), Zip(), MailboxScenario("echo", 1, 1)],
)
def test_it_ends_when_all_has_been_seen(scenario: Scenario) -> None:
    """All that the search without a bound has seen, failures included."""
    strategy = Bounded()
    all_of_them, found = (
        {
            "failed" if outcome.failure else outcome.final
            for outcome in run(scenario, each, 10_000)
            if not outcome.pruned
        }
        for each in (Exhaustive(), strategy)
    )
    assert found == all_of_them
    assert not strategy.begin()
    assert strategy.complete_to == strategy.bound


def test_the_states_are_those_of_the_search_that_saw_most() -> None:
    strategy = Bounded()
    seen = [strategy.states for _ in run(Counter(locked=True, tasks=3), strategy, 10_000)]
    assert seen == sorted(seen)
    alone = Exhaustive(strategy.bound)
    search(Counter(locked=True, tasks=3), alone)
    assert strategy.states == alone.states
