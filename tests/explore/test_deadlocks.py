"""Deadlocks are told as a cycle, and nothing else is taken for one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import pytest
from cases import HOLDS, said

from hfsched.explore.handles import TaskHandle
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.runtime.base import guards_nothing


def here(function: Callable[..., object], text: str) -> str:
    """Return " at FILE:N" of the one line of a function that has `text`."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [number for number, line in enumerate(lines, first) if text in line]
    return f" at test_deadlocks.py:{found}"


def test_locks_in_two_orders_are_told_as_a_cycle() -> None:
    def make(runtime: ExploreRuntime) -> World:
        one, two = (runtime.lock(name, state=guards_nothing) for name in ("one", "two"))

        def left() -> None:
            with one:  # noqa: SIM117  # left, first
                with two:  # left, second
                    pass

        def right() -> None:
            with two:  # noqa: SIM117  # right, first
                with one:  # right, second
                    pass

        runtime.spawn("left", left)
        runtime.spawn("right", right)
        return World()

    left = (
        f"left holds lock one{here(make, '# left, first')}"
        f" and waits for lock two{here(make, '# left, second')}"
    )
    right = (
        f"right holds lock two{here(make, '# right, first')}"
        f" and waits for lock one{here(make, '# right, second')}"
    )
    for strategy in ("exhaustive", "bounded", "pos"):
        assert said(make, strategy) in (f"deadlock: {left}; {right}", f"deadlock: {right}; {left}")


def test_a_cycle_of_three_has_its_three_members_and_no_other() -> None:
    def make(runtime: ExploreRuntime) -> World:
        locks = [runtime.lock(f"l{number}", state=guards_nothing) for number in range(3)]

        def take(number: int) -> None:
            with locks[number], locks[(number + 1) % 3]:
                pass

        for number in range(3):
            runtime.spawn(f"t{number}", partial(take, number))
        runtime.spawn("beside", lambda: runtime.checkpoint("x"))
        return World()

    found = said(make)
    assert found.startswith("deadlock: ")
    for number in range(3):
        assert f"t{number} holds lock l{number} at " in found
        assert f"waits for lock l{number} at " in found
    assert "beside" not in found


def test_a_lock_taken_twice_is_a_deadlock_of_one() -> None:
    def make(runtime: ExploreRuntime) -> World:
        lock = runtime.lock("jobs", state=guards_nothing)

        def work() -> None:
            with lock:  # outside
                lock.acquire()  # again

        runtime.spawn("worker", work)
        return World(lambda: None)  # which says that every end is legal

    assert said(make) == (
        f"deadlock: worker holds lock jobs{here(make, '# outside')}"
        f" and waits for lock jobs{here(make, '# again')}"
    )


def test_a_lock_and_a_join_make_a_cycle() -> None:
    def make(runtime: ExploreRuntime) -> World:
        lock = runtime.lock("jobs", state=guards_nothing)

        def child() -> None:
            with lock:  # child
                pass

        def parent() -> None:
            with lock:  # parent
                runtime.spawn("child", child).join()

        runtime.spawn("parent", parent)
        return World()

    assert said(make) == (
        f"deadlock: child waits for lock jobs{here(make, '# child')};"
        f" parent holds lock jobs{here(make, '# parent')}"
        f" and joins child{here(make, '.join()')}"
    )


def test_tasks_that_join_each_other_are_a_cycle() -> None:
    def make(runtime: ExploreRuntime) -> World:
        tasks: list[TaskHandle] = []
        tasks.append(runtime.spawn("a", lambda: (tasks[1].join(), None)[1]))
        tasks.append(runtime.spawn("b", lambda: (tasks[0].join(), None)[1]))
        return World()

    assert said(make).startswith("deadlock: ")


@pytest.mark.parametrize("ends", [True, False])
def test_a_lock_that_nobody_will_release_is_a_deadlock(ends: bool) -> None:
    """Its holder has ended, or sleeps for good."""

    def make(runtime: ExploreRuntime) -> World:
        lock, never = runtime.lock("jobs", state=guards_nothing), runtime.event("never")

        def holder() -> None:
            lock.acquire()
            if not ends:
                never.wait()

        def other() -> None:
            with lock:
                pass

        runtime.spawn("holder", holder)
        runtime.spawn("other", other)
        return World(lambda: None)

    found = said(make)
    assert found.startswith("deadlock: other waits for lock jobs at ")
    how = "and has ended" if ends else "and waits in wait of event never at "
    assert "; holder holds lock jobs at " in found
    assert how in found


def test_where_every_task_waits_and_nobody_checks_it_is_a_deadlock() -> None:
    def make(runtime: ExploreRuntime, *, idle: bool = False) -> World:
        first, second = runtime.event("first"), runtime.event("second")

        def ask() -> None:
            first.wait()
            second.set()

        def answer() -> None:
            second.wait()
            first.set()

        runtime.spawn("ask", ask)
        runtime.spawn("answer", answer)
        return World(idle=idle)

    found = said(make)
    assert found.startswith("deadlock: every task waits: ask waits in wait of event first at ")
    assert "; answer waits in wait of event second at " in found
    assert said(lambda runtime: make(runtime, idle=True)) == HOLDS


def _server(runtime: ExploreRuntime) -> World:
    """A server has nothing more to do when its client has ended."""
    asked, answered = runtime.event("asked"), runtime.event("answered")

    def serve() -> None:
        while True:
            runtime.retain_only()
            asked.wait()
            asked.clear()
            answered.set()

    def client() -> None:
        asked.set()
        answered.wait()

    runtime.spawn("server", serve)
    runtime.spawn("client", client)
    return World()


def _holder_that_sleeps(runtime: ExploreRuntime) -> World:
    """Time would pass: a scenario without timers stops it."""
    lock = runtime.lock("jobs", state=guards_nothing)

    def holder() -> None:
        with lock:
            runtime.sleep_until(10)

    def other() -> None:
        with lock:
            pass

    runtime.spawn("holder", holder)
    runtime.spawn("other", other)
    return World(lambda: None, timers=False)


def _lock_of_the_dead(runtime: ExploreRuntime) -> World:
    """A process that dies is no mistake of who waits for it."""
    lock = runtime.lock("jobs", state=guards_nothing)

    def child(_runtime: ExploreRuntime) -> None:
        with lock:
            runtime.checkpoint("inside")

    def other() -> None:
        with lock:
            pass

    runtime.may_die(runtime.process("child", child, []))
    runtime.spawn("other", other)
    return World(lambda: None)


def _join_in_time(runtime: ExploreRuntime) -> World:
    """Each joins the other, but not for ever."""
    tasks: list[TaskHandle] = []
    tasks.append(runtime.spawn("a", lambda: (tasks[1].join(10), None)[1]))
    tasks.append(runtime.spawn("b", lambda: (tasks[0].join(20), None)[1]))
    return World()


def _one_order(runtime: ExploreRuntime) -> World:
    one, two = (runtime.lock(name, state=guards_nothing) for name in ("one", "two"))

    def take() -> None:
        with one, two:
            pass

    for name in ("a", "b", "c"):
        runtime.spawn(name, take)
    return World()


@pytest.mark.parametrize(
    "make", [_server, _holder_that_sleeps, _lock_of_the_dead, _join_in_time, _one_order]
)
@pytest.mark.parametrize("strategy", ["exhaustive", "bounded"])
def test_what_ends_or_may_is_no_deadlock(
    make: Callable[[ExploreRuntime], World], strategy: str
) -> None:
    assert said(make, strategy) == HOLDS
