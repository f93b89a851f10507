"""POS: how often which of two comes first, compared with what the paper's algorithm gives."""

from __future__ import annotations

from fractions import Fraction

import pytest

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.pos import POS
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.runtime.base import guards_nothing

from .worlds import Lanes, Spinner, ends, run


def all_before_the_last(m: int) -> Fraction:
    """Return how often all m operations of one task come before the second of another's two.

    Nothing races.  b1 and b2 are the priorities of the two, a1 to am those of the m.  Either b1 is
    the least of m + 1; or b1 goes while ai is pending (ai < b1 < the a's before), and b2 is less
    than ai and all that follow: the integral over x = ai.
    """
    first = Fraction(1, m + 1)
    return first + sum(
        Fraction(1, i * (m - i + 1)) * (Fraction(1, i + 1) - Fraction(1, m + 2))
        for i in range(1, m + 1)
    )


def test_steps_that_do_not_race_are_ordered_once() -> None:
    executions = 3000
    world = Lanes({"a": 6, "b": 1})
    expected = float(all_before_the_last(7)) * executions  # the start is a step of a, and one of b
    found = ends(world, POS(1), executions)["aaaaaab"]
    assert abs(found - expected) < 4 * expected**0.5
    assert ends(world, RandomWalk(1), executions)["aaaaaab"] < expected / 4


class Writers:
    """One task writes to a cell many times, another once; a lock around it makes no difference."""

    name = "writers"

    def __init__(self, locked: bool, same: bool) -> None:
        self._locked = locked
        self._same = same

    def build(self, runtime: ExploreRuntime) -> World:
        x = runtime.cell("x", 0)
        y = x if self._same else runtime.cell("y", 0)
        lock = runtime.lock("of a", state=guards_nothing)
        order: list[str] = []

        def a() -> None:
            for _ in range(8):
                if self._locked:
                    with lock:
                        x.set(1)
                else:
                    x.set(1)
                order.append("a")

        def b() -> None:
            order.append("s")
            y.set(2)
            order.append("b")

        runtime.spawn("a", a)
        runtime.spawn("b", b)
        return World(final=lambda: "".join(order))


@pytest.mark.parametrize("locked", [False, True])
def test_an_operation_that_has_lost_a_race_is_drawn_anew(locked: bool) -> None:
    """Eight races are hardly ever lost one after the other; eight independent steps often are.

    Looked at where b has begun first ("s"), and waits with its write all the time.
    """
    racing = ends(Writers(locked, same=True), POS(1), 1000)["saaaaaaaab"]
    independent = ends(Writers(locked, same=False), POS(1), 1000)["saaaaaaaab"]
    assert racing * 5 < independent


def test_a_step_without_a_choice_has_a_successor_of_its_own() -> None:
    """Two meet after b was alone for a step: nothing remains of the race that b lost before."""

    class Meeting:
        name = "meeting"

        def build(self, runtime: ExploreRuntime) -> World:
            event = runtime.event("e")
            order: list[str] = []

            def a() -> None:
                order.append("s")
                event.wait()
                order.append("a")

            def b() -> None:
                event.set()
                order.append("w")
                runtime.checkpoint("step")
                order.append("b")

            runtime.spawn("a", a)
            runtime.spawn("b", b)
            return World(final=lambda: "".join(order))

    found = ends(Meeting(), POS(1), 2000)
    one, two = found["swab"], found["swba"]
    assert abs(one - two) < 4 * (one + two) ** 0.5


def test_who_yields_starves_nobody() -> None:
    assert max(outcome.steps for outcome in run(Spinner(yields=True), POS(1), 1000)) < 200


def test_who_spins_starves_nobody() -> None:
    found = list(run(Spinner(yields=False), POS(1), 1500))
    assert max(outcome.steps for outcome in found) < 1100
