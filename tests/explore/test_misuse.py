"""What no program may do with the things of a runtime: found, and named with task and place."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from cases import HOLDS, said

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.runtime.base import guards_nothing

Make = Callable[[ExploreRuntime], World]


def line_of(function: Callable[..., Any], text: str) -> str:
    """Return "test_misuse.py:N" of the one line of a function that has `text`."""
    lines, first = inspect.getsourcelines(function)
    (found,) = [number for number, line in enumerate(lines, first) if text in line]
    return f"test_misuse.py:{found}"


def test_an_event_used_after_close_is_told_with_both_places() -> None:
    def make(runtime: ExploreRuntime) -> World:
        ready = runtime.event("ready")

        def owner() -> None:
            ready.wait()
            ready.close()

        def other() -> None:
            ready.set()
            ready.set()  # again

        runtime.spawn("owner", owner)
        runtime.spawn("other", other)
        return World()

    assert said(make) == (
        f"event ready is used after close: other does set at {line_of(make, '# again')};"
        f" owner has closed it at {line_of(make, 'ready.close()')}"
    )


def _used(
    thing: Callable[[ExploreRuntime], Any], use: Callable[[Any, ExploreRuntime], object]
) -> Make:
    """Return a scenario in which one task closes a thing, and another one uses it."""

    def make(runtime: ExploreRuntime) -> World:
        it = thing(runtime)

        def close() -> None:
            it.close()

        def work() -> None:
            use(it, runtime)

        runtime.spawn("closer", close)
        runtime.spawn("user", work)
        return World(idle=True)

    return make


THINGS: dict[str, Callable[[ExploreRuntime], Any]] = {
    "event": lambda runtime: runtime.event("e"),
    "end": lambda runtime: runtime.channel("c")[0],
    "connection": lambda runtime: runtime.connection("s")[0],
    "eventfd": lambda runtime: runtime.eventfd("f"),
    "listener": lambda runtime: runtime.listener("l"),
}
USES: dict[str, tuple[Make, str]] = {
    "set": (_used(THINGS["event"], lambda event, _: event.set()), "event e"),
    "clear": (_used(THINGS["event"], lambda event, _: event.clear()), "event e"),
    "is_set": (_used(THINGS["event"], lambda event, _: event.is_set()), "event e"),
    "wait": (_used(THINGS["event"], lambda event, _: event.wait()), "event e"),
    "select": (_used(THINGS["event"], lambda event, runtime: runtime.select([event])), "event e"),
    "send": (_used(THINGS["end"], lambda end, _: end.send(b"1")), "channel c.left"),
    "recv": (_used(THINGS["end"], lambda end, _: end.recv()), "channel c.left"),
    "select of a channel": (
        _used(THINGS["end"], lambda end, runtime: runtime.select([end])),
        "channel c.left",
    ),
    "send to a connection": (
        _used(THINGS["connection"], lambda end, _: end.send(b"1")),
        "connection s.left",
    ),
    "recv of a connection": (
        _used(THINGS["connection"], lambda end, _: end.recv(9)),
        "connection s.left",
    ),
    "unread": (_used(THINGS["connection"], lambda end, _: end.unread()), "connection s.left"),
    "shutdown": (
        _used(THINGS["connection"], lambda end, _: end.shutdown(send=True)),
        "connection s.left",
    ),
    "select for room": (
        _used(THINGS["connection"], lambda end, runtime: runtime.select([end.room])),
        "connection s.left",
    ),
    "signal": (_used(THINGS["eventfd"], lambda fd, _: fd.signal()), "eventfd f"),
    "take": (_used(THINGS["eventfd"], lambda fd, _: fd.take()), "eventfd f"),
    "accept": (_used(THINGS["listener"], lambda listener, _: listener.accept()), "listener l"),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("strategy", ["exhaustive", "bounded", "pos"])
def test_each_use_after_close_is_found(use: str, strategy: str) -> None:
    make, what = USES[use]
    found = said(make, strategy, 50)
    assert found.startswith(
        f"{what} is used after close: user does {use.split(maxsplit=1)[0]} at test_misuse"
    )
    assert "; closer has closed it at " in found


def test_closing_an_event_is_a_write_to_it_whatever_the_step_began_with() -> None:
    """No order with a use of it is left out for a step that begins elsewhere."""

    def make(runtime: ExploreRuntime) -> World:
        event, cell = runtime.event("e"), runtime.cell("c", 0)

        def use() -> None:
            event.is_set()

        def close() -> None:
            cell.get()
            event.close()

        runtime.spawn("user", use)
        runtime.spawn("closer", close)
        return World()

    assert said(make).startswith("event e is used after close: user does is_set at ")


@pytest.mark.parametrize("thing", THINGS)
def test_closing_twice_is_allowed(thing: str) -> None:
    assert said(_used(THINGS[thing], lambda it, _: it.close())) == HOLDS


def test_an_end_that_was_handed_over_is_the_other_process() -> None:
    def make(runtime: ExploreRuntime) -> World:
        here, there = runtime.channel("c")
        runtime.process("child", lambda _runtime, end: end.send(b"1"), [there])
        runtime.spawn("main", lambda: there.send(b"2"))
        runtime.spawn("reader", lambda: (here.recv(), None)[1])
        return World()

    assert re.fullmatch(
        r"channel c.right is used after close: main does send at test_misuse.py:\d+;"
        r" it was handed over to process child",
        said(make),
    )


def test_closing_an_end_that_was_handed_over_does_nothing_to_it() -> None:
    def make(runtime: ExploreRuntime) -> World:
        here, there = runtime.channel("c")
        runtime.process("child", lambda _runtime, end: end.send(b"1"), [there])
        runtime.spawn("main", there.close)
        runtime.spawn("reader", lambda: (here.recv(), None)[1])
        return World()

    assert said(make) == HOLDS


def test_a_free_lock_that_is_released_is_named() -> None:
    def make(runtime: ExploreRuntime) -> World:
        lock = runtime.lock("table", state=guards_nothing)

        def work() -> None:
            with lock:
                pass
            lock.release()  # once more

        runtime.spawn("worker", work)
        return World()

    assert said(make) == (
        f"lock table is released by worker at {line_of(make, '# once more')}, but nobody holds it"
    )


def test_a_lock_of_another_task_that_is_released_is_named() -> None:
    def make(runtime: ExploreRuntime) -> World:
        lock = runtime.lock("table", state=guards_nothing)

        def owner() -> None:
            with lock:  # by its owner
                runtime.checkpoint("inside")

        def thief() -> None:
            lock.release()

        runtime.spawn("owner", owner)
        runtime.spawn("thief", thief)
        return World()

    found = {said(make, strategy) for strategy in ("exhaustive", "pos")}
    whole = [text for text in found if "owner has" in text]
    assert all(text.startswith("lock table is released by thief at ") for text in found)
    assert not whole or whole[0].endswith(
        f"but owner has taken it at {line_of(make, '# by its owner')}"
    )


def test_code_under_test_cannot_catch_it() -> None:
    def make(runtime: ExploreRuntime) -> World:
        lock = runtime.lock("table", state=guards_nothing)

        def work() -> None:
            with contextlib.suppress(BaseException):  # as careless code does
                lock.release()

        runtime.spawn("worker", work)
        return World()

    assert said(make).startswith("lock table is released by worker")
