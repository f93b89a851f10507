"""Containers and their places: programs that are correct are complete, and racy ones beside them fail."""

from __future__ import annotations

import types
import weakref
from array import array
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import programs_own
import pytest
from test_calls import Program, passed

from hfsched.explore.races import RaceError
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.watch.racepass import race_pass

Use = Callable[[Any], object]


def put(key: Any, value: Any) -> Use:
    def use(of: Any) -> None:
        of[key] = value

    return use


def get(key: Any) -> Use:
    return lambda of: of[key]


class Text(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "?"


class Two:
    def __index__(self) -> int:
        return 2


def tried(use: Use) -> Use:
    """Return what goes on after the program's own error, as code that walks a document does."""

    def caught(of: Any) -> None:
        with pytest.raises((TypeError, IndexError, KeyError)):
            use(of)

    return caught


def halves(of: Any) -> Any:
    whole = memoryview(of)
    return whole[:4], whole[4:]


# Made, and what two tasks do with it.  They do not conflict.
HARMLESS: dict[str, tuple[Callable[[], Any], Use, Use]] = {
    "an absent count": (Counter, get("a"), get("a")),
    "get of a default dict": (
        lambda: defaultdict(list),
        lambda of: of.get("a"),
        lambda of: of.get("a"),
    ),
    "a dict without a factory": (defaultdict, tried(get("a")), tried(get("a"))),
    "an own missing": (Text, get("a"), get("b")),
    "slices of a list": (lambda: [0] * 8, put(slice(0, 4), (1, 2, 3, 4)), get(slice(4, 8))),
    "a slice and an index": (lambda: [0] * 8, put(slice(0, 4), [1, 2, 3, 4]), get(5)),
    "steps": (lambda: [0] * 8, put(slice(0, 8, 2), (1, 2, 3, 4)), get(3)),
    "halves of a view": (
        lambda: halves(bytearray(8)),
        lambda of: put(0, 1)(of[0]),
        lambda of: put(0, 1)(of[1]),
    ),
    "items of a view": (lambda: memoryview(bytearray(8)), put(0, 1), get(1)),
    "a view and its bytes": (
        lambda: (own := bytearray(8), memoryview(own)[6:]),
        lambda of: put(0, 1)(of[1]),
        lambda of: get(slice(0, 6))(of[0]),
    ),
    "every other byte": (
        lambda: memoryview(bytearray(8))[::-1],
        put(0, 1),
        lambda of: of[slice(1, 8)].tobytes(),
    ),
    "words": (lambda: memoryview(bytearray(8)).cast("H"), put(1, 1), get(2)),
    "the end of a view": (
        lambda: bytearray(4),
        lambda of: memoryview(of).release(),
        lambda of: bytes(memoryview(of)),
    ),
    "two appends' neighbours": (lambda: [1, 2], lambda of: of.append(3), get(1)),
    "a ring with room": (lambda: deque([1], maxlen=2), lambda of: of.append(3), get(0)),
    "a set in a set": (
        lambda: {frozenset({1, 2})},
        lambda of: {1, 2} in of,
        lambda of: of.discard({7}),
    ),
    "an object as index": (lambda: bytearray(b"abcd"), get(Two()), put(3, 1)),
    "an index that is none": (lambda: [1, 2], tried(get("a")), tried(put(0.5, 1))),
    "a key that is none": (lambda: {"a": 1}, tried(get([])), tried(put({}, 1))),
    "an array": (lambda: array("H", [1, 2]), put(0, 1), get(1)),
    "a namespace of constants": (
        lambda: types.MappingProxyType({"a": 1}),
        get("a"),
        lambda of: "a" in of,
    ),
}

# Likewise, and they do conflict.
RACY: dict[str, tuple[Callable[[], Any], Use, Use]] = {
    "an absent item of a default dict": (lambda: defaultdict(list), get("a"), get("a")),
    "slices that meet": (lambda: [0] * 8, put(slice(0, 4), (1, 2, 3, 4)), get(slice(3, 8))),
    "a slice that gets longer": (lambda: [0] * 8, put(slice(0, 4), (1, 2, 3)), get(7)),
    "a slice to the end": (lambda: [0] * 8, lambda of: of.append(1), get(slice(4, None))),
    "a view and its object": (
        lambda: (own := bytearray(8), memoryview(own)[6:]),
        lambda of: put(0, 1)(of[1]),
        lambda of: get(6)(of[0]),
    ),
    "a view backwards": (
        lambda: (own := bytearray(8), memoryview(own)[::-1]),
        lambda of: put(0, 1)(of[1]),
        lambda of: get(7)(of[0]),
    ),
    "words": (lambda: bytearray(8), lambda of: put(1, 1)(memoryview(of).cast("H")), get(3)),
    "the end of a view, all of it": (
        lambda: bytearray(4),
        put(0, 1),
        lambda of: memoryview(of)[:].tobytes(),
    ),
    "a full ring": (lambda: deque([1, 2], maxlen=2), lambda of: of.append(3), get(1)),
    "a set in a set": (set, lambda of: of.add(frozenset({1, 2})), lambda of: {1, 2} in of),
    "an object as index": (lambda: bytearray(b"abcd"), put(Two(), 1), get(2)),
    "a byte at the end": (bytearray, lambda of: of.append(1), tried(get(0))),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_uses_of_other_places_are_complete(name: str) -> None:
    make, one, other = HARMLESS[name]

    def pair() -> tuple[Callable[[], object], Callable[[], object]]:
        of = make()
        return lambda: one(of), lambda: other(of)

    result = passed(pair, ordered=False)
    assert result.failure is None, result.failure.outcome.failure
    assert result.covered
    assert not result.doubts, "\n".join(result.doubts)


@pytest.mark.parametrize("name", RACY)
def test_uses_of_one_place_race(name: str) -> None:
    make, one, other = RACY[name]

    def pair() -> tuple[Callable[[], object], Callable[[], object]]:
        of = make()
        return lambda: one(of), lambda: other(of)

    found = passed(pair, ordered=False).failure
    assert found is not None
    assert isinstance(found.outcome.failure, RaceError)


# Containers with methods of their own.


class Table(dict[str, int]):
    """Takes its lock in its own methods, but for `bare`."""

    lock: Any = None
    bare = False

    def __setitem__(self, key: str, value: int) -> None:
        with self.lock:
            dict.__setitem__(self, key, value)

    def __getitem__(self, key: str) -> int:
        if self.bare:
            return dict.__getitem__(self, key)
        with self.lock:
            return dict.__getitem__(self, key)

    def __contains__(self, key: object) -> bool:
        with self.lock:
            return dict.__contains__(self, key)

    def __len__(self) -> int:
        with self.lock:
            return dict.__len__(self)


class Locked:
    name = "locked"

    def __init__(self, use: Use, *, bare: bool = False) -> None:
        self._use, self._bare = use, bare

    def build(self, runtime: ExploreRuntime) -> World:
        table = Table(a=1)
        table.lock = runtime.lock("table", state=lambda: sorted(table.items()))
        table.bare = self._bare

        def write() -> None:
            table["a"] = 2

        def use() -> None:
            self._use(table)

        runtime.spawn("writer", write)
        runtime.spawn("user", use)
        return World()


USES: dict[str, Use] = {
    "get": get("a"),
    "put": put("b", 1),
    "in": lambda of: "a" in of,
    "len": len,
    "truth": lambda of: 1 if of else 0,
}


@pytest.mark.parametrize("name", USES)
def test_a_containers_own_methods_are_watched_themselves(name: str) -> None:
    result = race_pass(Locked(USES[name]), 1, executions=50, walks=2)
    assert result.failure is None, result.failure.outcome.failure
    assert result.covered
    assert not result.doubts, "\n".join(result.doubts)


def test_a_method_without_the_lock_races() -> None:
    found = race_pass(Locked(get("a"), bare=True), 1, executions=50, walks=2).failure
    assert found is not None
    assert isinstance(found.outcome.failure, RaceError)


# What the watcher must not change.


class Item:
    value = 0


class Closing:
    def __init__(self, log: list[str]) -> None:
        self.log = log

    def __del__(self) -> None:
        self.log.append("closed")


def weak_reference_dies() -> None:
    item = Item()
    item.value = 1
    known = weakref.ref(item)
    del item
    assert known() is None


def weak_table_empties() -> None:
    table: weakref.WeakValueDictionary[str, Item] = weakref.WeakValueDictionary()
    item = Item()
    item.value = 1
    table["a"] = item
    del item
    assert "a" not in table


def destructor_runs() -> None:
    log: list[str] = []
    closing = Closing(log)
    assert closing.log == []
    del closing
    assert log == ["closed"]


def destructor_runs_of_what_a_generator_had() -> None:
    log: list[str] = []

    def numbers(_held: Closing) -> Any:
        yield 1

    made = numbers(Closing(log))
    for _ in made:
        break
    del made, _
    assert log == ["closed"]


class Proxy:
    def __init__(self, of: object) -> None:
        object.__setattr__(self, "_of", of)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_of"), name)


def proxy_forwards() -> None:
    made: Any = Proxy(types.SimpleNamespace(n=3))
    assert made.n == 3
    assert [made][0].n == 3


def deep_recursion() -> None:
    def depth(n: int) -> int:
        return 0 if n == 0 else 1 + depth(n - 1)

    assert depth(600) == 600


def generator_delegates() -> None:
    def inner() -> Any:
        got = yield 1
        return got

    def outer() -> Any:
        result = yield from inner()
        yield ("returned", result)

    made = outer()
    next(made)
    assert made.send("sent") == ("returned", "sent")


@pytest.mark.parametrize(
    "act",
    [
        weak_reference_dies,
        weak_table_empties,
        destructor_runs,
        destructor_runs_of_what_a_generator_had,
        proxy_forwards,
        deep_recursion,
        generator_delegates,
        *programs_own.PROGRAMS,
    ],
)
def test_a_program_behaves_as_it_does_without_the_watcher(act: Callable[[], None]) -> None:
    result = race_pass(Program(lambda: (act, act), ordered=False), 1, executions=20, walks=2)
    assert result.failure is None, result.failure.outcome.failure
    assert result.covered
    assert not result.doubts, "\n".join(result.doubts)


def test_an_objects_name_is_not_taken_by_the_next_one_at_its_address() -> None:
    """What died has no history: an object that gets its id later was not accessed by another task."""

    def many() -> None:
        for value in range(50):
            item = Item()
            item.value = value
            assert item.value == value

    result = race_pass(Program(lambda: (many, many), ordered=False), 1, executions=20, walks=4)
    assert result.failure is None, result.failure.outcome.failure
    assert not result.doubts, "\n".join(result.doubts)
