"""The runtime of production.  No sleeps; the only claim about time is "never early"."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hfsched.runtime.threads import ThreadRuntime
from hfsched.runtime.threads.sync import FlagEvent

from .times import later

if TYPE_CHECKING:
    from hfsched.runtime.base import Event

# Events.


def test_an_event_stays_set_until_cleared(rt: ThreadRuntime) -> None:
    event = rt.event("e")
    assert not event.is_set()
    event.set()
    event.set()
    assert event.is_set()
    assert event.wait()
    assert event.wait(0)
    event.clear()
    event.clear()
    assert not event.is_set()
    assert not event.wait(0)
    event.close()


def test_a_set_wakes_every_sleeper(checked: ThreadRuntime) -> None:
    event, asleep = checked.event("e"), threading.Semaphore(0)
    results: list[bool] = []

    def sleep(deadline: int | None) -> None:
        asleep.release()
        results.append(event.wait(deadline))

    tasks = [
        checked.spawn(f"s{i}", partial(sleep, None if i % 2 else later(checked))) for i in range(8)
    ]
    for _ in tasks:
        asleep.acquire()
    event.set()
    assert all(task.join(later(checked)) for task in tasks)
    assert results == [True] * 8


def test_a_sleeper_is_woken_although_the_event_is_cleared_at_once(checked: ThreadRuntime) -> None:
    for _ in range(50):
        event, started = checked.event("e"), threading.Event()
        results: list[bool] = []

        def sleep(
            event: Event = event, started: threading.Event = started, out: list[bool] = results
        ) -> None:
            started.set()
            out.append(event.wait())

        task = checked.spawn("s", sleep)
        started.wait()
        while not event._sleepers:  # type: ignore[attr-defined]
            checked.checkpoint("until it sleeps")
        event.set()
        event.clear()
        assert task.join(later(checked))
        assert results == [True]


@pytest.mark.parametrize("delay", [0, 1, 999, 50_000, 300_000, 999_999, 3_000_001])
def test_a_deadline_is_never_early(rt: ThreadRuntime, delay: int) -> None:
    event, (end, other) = rt.event("e"), rt.channel("c")
    for _ in range(5):
        deadline = rt.now() + delay
        assert not event.wait(deadline)
        assert rt.now() >= deadline
        deadline = rt.now() + delay
        assert rt.select([event, end], deadline) == []
        assert rt.now() >= deadline
        deadline = rt.now() + delay
        assert end.recv(deadline) is None
        assert rt.now() >= deadline
        deadline = rt.now() + delay
        rt.sleep_until(deadline)
        assert rt.now() >= deadline
    for thing in (end, other, event):
        thing.close()


def test_a_deadline_far_away_is_no_overflow(rt: ThreadRuntime) -> None:
    event = rt.event("e")
    rt.spawn("setter", event.set)
    assert event.wait(1 << 62)
    assert rt.select([event], 1 << 62) == [event]
    event.close()


def test_a_wait_that_timed_out_leaves_nothing_behind(rt: ThreadRuntime) -> None:
    event = rt.event("e")
    for _ in range(100):
        event.wait(0)
    assert event._sleepers == []  # type: ignore[attr-defined]


def test_no_set_is_lost_in_a_storm(checked: ThreadRuntime) -> None:
    """Ping-pong through two events, with a third task that sets and clears others all the time."""
    rounds = 400
    ping, pong, noise = checked.event("ping"), checked.event("pong"), checked.event("noise")
    over = checked.cell("over", value=False)

    def answer() -> None:
        for _ in range(rounds):
            assert ping.wait(later(checked))
            ping.clear()
            pong.set()

    def disturb() -> None:
        while not over.get():
            noise.set()
            noise.clear()
            noise.wait(0)
            checked.checkpoint("let others run")

    tasks = [checked.spawn("answer", answer), checked.spawn("disturb", disturb)]
    for round_ in range(rounds):
        if round_ == rounds // 2:
            assert not checked.select([pong], 0)  # from here on with an eventfd
        ping.set()
        if round_ % 3 == 0 and round_ > rounds // 2:
            assert checked.select([pong], later(checked)) == [pong]
        assert pong.wait(later(checked))
        pong.clear()
    over.set(True)
    assert all(task.join(later(checked)) for task in tasks)


def test_the_descriptor_shows_the_flag(rt: ThreadRuntime) -> None:
    early, late = rt.event("early"), rt.event("late")
    late.set()  # before it has a descriptor
    assert rt.select([early, late], 0) == [late]
    assert early.fileno() == early.fileno()
    early.set()
    early.set()
    assert rt.select([early, late], 0) == [early, late]
    late.clear()
    early.clear()
    early.clear()
    assert rt.select([early, late], 0) == []
    late.set()
    assert rt.select([early, late]) == [late]
    early.close()
    late.close()
    late.close()


def test_a_set_ends_a_select(checked: ThreadRuntime) -> None:
    event, asleep = checked.event("e"), threading.Event()
    got: list[int] = []

    def body() -> None:
        asleep.set()
        got.append(len(checked.select([event])))

    task = checked.spawn("selector", body)
    asleep.wait()
    event.set()
    assert task.join(later(checked))
    assert got == [1]
    event.close()


def test_select_takes_events_and_channels_together(rt: ThreadRuntime) -> None:
    event, (left, right) = rt.event("e"), rt.channel("c")
    assert rt.select([event, left, right], 0) == []
    right.send(b"x")
    assert rt.select([event, left, right]) == [left]
    event.set()
    assert rt.select([right, left, event]) == [left, event]
    left.recv()
    right.close()
    assert rt.select([left]) == [left], "an end of file is something to read"
    left.close()
    event.close()


# Locks and cells.


def test_a_lock_excludes(checked: ThreadRuntime) -> None:
    lock, inside, seen = checked.lock("l"), [0], []

    def body() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                checked.checkpoint("inside")
                seen.append(inside[0])
                inside[0] -= 1

    tasks = [checked.spawn(f"t{i}", body) for i in range(4)]
    assert all(task.join(later(checked)) for task in tasks)
    assert seen == [1] * 800


def test_a_lock_taken_by_hand_keeps_others_out(checked: ThreadRuntime) -> None:
    lock, seen = checked.lock("l"), []
    lock.acquire()

    def other() -> None:
        with lock:
            seen.append("other")

    task = checked.spawn("other", other)
    seen.append("one")
    lock.release()
    assert task.join(later(checked))
    assert seen == ["one", "other"]
    lock.acquire()
    lock.release()


def test_a_lock_is_free_after_an_exception(rt: ThreadRuntime) -> None:
    lock = rt.lock("l")
    with pytest.raises(ValueError, match="inside"), lock:
        raise ValueError("inside")
    with lock:
        pass


def test_flags(rt: ThreadRuntime) -> None:
    flag = rt.flag("f", value=True)
    assert flag.get() is True
    flag.set(False)
    assert flag.get() is False


def test_cells(rt: ThreadRuntime) -> None:
    cell = rt.cell("c", 1)
    assert cell.get() == 1
    assert cell.exchange(2) == 1
    assert not cell.compare_and_set(1, 3)
    assert cell.get() == 2
    assert cell.compare_and_set(2, 3)
    cell.set(4)
    assert cell.get() == 4
    shared = rt.shared("s", 1)
    shared.value += 1
    assert shared.value == 2
    assert rt.choose("n", 5) == 0
    rt.retain_only(cell)


def test_cells_are_atomic(checked: ThreadRuntime) -> None:
    cell, tokens = checked.cell("n", 0), checked.cell("token", value=True)
    taken: list[int] = []

    def add() -> None:
        for _ in range(500):
            while True:
                old = cell.get()
                if cell.compare_and_set(old, old + 1):
                    break

    def grab() -> None:
        for number in range(500):
            if tokens.exchange(False):
                taken.append(number)
                tokens.set(True)

    tasks = [checked.spawn(f"a{i}", add) for i in range(3)]
    tasks += [checked.spawn(f"g{i}", grab) for i in range(2)]
    assert all(task.join(later(checked)) for task in tasks)
    assert cell.get() == 1500
    assert taken
    assert tokens.get()


# Tasks.


def test_join_tells_whether_a_task_has_ended(checked: ThreadRuntime) -> None:
    gate = checked.event("gate")

    def body() -> None:
        gate.wait()

    task = checked.spawn("waits", body)
    assert task.name == "waits"
    assert not task.join(0)
    deadline = checked.now() + 200_000
    assert not task.join(deadline)
    assert checked.now() >= deadline
    gate.set()
    assert task.join()
    assert task.join(0)


class OddError(BaseException):
    """Not even an Exception."""


def test_a_tasks_processor_time_grows_while_it_runs_and_not_while_it_sleeps(
    rt: ThreadRuntime,
) -> None:
    asleep, end = rt.event("asleep"), rt.event("end")

    def body() -> None:
        began = time.thread_time_ns()
        while time.thread_time_ns() < began + 20_000_000:
            pass
        asleep.set()
        end.wait()

    task = rt.spawn("busy", body)
    asleep.wait()
    ran = task.processor_time()
    assert ran is not None
    assert ran >= 20_000_000
    began = time.thread_time_ns()
    while time.thread_time_ns() < began + 20_000_000:
        pass
    later_on = task.processor_time()
    assert later_on is not None
    assert later_on - ran < 10_000_000
    end.set()
    task.join()


@pytest.mark.parametrize("error", [ValueError("x"), OddError(), SystemExit(3)])
def test_a_failure_is_reported_in_the_failing_thread(error: BaseException) -> None:
    told: list[tuple[str, BaseException, str]] = []
    rt = ThreadRuntime(lambda name, exc: told.append((name, exc, threading.current_thread().name)))

    def fail() -> None:
        raise error

    assert rt.spawn("bad", fail).join(later(rt))
    assert told == [("bad", error, "bad")]


def test_without_a_listener_a_failure_goes_to_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[type[BaseException] | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    rt = ThreadRuntime()

    def fail() -> None:
        raise ValueError

    assert rt.spawn("bad", fail).join(later(rt))
    assert seen == [ValueError]


def test_an_event_that_is_set_already_is_closed_when_that_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    event = FlagEvent("late")
    event.fileno()
    closers: list[threading.Thread] = []
    real = os.eventfd_write

    def signal_late(fd: int, value: int) -> None:
        assert event.is_set()  # so another task may close it now
        closers.append(threading.Thread(target=event.close))
        closers[0].start()
        closers[0].join(0.1)  # it must wait for this
        real(fd, value)

    monkeypatch.setattr(os, "eventfd_write", signal_late)
    event.set()
    closers[0].join(60)
    assert event._fd == -1
