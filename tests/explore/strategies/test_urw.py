"""URW: uniform over interleavings, where a random walk is far from it."""

from __future__ import annotations

from math import comb

from hfsched.explore.strategies.urw import UniformWalk
from hfsched.explore.strategies.walk import RandomWalk

from .worlds import Lanes, Spinner, chi_square, ends, run

# What chi-square with 5 degrees of freedom exceeds once in 10 000 times.
FAR_5 = 25.7


def expected(a: int, executions: int) -> dict[str, float]:
    """Return how often b's step comes where, if all interleavings of a + 1 steps and 2 come alike.

    Between i and i + 1 steps of a's lane: b's start is anywhere before, a's start counts as a step.
    """
    total = comb(a + 3, 2)
    found = {"a" * i + "b" + "a" * (a - i): (i + 2) * executions / total for i in range(a + 1)}
    found["b" + "a" * a] += executions / total  # before the start of a as well
    return found


def test_all_interleavings_come_alike() -> None:
    world, executions = Lanes({"a": 5, "b": 1}), 3000
    wanted = expected(5, executions)
    assert sum(wanted.values()) == executions
    assert chi_square(ends(world, UniformWalk(1), executions, skip=1), wanted) < FAR_5
    assert chi_square(ends(world, RandomWalk(1), executions, skip=1), wanted) > 10 * FAR_5


def test_the_first_execution_knows_no_lengths() -> None:
    """It takes all tasks alike: no other execution here starts with b so often."""
    world = Lanes({"a": 30, "b": 1})
    first = sum(ends(world, UniformWalk(seed), 1)["b" + "a" * 30] for seed in range(200))
    second = sum(ends(world, UniformWalk(seed), 1, skip=1)["b" + "a" * 30] for seed in range(200))
    assert first > 50
    assert second < 10


def test_lengths_are_the_means_of_earlier_executions() -> None:
    """After 9 and 3 steps a is thought to have 6, so b hardly goes first where both have 3."""
    strategy = UniformWalk(1)
    ends(Lanes({"a": 8, "b": 2}), strategy, 10)
    ends(Lanes({"a": 2, "b": 2}), strategy, 10)
    later = ends(Lanes({"a": 2, "b": 2}), strategy, 100)
    assert later["bbaa"] < later["aabb"] / 2


def test_who_spins_starves_nobody() -> None:
    for yields in (False, True):
        found = list(run(Spinner(yields), UniformWalk(1), 300))
        assert max(outcome.steps for outcome in found) < 1000
