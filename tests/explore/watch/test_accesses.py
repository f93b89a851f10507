"""What counts as an access, what does not, and what is said where that is not known."""

from __future__ import annotations

import contextlib
import functools
import heapq
import operator
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from hfsched.errors import UserError
from hfsched.explore import testing
from hfsched.explore.execution import execute
from hfsched.explore.races import RaceError
from hfsched.explore.replay import replay
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.testing import Report, ScenarioFailedError, Settings, check
from hfsched.explore.thing import Thing
from hfsched.explore.watch.racepass import race_pass
from hfsched.explore.watch.watcher import Watcher
from hfsched.runtime import declared as declarations
from hfsched.runtime.declared import unordered

Build = Callable[[ExploreRuntime], World | None]


@dataclass
class Built:
    """A scenario made of a function."""

    function: Build
    name: str = "built"

    def build(self, runtime: ExploreRuntime) -> World:
        return self.function(runtime) or World()


def checked(function: Build) -> Report:
    return check(Built(function), Settings("exhaustive"))


def race_of(function: Build) -> str:
    """Return the text of the race that is found, empty without one."""
    report = checked(function)
    if report.shrunk is None:
        return ""
    failure = report.shrunk.finding.failure
    assert isinstance(failure, RaceError), report
    return str(failure)


def task(act: Callable[[], object]) -> Callable[[], None]:
    """Return a task's function that drops a result."""

    def run() -> None:
        act()

    return run


def two(one: Callable[[], object], other: Callable[[], object]) -> Build:
    def build(runtime: ExploreRuntime) -> None:
        runtime.spawn("one", task(one))
        runtime.spawn("other", task(other))

    return build


class Holder:
    shared = 0  # of the class

    def __init__(self) -> None:
        self.value = 0
        self.other = 0

    @property
    def doubled(self) -> int:
        return 2 * self.value

    def __len__(self) -> int:
        return self.value

    def __iter__(self) -> Iterator[int]:
        yield self.value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Holder) and other.value == self.value

    def __hash__(self) -> int:
        return self.value


@dataclass
class Plain:
    x: int = 0
    items: list[int] = field(default_factory=list)


HOLDER = Holder()


# Each reads or writes a list, and races with one that appends to it.
ACCESSES: dict[str, Callable[[list[Any]], object]] = {
    "len": len,
    "truth": lambda own: "some" if own else "none",
    "not": lambda own: not own,
    "while": lambda own: [1 for _ in range(1) if own],
    "in": lambda own: 7 in own,
    "iteration": lambda own: [each for each in own],  # noqa: C416 - a loop in Python
    "unpacking": lambda own: min(*own),
    "starred": lambda own: [*own, 1],
    "negative index": lambda own: own[-1],
    "slice": lambda own: own[:],
    "sum": sum,
    "sorted": sorted,
    "list": list,
    "max with key": lambda own: max(own, key=lambda each: -each),
    "zip": lambda own: list(zip(own, own, strict=True)),
    "map": lambda own: list(map(str, own)),
    "enumerate": lambda own: [index for index, _ in enumerate(own)],
    "reversed": lambda own: next(reversed(own)),
    "comparison": lambda own: own == [1],
    "concatenation": lambda own: own + [1],  # noqa: RUF005
    "text": lambda own: f"{own}",
    "percent": lambda own: "%s" % own,  # noqa: UP031
    "print": str,
    "copy": lambda own: own.copy(),
    "pop": lambda own: own.pop(),
    "delete": lambda own: own.__delitem__(0),
    "extend": lambda own: own.extend([3]),
    "sort": lambda own: own.sort(),
    "partial": lambda own: functools.partial(own.insert, 0)(4),
    "unbound": lambda own: list.append(own, 5),
    "callback": lambda own: list(map(own.append, [6])),
    "heap": lambda own: heapq.heappush(own, 1),
    "reduce": lambda own: functools.reduce(lambda a, b: a + b, own),
    "deque": lambda own: deque(own, maxlen=1),
    "dict": dict.fromkeys,
    "inside a dataclass": lambda own: Plain(1, own) == Plain(1, [2]),
}


@pytest.mark.parametrize("name", ACCESSES)
def test_an_access_to_a_list_races_with_an_append(name: str) -> None:
    def build(runtime: ExploreRuntime) -> None:
        own = [1, 2]
        runtime.spawn("one", task(lambda: ACCESSES[name](own)))
        runtime.spawn("other", lambda: own.append(3))

    found = race_pass(Built(build), 1).failure
    assert found is not None
    assert isinstance(found.outcome.failure, RaceError)
    assert "data race on list#" in str(found.outcome.failure)


HARMLESS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {}


def harmless(name: str, one: Callable[[], object], other: Callable[[], object]) -> None:
    HARMLESS[name] = one, other


