"""What code in C and in libraries accesses: found where it is not ordered, and nothing else."""

from __future__ import annotations

import ctypes
import operator
import queue
import threading
from collections.abc import Callable
from typing import Any

import programs_calls
import programs_objects
import pytest
from programs_calls import Box, Pair

from hfsched.explore.races import RaceError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.watch.racepass import RacePass, race_pass


class Program:
    """Two tasks: `ordered` by an event, or not."""

    name = "program"

    def __init__(self, make: Callable[[], Pair], *, ordered: bool) -> None:
        self._make, self._ordered = make, ordered

    def build(self, runtime: ExploreRuntime) -> World:
        one, other = self._make()
        ready = runtime.event("ready")

        def first() -> None:
            one()
            if self._ordered:
                ready.set()

        def second() -> None:
            if self._ordered:
                ready.wait()
            other()

        runtime.spawn("first", first)
        runtime.spawn("second", second)
        return World()


def passed(make: Callable[[], Pair], *, ordered: bool) -> RacePass:
    return race_pass(Program(make, ordered=ordered), 1, executions=20, walks=2)


MADE = [
    pytest.param(make, id=make.__name__)
    for make in (*programs_calls.PAIRS, *programs_objects.PAIRS)
]


@pytest.mark.parametrize("make", MADE)
def test_a_pair_races_if_it_is_not_ordered(make: Callable[[], Pair]) -> None:
    found = passed(make, ordered=False).failure
    assert found is not None
    assert isinstance(found.outcome.failure, RaceError)


@pytest.mark.parametrize("make", MADE)
def test_a_pair_that_is_ordered_is_complete(make: Callable[[], Pair]) -> None:
    result = passed(make, ordered=True)
    assert result.failure is None, result.failure.outcome.failure
    assert result.covered
    assert not result.doubts, "\n".join(result.doubts)


class ByProperty:
    other = 1
    value = property(operator.attrgetter("other"))


_own = threading.local()
_own.value = 1


def _entered(lock: Any) -> None:
    with lock:
        pass


# Each is given something that tasks may share, and what it does is not known.
UNKNOWN: dict[str, Callable[[Any], object]] = {}


def unknown(name: str, use: Callable[[Any], object]) -> None:
    UNKNOWN[name] = use


_queue: queue.SimpleQueue[int] = queue.SimpleQueue()
_event = threading.Event()
_made: dict[str, Any] = {}
exec("def bump(of):\n    of.value += 1\n", _made)
unknown("SimpleQueue.put", lambda _: _queue.put(1))
unknown("bump", _made["bump"])
unknown("list.append", lambda _: list(map(list.append, ([] for _ in "a"), "b")))
unknown("pointer", lambda _: ctypes.pointer(ctypes.c_int(1)))
unknown("start", lambda _: threading.Thread(target=len, args=("",)).start())
unknown("eval", lambda of: eval("of.value", {"of": of}))
unknown("exec", lambda of: exec("of.value = 2", {"of": of}))
unknown("with RLock, of threading", lambda _: _entered(threading.RLock()))
unknown("with lock, of threading", lambda _: _entered(threading.Lock()))
unknown("threading.local, of the one thread that runs all tasks", lambda _: _own.value)
unknown("property value", lambda of: ByProperty().value)
unknown("Event.is_set", lambda _: _event.is_set())


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_known_is_listed(name: str) -> None:
    result = passed(lambda: (lambda: UNKNOWN[name](Box()), lambda: None), ordered=False)
    assert result.failure is None
    assert len(result.unruled) == 1, result.unruled
    ((_, what),) = result.unruled
    assert name.rpartition(".")[2] in what
