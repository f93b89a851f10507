"""Small programs that searches once took for correct, or said nothing about: what each is, and its twin."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from cases import HOLDS, Case, said

from hfsched.errors import UserError
from hfsched.explore.canonical import RefusedError
from hfsched.explore.execution import GRACE, search
from hfsched.explore.replay import confirm, schedule_of
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.schedule import Recording
from hfsched.explore.shrink import shrink
from hfsched.explore.strategies.choose import make as strategy_of
from hfsched.explore.strategies.pos import POS
from hfsched.runtime.base import Task, guards_nothing


def _updates(runtime: ExploreRuntime, *, between: bool) -> World:
    """Each task reads plain data and writes it, with a checkpoint between or before."""
    total = [0]

    def add() -> None:
        if not between:
            runtime.checkpoint("first")
        seen = total[0]
        if between:
            runtime.checkpoint("between")
        total[0] = seen + 1

    for name in ("a", "b", "c"):
        runtime.spawn(name, add)

    def check() -> None:
        assert total[0] == 3, "an update was lost"

    return World(check)


def test_a_checkpoint_is_dependent_on_everything() -> None:
    assert said(partial(_updates, between=True)) == "an update was lost"
    assert said(partial(_updates, between=False)) == HOLDS


def test_a_checkpoint_may_stand_beside_any_operation() -> None:
    """Here the other access of the plain data is before a write to a cell."""

    def make(runtime: ExploreRuntime) -> World:
        cell, ready, seen = runtime.cell("c", 0), [False], [False]

        def announce() -> None:
            cell.get()
            ready[0] = True
            cell.get()

        def look() -> None:
            runtime.checkpoint("look")
            seen[0] = ready[0]

        runtime.spawn("announce", announce)
        runtime.spawn("look", look)

        def check() -> None:
            assert not seen[0], "it was there"

        return World(check)

    assert said(make) == "it was there"


def _last(
    runtime: ExploreRuntime,
    put: Callable[[object], None],
    get: Callable[[], object],
    values: Sequence[object],
    wrong: int,
) -> World:
    """Two tasks put a value each; when both have ended, one looks which was last, beside another.

    Those two have enough to do for their states to be compared.
    """
    beside = runtime.cell("beside", 0)
    tasks: list[Task] = [
        runtime.spawn(f"put.{number}", partial(put, value)) for number, value in enumerate(values)
    ]

    def look() -> None:
        for task in tasks:
            task.join()
        beside.set(1)
        beside.set(2)
        found = get()
        expected = values[wrong]
        same = type(found) is type(expected) and repr(found) == repr(expected)
        assert not same, "the wrong one was last"

    def noise() -> None:
        for task in tasks:
            task.join()
        beside.set(3)
        beside.set(4)

    runtime.spawn("look", look)
    runtime.spawn("noise", noise)
    return World()


# Pairs with equal hashes, or equal to each other.
ALIKE = [(-1, -2), (0, 2**61 - 1), (1, True), (0, False), (1, 1.0), (0.0, -0.0), ((1, 2), (1.0, 2)), ((-1,), (-2,))]  # fmt: skip


@pytest.mark.parametrize("values", ALIKE, ids=repr)
@pytest.mark.parametrize("wrong", [0, 1])
def test_values_of_a_cell_with_equal_hashes_are_told_apart(
    values: tuple[object, object], wrong: int
) -> None:
    def make(runtime: ExploreRuntime) -> World:
        cell = runtime.cell("c", None)
        return _last(runtime, cell.set, cell.get, values, wrong)  # type: ignore[arg-type]

    assert said(make) == "the wrong one was last"


@pytest.mark.parametrize("values", ALIKE, ids=repr)
@pytest.mark.parametrize("wrong", [0, 1])
def test_values_under_a_lock_with_equal_hashes_are_told_apart(
    values: tuple[object, object], wrong: int
) -> None:
    assert said(partial(_guarded, values=values, wrong=wrong)) == "the wrong one was last"


def _guarded(
    runtime: ExploreRuntime,
    *,
    values: Sequence[object] = ("x", "y"),
    wrong: int = 0,
    state: bool = True,
) -> World:
    box: list[object] = [None]
    lock = runtime.lock("box", state=(lambda: tuple(box)) if state else None)

    def put(value: object) -> None:
        with lock:
            box[0] = value

    def get() -> object:
        with lock:
            return box[0]

    return _last(runtime, put, get, values, wrong)


@pytest.mark.parametrize("strategy", ["exhaustive", "bounded"])
def test_a_lock_that_does_not_say_what_it_guards_is_refused_by_name(strategy: str) -> None:
    """Unless the search fails, which is a failure all the same."""
    with pytest.raises(RefusedError, match=r"^lock table: states cannot be compared"):
        said(partial(_no_state, right=True), strategy)
    assert said(partial(_no_state, right=False), strategy) == "it fails"
    assert issubclass(RefusedError, UserError)


def _no_state(runtime: ExploreRuntime, *, right: bool) -> World:
    lock = runtime.lock("table")

    def work() -> None:
        with lock:
            pass

    def check() -> None:
        assert right, "it fails"

    runtime.spawn("a", work)
    runtime.spawn("b", work)
    return World(check)


def test_such_a_search_is_not_gone_on_with() -> None:
    executions = []

    def make(runtime: ExploreRuntime) -> World:
        executions.append(1)
        lock = runtime.lock("table")

        def work() -> None:
            for _ in range(5):
                with lock:
                    pass

        for name in "abcd":
            runtime.spawn(name, work)
        return World()

    with pytest.raises(RefusedError):
        said(make, most=10 * GRACE)
    assert len(executions) <= GRACE * 1.1


@pytest.mark.parametrize("strategy", ["random", "pos", "urw", "pct"])
def test_a_search_that_compares_no_states_takes_every_lock(strategy: str) -> None:
    assert said(partial(_no_state, right=True), strategy, 20) == "not complete"


def test_a_lock_may_say_that_it_guards_nothing() -> None:
    def make(runtime: ExploreRuntime) -> World:
        lock = runtime.lock("turn", state=guards_nothing)

        def work() -> None:
            with lock:
                pass

        runtime.spawn("a", work)
        runtime.spawn("b", work)
        return World()

    assert said(make) == HOLDS


def test_the_fewest_preemptions_are_proved_without_comparing_what_a_lock_hides() -> None:
    """A schedule found at random is shrunk by a search without states, where they would not do."""
    case = Case(partial(_guarded, wrong=0, state=False))
    recording = Recording(POS(1))
    result = search(case, recording, until=lambda result: result.executions >= 1000)
    assert result.failure is not None
    found = confirm(case, schedule_of(recording, result.failure), result.failure.failure)
    best = shrink(case, found)
    with_state = Case(partial(_guarded, wrong=0))
    search_again = Recording(strategy_of("bounded", 0))
    result = search(with_state, search_again)
    assert result.failure is not None
    assert best.finding.preemptions == search_again.preemptions
    assert best.minimal


@pytest.mark.parametrize("strategy", ["exhaustive", "pos"])
@pytest.mark.parametrize(
    ("place", "make"),
    [
        ("cell c: a object", lambda runtime: runtime.cell("c", object()).get()),
        ("lock l: a builtin", lambda runtime: runtime.lock("l", state=lambda: print).acquire()),
        ("a: what it retains: a float", lambda runtime: runtime.retain_only(float("nan"))),
        ("shared value s: a object", lambda runtime: runtime.shared("s", object()).value),
    ],
)
def test_what_cannot_be_compared_is_refused_by_place_and_type(
    place: str, make: Callable[[ExploreRuntime], object], strategy: str
) -> None:
    def world(runtime: ExploreRuntime) -> World:
        runtime.spawn("a", lambda: (make(runtime), None)[1])
        runtime.spawn("b", lambda: runtime.checkpoint("b"))
        return World()

    if strategy == "pos":
        assert said(world, strategy, 20) == "not complete"
        return
    with pytest.raises(RefusedError) as refused:
        said(world, strategy)
    assert str(refused.value).startswith(place)