_holder, _items, _table, _bytes, _names = Holder(), [0, 0], {"a": 1, "b": 2}, bytearray(16), {"k"}
harmless(
    "two attributes", lambda: setattr(_holder, "value", 1), lambda: setattr(_holder, "other", 1)
)
harmless("two reads", lambda: sum(_items), lambda: _items[0])
harmless("two keys", lambda: _table.update({}) if not _table else None, lambda: _table["b"])
harmless("two indices", lambda: _items.__setitem__(0, 1), lambda: _items.__setitem__(1, 1))
harmless("two values", lambda: _table.__setitem__("a", 3), lambda: _table.__setitem__("b", 3))
harmless(
    "two ranges", lambda: _bytes.__setitem__(slice(0, 4), b"abcd"), lambda: _bytes[4:8] == b"abcd"
)
harmless("identity", lambda: _items is None, lambda: _items.append(1))
harmless("a method", lambda: _holder.__len__, lambda: setattr(_holder, "other", 1))


@pytest.mark.parametrize("name", HARMLESS)
def test_accesses_to_different_places_do_not_race(name: str) -> None:
    report = checked(two(*HARMLESS[name]))
    assert report.found is None, report
    assert report.complete, report


def test_properties_and_dunder_methods_are_watched_themselves() -> None:
    def write() -> None:
        HOLDER.value += 1

    for read in (lambda: HOLDER.doubled, lambda: len(HOLDER), lambda: list(HOLDER)):
        assert "data race on Holder#" in race_of(two(write, read))
    assert "Holder#" in race_of(two(write, lambda: Holder() == HOLDER))


def test_a_variable_of_a_class_is_its_place() -> None:
    def write() -> None:
        Holder.shared = 1

    assert "data race on Holder.shared" in race_of(two(write, lambda: HOLDER.shared))


def test_an_iterator_that_two_advance_is_shared_state() -> None:
    def build(runtime: ExploreRuntime) -> None:
        ids = count(1)
        for name in "ab":
            runtime.spawn(name, task(lambda: next(ids)))

    assert "data race on count#" in race_of(build)


def test_a_view_is_the_dict() -> None:
    def build(runtime: ExploreRuntime) -> None:
        table: OrderedDict[str, int] = OrderedDict(a=1)
        values = table.values()
        runtime.spawn("one", task(lambda: sum(values)))
        runtime.spawn("other", lambda: table.update(b=2))

    assert "OrderedDict#" in race_of(build)


def test_what_the_explorer_calls_is_exempt() -> None:
    """Guards, `state=`, oracles and invariants read what tasks write, and are no accesses."""

    def build(runtime: ExploreRuntime) -> World:
        seen = [0]
        thing = Counted(runtime)
        lock = runtime.lock("lock", state=lambda: tuple(seen))

        def add() -> None:
            with lock:
                seen[0] += 1
            thing.wait(lambda: len(seen) > 0)

        for name in "ab":
            runtime.spawn(name, add)

        def look() -> None:
            assert sum(seen) <= 2

        return World(look, invariant=look, final=lambda: tuple(seen))

    report = checked(build)
    assert report.found is None, report
    assert report.complete


class Counted(Thing):
    """A model: each operation is one step, from its point to the task's next one."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "counted")
        self.table = {"n": 0}

    def key(self) -> int:
        return self.table["n"]

    def add(self) -> None:
        self.runtime.point("add", self, write=True)
        self.table["n"] += 1

    def wait(self, condition: Callable[[], bool]) -> None:
        self.runtime.point("wait", self, condition=condition)


def test_steps_on_a_scenarios_own_thing_are_ordered() -> None:
    def build(runtime: ExploreRuntime) -> None:
        counted = Counted(runtime)
        for name in "ab":
            runtime.spawn(name, counted.add)

    assert checked(build).complete

    def beside(runtime: ExploreRuntime) -> None:
        counted = Counted(runtime)
        runtime.spawn("a", counted.add)
        runtime.spawn("b", lambda: counted.table.update(n=4))

    assert "data race" in race_of(beside)


def test_a_race_counts_even_if_the_code_catches_it() -> None:
    def build(runtime: ExploreRuntime) -> None:
        seen = [0]

        def add() -> None:
            with contextlib.suppress(Exception):  # as careless code does
                seen[0] += 1

        for name in "ab":
            runtime.spawn(name, add)

    assert "data race on list#" in race_of(build)


def test_what_a_lock_says_of_its_state_is_exempt_in_a_search_that_compares_states() -> None:
    def build(runtime: ExploreRuntime) -> None:
        seen = [0]
        lock = runtime.lock("lock", state=lambda: seen[0])

        def hold() -> None:
            with lock:
                runtime.checkpoint("held")

        def write() -> None:
            seen[0] = 0  # the same

        runtime.spawn("hold", hold)
        runtime.spawn("write", write)

    strategy = Exhaustive()
    while strategy.begin():
        outcome = execute(Built(build), strategy, watcher=Watcher())
        strategy.end(outcome)
        assert outcome.failure is None


def test_a_call_without_a_rule_is_listed_and_keeps_the_search_from_being_complete() -> None:
    def build(runtime: ExploreRuntime) -> None:
        frames = [1, 2]
        runtime.spawn("a", task(lambda: operator.countOf(frames, 1)))

    report = checked(build)
    assert report.result.complete
    assert not report.complete
    assert report.races is not None
    (line,) = report.races.unruled_lines
    assert re.fullmatch(r".*test_accesses.py:\d+: countOf", line)
    assert line in str(report)
    with pytest.raises(ScenarioFailedError, match="countOf"):
        testing.run(Built(build), Settings("exhaustive"))


def test_records_of_a_scenario_are_exempt_and_counted() -> None:
    def build(runtime: ExploreRuntime) -> None:
        ended: list[str] = []
        runtime.declare_records(ended, reason="what the oracles compare")
        for name in "ab":
            runtime.spawn(name, lambda: ended.append("one"))

    report = checked(build)
    assert report.complete, report
    assert report.races is not None
    assert report.races.exemptions == "declared to be unordered: 1 record of the scenario"


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep declarations of a test to itself."""
    own: list[Any] = []
    for module in ("hfsched.explore.watch.watcher", "hfsched.explore.watch.racepass"):
        monkeypatch.setattr(f"{module}.UNORDERED", own)
    monkeypatch.setattr("hfsched.explore.watch.control.UNORDERED", own)
    monkeypatch.setattr(declarations, "UNORDERED", own)
    return own


