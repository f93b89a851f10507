"""Stepwise: tasks run as far as a test says, and nothing happens by itself."""

from __future__ import annotations

import random
from functools import partial

import pytest

from hfsched.explore import Stepwise
from hfsched.explore.stepwise import StepsExceededError, WouldSleepError
from hfsched.runtime.base import Event


def wait(event: Event) -> None:
    event.wait()


def test_a_task_stops_where_the_test_asked_for_and_goes_no_further() -> None:
    with Stepwise() as world:
        cell = world.cell("n", 0)
        world.spawn("adder", lambda: cell.set(cell.get() + 1))
        assert world.go("adder", until="put n") == "put n"
        cell.set(7)
        assert world.go("adder") == "done"
        assert cell.get() == 1, "it had read 0 before"


def test_each_go_passes_one_operation_at_least() -> None:
    with Stepwise() as world:
        cell = world.cell("n", 0)

        def write() -> None:
            cell.set(1)
            cell.set(2)

        world.spawn("writer", write)
        seen = [(world.go("writer", "put n"), cell.get()) for _ in range(3)]
        assert seen == [("put n", 0), ("put n", 1), ("done", 2)]


def test_a_sleeper_is_named_with_what_it_sleeps_on() -> None:
    with Stepwise() as world:
        event = world.event("bell")
        world.spawn("sleeper", partial(wait, event))
        assert world.go("sleeper") == "asleep bell"
        assert world.asleep() == ["sleeper"]
        event.set()
        assert world.asleep() == []
        assert world.go("sleeper") == "done"


def test_time_passes_when_the_test_says_so() -> None:
    woken: list[bool] = []
    with Stepwise() as world:
        event = world.event("bell")
        world.spawn("sleeper", lambda: woken.append(event.wait(world.now() + 10)))
        world.settle()
        world.advance(9)
        world.settle()
        assert woken == []
        world.advance(1)
        world.settle()
        assert woken == [False]


def test_the_test_itself_cannot_sleep() -> None:
    with Stepwise() as world:
        event = world.event("bell")
        with pytest.raises(WouldSleepError, match=r"^bell$"):
            event.wait()
        assert not event.wait(world.now())
        event.set()
        assert event.wait()


def test_no_task_is_left_inside_a_lock() -> None:
    with Stepwise() as world:
        lock, cell = world.lock("l"), world.cell("n", 0)

        def inside() -> None:
            with lock:
                cell.set(1)
                cell.set(2)
            cell.set(3)

        world.spawn("t", inside)
        assert world.go("t", "put n") == "put n"
        with lock:
            assert cell.get() == 2


def test_what_a_task_raises_is_raised_once_and_the_others_run_on() -> None:
    done: list[str] = []

    def bad() -> None:
        raise ValueError("bad")

    with Stepwise() as world:
        world.spawn("bad", bad)
        world.spawn("good", lambda: done.append("good"))
        with pytest.raises(ValueError, match=r"^bad$"):
            world.settle()
        world.settle()
        assert done == ["good"]
        assert world.task("bad").done


def test_a_sleeping_task_is_interrupted() -> None:
    seen: list[str] = []

    def sleeper(event: Event) -> None:
        try:
            event.wait()
        except InterruptedError:
            seen.append("interrupted")

    with Stepwise() as world:
        event = world.event("bell")
        world.spawn("sleeper", partial(sleeper, event))
        world.settle()
        world.interrupt("sleeper", InterruptedError)
        assert seen == ["interrupted"]
        assert world.task("sleeper").done


def test_an_endless_loop_is_an_error() -> None:
    with Stepwise(steps_max=100) as world:

        def spin() -> None:
            while True:
                world.checkpoint("round")

        world.spawn("spinner", spin)
        with pytest.raises(StepsExceededError):
            world.settle()


def test_shuffling_runs_tasks_in_an_order_of_its_own() -> None:
    orders = set()
    for seed in range(10):
        with Stepwise() as world:
            log: list[int] = []
            for number in range(3):
                world.spawn(str(number), partial(log.append, number))
            world.shuffle(random.Random(seed))
            orders.add(tuple(log))
    assert len(orders) > 1


def test_a_test_that_joins_a_task_settles_all() -> None:
    with Stepwise() as world:
        event = world.event("bell")
        waiter = world.spawn("waiter", partial(wait, event))
        world.spawn("ringer", event.set)
        assert waiter.join()
        assert not world.spawn("sleeper", partial(wait, world.event("other"))).join()
