"""Programs that the explorer cannot run, and what it says of them: a line, with what to do."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from typing import Any

import pytest
from cases import HOLDS, said

from hfsched.errors import UserError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World


def a_task(act: Callable[[ExploreRuntime], Any]) -> Callable[[ExploreRuntime], World]:
    """Return a scenario of one task."""

    def make(runtime: ExploreRuntime) -> World:
        runtime.spawn("a", lambda: act(runtime))
        return World()

    return make


def refused(make: Callable[[ExploreRuntime], World]) -> str:
    with pytest.raises(UserError) as caught:
        said(make)
    return str(caught.value)


def test_a_scenario_without_a_world() -> None:
    def make(runtime: ExploreRuntime) -> Any:
        runtime.spawn("a", lambda: None)

    assert refused(make) == (
        "scenario case: it returns NoneType, not a World (hfsched.explore.World)"
    )


def _locked(state: Any) -> Callable[[ExploreRuntime], World]:
    def make(runtime: ExploreRuntime) -> World:
        cell, other = runtime.cell("c", 0), runtime.lock("m", state=int)

        def looks() -> object:
            return state(cell, other) if callable(state) else None

        lock = runtime.lock("l", state=looks if callable(state) else state)

        def act() -> None:
            with lock:
                pass

        for name in "ab":
            runtime.spawn(name, act)
        return World()

    return make


def _take(_: object, lock: Any) -> None:
    with lock:
        pass


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (lambda *_: next(iter(())), "its state= has raised StopIteration()"),
        (
            lambda cell, _: cell.get(),
            "its state= does an operation with cell c: it may look at plain state alone, and peek",
        ),
        (
            _take,
            "its state= does an operation with lock m: it may look at plain state alone, and peek",
        ),
        ({}, "state= is dict, which cannot be called"),
    ],
)
def test_what_a_lock_guards_cannot_be_looked_at(state: Any, words: str) -> None:
    assert refused(_locked(state)) == f"lock l: {words}"


def test_what_a_lock_guards_may_be_peeked_at() -> None:
    assert said(_locked(lambda cell, _: cell.peek())) == HOLDS


def _generates(_: ExploreRuntime) -> Generator[int]:
    yield 1


async def _waits(_: ExploreRuntime) -> None:
    pass


@pytest.mark.parametrize(("act", "what"), [(_generates, "generator"), (_waits, "coroutine")])
def test_a_task_that_nobody_runs(act: Callable[[ExploreRuntime], Any], what: str) -> None:
    assert refused(a_task(act)) == (
        f"task a: its function returns a {what}, which nobody runs: give a function that runs to its end"
    )


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_is_no_task() -> None:
    def act(runtime: ExploreRuntime) -> None:
        cell = runtime.cell("c", 0)
        thread = threading.Thread(target=lambda: cell.set(1), name="worker")
        thread.start()
        thread.join()

    assert refused(a_task(act)) == (
        "a thread that is no task does 'put c': start it by Runtime.spawn"
    )


def test_a_task_that_exits_has_failed() -> None:
    assert "SystemExit: 3" in said(a_task(lambda _: sys.exit(3)))