def test_a_declared_field_is_exempt_with_the_container_that_it_holds(declared: list[Any]) -> None:
    @unordered(wake_count="printed at the end", wake_kinds="likewise")
    class Statistics:
        def __init__(self) -> None:
            self.wake_count = 0
            self.wake_kinds: dict[str, int] = {}

    def build(runtime: ExploreRuntime) -> None:
        own = Statistics()

        def wake() -> None:
            own.wake_count += 1
            own.wake_kinds["kick"] = own.wake_kinds.get("kick", 0) + 1

        for name in "ab":
            runtime.spawn(name, wake)

    report = checked(build)
    assert report.complete, report
    assert report.races is not None
    assert report.races.exemptions == "declared to be unordered: 2 fields"


def test_a_field_that_decides_control_flow_cannot_be_declared(declared: list[Any]) -> None:
    @unordered(stopping_now="it is only read")
    class Stopping:
        def __init__(self) -> None:
            self.stopping_now = False

    def build(runtime: ExploreRuntime) -> None:
        own = Stopping()
        runtime.spawn("a", task(lambda: 1 / 0 if own.stopping_now else None))

    with pytest.raises(
        UserError, match=r"Stopping.stopping_now is declared unordered, but .*test_acc"
    ):
        race_pass(Built(build))
    assert declared


def test_a_declaration_has_a_reason() -> None:
    with pytest.raises(ValueError, match="no reason is given"):
        unordered(count=" ")(type("Kind", (), {}))


def test_the_token_has_the_mode_and_repeats_the_race() -> None:
    def build(runtime: ExploreRuntime) -> None:
        ready, box = runtime.event("ready"), [0]

        def late() -> None:
            ready.set()
            box[0] = 1

        def reader() -> None:
            ready.wait()
            box.count(0)

        runtime.spawn("late", late)
        runtime.spawn("reader", reader)

    scenario = Built(build)
    report = check(scenario, Settings("exhaustive"))
    assert report.found is not None
    assert report.found.schedule.watched
    _, outcome = replay(report.found.token, scenario)
    assert isinstance(outcome.failure, RaceError)
    assert "reproduce: pytest --hfsched-token" in str(report)


def test_a_wait_that_ends_at_its_deadline_orders_nothing() -> None:
    def build(runtime: ExploreRuntime) -> None:
        ready, box = runtime.event("ready"), [0]

        def writer() -> None:
            box[0] = 1
            ready.set()
            ready.clear()

        def reader() -> None:
            if not ready.wait(runtime.now() + 10):
                assert box[0] < 2

        runtime.spawn("writer", writer)
        runtime.spawn("reader", reader)

    assert "data race on list#" in race_of(build)


def test_an_exchange_that_fails_orders_nothing_behind_it() -> None:
    def build(runtime: ExploreRuntime) -> None:
        cell, box = runtime.cell("cell", 0), [0]

        def writer() -> None:
            box[0] = 1
            assert not cell.compare_and_set(5, 6)

        def reader() -> None:
            if cell.get() == 0:
                assert box[0] < 2

        runtime.spawn("writer", writer)
        runtime.spawn("reader", reader)

    assert "data race on list#" in race_of(build)
