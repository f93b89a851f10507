"""Passing executions are run twice now and then, and a difference is a failure that says where."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
from cases import HOLDS, Case, said

from hfsched.explore.execution import REPEAT_EVERY, search
from hfsched.explore.replay import NondeterminismError, confirm, schedule_of
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.schedule import Recording
from hfsched.explore.strategies.choose import make as strategy_of
from hfsched.explore.strategies.exhaustive import Exhaustive

Draw = Callable[[], int]


def _way(runtime: ExploreRuntime, draw: Draw) -> None:
    cell = runtime.cell("c", 0)

    def work() -> None:
        cell.get()
        cell.set(1) if draw() % 2 else cell.get()

    runtime.spawn("a", work)


def _value(runtime: ExploreRuntime, draw: Draw) -> None:
    cell = runtime.cell("c", 0)

    def work() -> None:
        cell.set(draw())
        cell.get()
        cell.set(0)

    runtime.spawn("a", work)


def _end(runtime: ExploreRuntime, draw: Draw) -> None:
    cell = runtime.cell("c", 0)
    runtime.spawn("a", lambda: cell.set(draw()))


def _guarded(runtime: ExploreRuntime, draw: Draw) -> None:
    box: list[int] = []
    lock = runtime.lock("box", state=lambda: tuple(box))

    def work() -> None:
        with lock:
            box.append(draw())

    runtime.spawn("a", work)


def _message(runtime: ExploreRuntime, draw: Draw) -> None:
    left, right = runtime.channel("c")
    runtime.spawn("a", lambda: left.send(draw().to_bytes(4, "big")))
    runtime.spawn("b", lambda: (right.recv(), None)[1])


def _more_steps(runtime: ExploreRuntime, draw: Draw) -> None:
    def work() -> None:
        for _ in range(draw()):
            runtime.checkpoint("again")

    runtime.spawn("a", work)


DIFFER = "two runs of the same schedule differ: "
WAYS: dict[str, tuple[Callable[[ExploreRuntime, Draw], None], str]] = {
    "an operation": (_way, "step 1 was first 'a: "),
    "a value that is read": (_value, "step 1 observes another value, a: cell c"),
    "a value that is written": (_end, "at the end cell c has another state"),
    "what a lock guards": (_guarded, "at the end lock box has another state"),
    "a message": (_message, "step 1 observes another value, b: "),
    "how many": (_more_steps, "after step 0 the second goes on"),
}


def _world(build: Callable[[ExploreRuntime, Draw], None], draw: Draw) -> Callable[..., World]:
    def make(runtime: ExploreRuntime) -> World:
        build(runtime, draw)
        return World()

    return make


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("strategy", ["exhaustive", "bounded", "pos", "portfolio"])
def test_a_decision_from_outside_is_found_though_every_run_passes(way: str, strategy: str) -> None:
    build, words = WAYS[way]
    counter = itertools.count(1)
    found = said(_world(build, lambda: next(counter)), strategy, 5)
    assert found.startswith(DIFFER + words), found


@pytest.mark.parametrize("way", WAYS)
def test_what_is_the_same_each_time_holds(way: str) -> None:
    assert said(_world(WAYS[way][0], lambda: 3)) == HOLDS


def test_one_in_a_hundred_is_looked_at() -> None:
    """A decision that differs late is found by the next one that is run twice."""
    builds = itertools.count()

    def make(runtime: ExploreRuntime) -> World:
        late = next(builds) > 150
        cell = runtime.cell("c", 0)
        runtime.spawn("a", lambda: cell.set(next(builds) if late else 1))
        runtime.spawn("b", lambda: (cell.get(), None)[1])
        return World()

    strategy = strategy_of("random", 1)
    result = search(Case(make), strategy, until=lambda result: result.executions >= 1000)
    assert isinstance(result.failure and result.failure.failure, NondeterminismError)
    assert result.executions == 2 * REPEAT_EVERY + 1


def test_a_prefix_that_cannot_be_repeated_is_the_same_failure() -> None:
    """A search repeats beginnings of schedules: what was enabled there must be so again."""
    builds: Iterator[int] = itertools.count()

    def make(runtime: ExploreRuntime) -> World:
        first = next(builds) < 2  # the first execution, and its repetition
        event = runtime.event("e")

        def wait() -> None:
            if not first:
                event.wait()
            runtime.checkpoint("one")
            runtime.checkpoint("two")

        runtime.spawn("a", wait)
        runtime.spawn("b", lambda: runtime.checkpoint("b"))
        return World()

    recording = Recording(Exhaustive())
    result = search(Case(make), recording)
    assert result.failure is not None
    failure = result.failure.failure
    assert isinstance(failure, NondeterminismError)
    assert str(failure).startswith(DIFFER)
    finding = confirm(Case(make), schedule_of(recording, result.failure), failure)
    assert finding.text == str(failure)
    assert finding.token == ""
