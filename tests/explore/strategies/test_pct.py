"""PCT: its guarantee, measured where it can be said by hand."""

from __future__ import annotations

from math import sqrt

import pytest

from hfsched.explore.strategies.pct import PCT
from hfsched.explore.strategies.walk import RandomWalk

from .worlds import Lanes, Spinner, ends, run


def at_least(probability: float, executions: int) -> float:
    """Return what something of that probability stays below once in 30 000 times."""
    mean = executions * probability
    return mean - 4 * sqrt(mean)


def test_a_bug_of_depth_two_comes_as_often_as_promised() -> None:
    """Wanted: b between the last two steps of a, n = 2, k = 12 (the most that one has with both)."""
    world, wanted, executions = Lanes({"a": 10, "b": 1}), "aaaaaaaaaba", 2000
    often = at_least(1 / (2 * 12), executions)
    assert ends(world, PCT(1, 2), executions)[wanted] >= often
    assert ends(world, RandomWalk(1), executions)[wanted] < often / 2


def test_a_bug_of_depth_three_comes_as_often_as_promised() -> None:
    """Wanted: each of two is interrupted once, n = 2, k = 8; depth 2 interrupts only one."""
    world, wanted, executions = Lanes({"a": 3, "b": 3}), "abaabb", 5000
    assert ends(world, PCT(1, 3), executions)[wanted] >= at_least(1 / (2 * 8**2), executions)
    assert ends(world, PCT(1, 2), executions)[wanted] == 0


def test_depth_one_only_orders_the_tasks() -> None:
    found = ends(Lanes({"a": 3, "b": 3}), PCT(1, 1), 400)
    assert set(found) == {"aaabbb", "bbbaaa"}
    assert min(found.values()) > 140


def test_a_change_point_comes_anywhere_in_the_longest_execution_seen() -> None:
    found = ends(Lanes({"a": 6, "b": 1}), PCT(1, 2), 1000)
    assert set(found) >= {"a" * i + "b" + "a" * (6 - i) for i in range(7)}


def test_who_yields_lets_others_go_first() -> None:
    """No more than one round for each step of the other, and that of the end."""
    assert max(outcome.steps for outcome in run(Spinner(yields=True), PCT(1), 300)) < 30


@pytest.mark.parametrize("seed", range(5))
def test_who_spins_is_not_believed_for_ever(seed: int) -> None:
    found = list(run(Spinner(yields=False), PCT(seed), 50))
    assert all(outcome.failure is None for outcome in found)
    assert max(outcome.steps for outcome in found) < 1100
