"""What is written under a lock and not told by its `state=` is named, and the search is not complete."""

from __future__ import annotations

import re
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from ctypes import c_ubyte
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import pytest

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.testing import Report, Settings, check
from hfsched.explore.watch import guarded
from hfsched.explore.watch.racepass import race_pass
from hfsched.runtime import declared
from hfsched.runtime.base import guards_nothing
from hfsched.runtime.declared import uncompared


@dataclass(frozen=True)
class Two:
    """Two tasks that each do the same."""

    make: Callable[[ExploreRuntime], Callable[[], None]]
    name: str = "two"

    def build(self, runtime: ExploreRuntime) -> World:
        act = self.make(runtime)
        for name in "ab":
            runtime.spawn(name, act)
        return World()


def report_of(make: Callable[[ExploreRuntime], Callable[[], None]]) -> Report:
    report = check(Two(make), Settings("exhaustive"))
    assert report.found is None, report
    assert report.races is not None
    return report


def named(report: Report) -> list[str]:
    """Return what is named, without the places."""
    assert report.races is not None
    return [re.sub(r"^ +\S+\.py:\d+: ", "", line) for line in report.races.doubts if ".py:" in line]


class Table:
    def __init__(self) -> None:
        self.users = 0
        self.names: list[str] = []
        self.by_name: dict[str, int] = {}
        self.last = ""

    def key(self) -> object:
        return (self.users, self.names)


def left_out(table: Table) -> None:
    table.users += 1
    table.last = "x" * table.users


def test_a_field_that_key_leaves_out_is_named_with_its_line_and_lock() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        table = Table()
        lock = runtime.lock("table", state=table.key)

        def act() -> None:
            with lock:
                left_out(table)

        return act

    report = report_of(make)
    assert not report.complete
    line = left_out.__code__.co_firstlineno + 2
    assert report.races is not None
    assert report.races.doubts == [
        "this is written under a lock whose state= does not tell it:",
        f"    tests/explore/watch/test_guarded.py:{line}: Table.last, under table",
    ]
    assert "Table.last, under table" in str(report)


def test_what_is_read_by_key_is_not_named() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        table = Table()
        lock = runtime.lock("table", state=lambda: table)  # by its key

        def act() -> None:
            with lock:
                table.users += 1
                table.names.append("n")

        return act

    report = report_of(make)
    assert report.complete
    assert named(report) == []


def test_items_are_named_where_only_their_number_is_read() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        table = Table()
        lock = runtime.lock("table", state=lambda: len(table.by_name))

        def act() -> None:
            with lock:
                table.by_name["n"] = table.by_name.get("n", 0) + 1

        return act

    assert named(report_of(make)) == ["an item of a dict, under table"]


def guarding_nothing(runtime: ExploreRuntime) -> Callable[[], None]:
    """Write under a lock that is said to guard nothing."""
    table = Table()
    lock = runtime.lock("turn", state=guards_nothing)

    def act() -> None:
        with lock:
            table.users += 1

    return act


def test_a_lock_that_is_said_to_guard_nothing_guards_something() -> None:
    report = report_of(guarding_nothing)
    assert not report.complete
    assert named(report) == ["Table.users, under turn"]


def test_an_outer_lock_may_read_it() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        table = Table()
        outer = runtime.lock("outer", state=table.key)
        inner = runtime.lock("inner", state=guards_nothing)

        def act() -> None:
            with outer, inner:
                table.users += 1

        return act

    assert named(report_of(make)) == []


def test_what_an_inner_lock_has_told_is_not_new_to_the_outer_one() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        table = {"told": 0, "left": 0, "other": 0}
        outer = runtime.lock("outer", state=lambda: table["left"])
        inner = runtime.lock("inner", state=lambda: table["told"])

        def act() -> None:
            with outer, inner:
                table.update(told=table["told"] + 1, left=table["left"] + 1)

        return act

    assert named(report_of(make)) == []


def test_what_one_task_alone_accesses_is_not_named() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        lock = runtime.lock("turn", state=guards_nothing)

        def act() -> None:
            own = Table()
            with lock:
                own.users += 1
            assert own.users == 1

        return act

    assert named(report_of(make)) == []


def test_what_a_constructor_writes_is_not_named_but_what_its_caller_writes_then() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        made: dict[str, Table] = {}
        lock = runtime.lock("made", state=lambda: [(name, made[name].names) for name in made])

        def act() -> None:
            with lock:
                made["t"] = Table()
                made["t"].last = "x" * len(made)
            with lock:
                assert made["t"].last

        return act

    assert named(report_of(make)) == ["Table.last, under made"]


@dataclass(frozen=True)
class Frozen:
    size: int


class Own(dict[str, int]):
    """A dict that has attributes, too."""

    count = 0


class Written(NamedTuple):
    """What is guarded; what a section writes, several tasks do; a state that leaves something out, and one that does not."""

    make: Callable[[], Any]
    write: Callable[[Any], object]
    partial: Callable[[Any], object]
    what: str
    whole: Callable[[Any], object]


def _first_only(pair: list[Table]) -> None:
    for table in pair:
        table.users += 1


def _grow(table: Table) -> None:
    table.names = [*table.names, "n"]


WRITTEN = {
    "update": Written(dict, lambda d: d.update(v=len(d)), len, "an item of a dict", lambda d: d),
    "value": Written(dict, lambda d: d.update(v=len(d)), sorted, "an item of a dict", lambda d: d),
    "presence": Written(
        dict,
        lambda d: d.update(v=len(d)),
        lambda d: "v" in d,
        "an item of a dict",
        lambda d: d["v"] if d else 0,
    ),
    "key": Written(
        dict,
        lambda d: d.update({len(d): None}),
        len,
        "an item of a dict",
        sorted,
    ),
    "removed-key": Written(
        lambda: dict.fromkeys((1, 2, 3)),
        lambda d: d.pop(len(d)),
        len,
        "an item of a dict",
        lambda d: [*d],
    ),
    "element": Written(set, lambda s: s.add(len(s)), len, "an element of a set", lambda s: s),
    "removed-element": Written(
        lambda: {1, 2, 3},
        lambda s: s.discard(len(s)),
        len,
        "an element of a set",
        sorted,
    ),
    "beside-a-slice": Written(
        lambda: [0, 0, 0],
        lambda q: q.__setitem__(2, q[2] + 1),
        lambda q: q[:2],
        "an item of a list",
        lambda q: q[1:],
    ),
    "appended": Written(list, lambda q: q.append(len(q)), len, "an item of a list", lambda q: q),
    "shortened": Written(
        lambda: [1, 2, 3],
        lambda q: q.pop(),
        lambda q: q[0],
        "the length of a list",
        len,
    ),
    "truth": Written(deque, lambda q: q.append(len(q)), bool, "an item of a deque", list),
    "shifted": Written(
        lambda: deque([1, 2, 3]), lambda q: q.rotate(), lambda q: q[0], "an item of a deque", tuple
    ),
    "array": Written(
        lambda: array("i", [0, 0]),
        lambda q: q.__setitem__(1, q[1] + 1),
        lambda q: q[0],
        "an item of a array",
        lambda q: q.tolist(),
    ),
    "byte": Written(
        lambda: bytearray(4),
        lambda b: b.__setitem__(1, b[1] + 1),
        lambda b: b[0],
        "byte 0x1 of a bytearray",
        bytes,
    ),
    "some-bytes": Written(
        lambda: bytearray(4),
        lambda b: b.__setitem__(slice(0, 2), bytes((b[0] + 1, b[1] + 1))),
        lambda b: b[0],
        "byte 0x1 of a bytearray",
        bytes,
    ),
    "ctypes": Written(
        c_ubyte * 2,
        lambda c: c.__setitem__(1, c[1] + 1),
        lambda c: c[0],
        "byte 0x1 of a c_ubyte_Array_2",
        bytes,
    ),
    "one-of-two-objects": Written(
        lambda: [Table(), Table()],
        _first_only,
        lambda pair: pair[0].users,
        "Table.users",
        lambda pair: [t.users for t in pair],
    ),
    "frozen": Written(
        lambda: Frozen(0),
        lambda f: object.__setattr__(f, "size", f.size + 1),
        lambda _: 0,
        "Frozen.size",
        lambda f: f,
    ),
    "read-and-not-returned": Written(
        Table,
        left_out,
        lambda table: (table.users, table.last is None),
        "Table.last",
        lambda table: (table.users, table.last),
    ),
    "made-anew": Written(
        Table, _grow, lambda table: table.users, "Table.names", lambda table: len(table.names)
    ),
    "attribute-of-a-dict": Written(
        Own,
        lambda own: setattr(own, "count", own.count + 1),
        dict,
        "Own.count",
        lambda own: own.count,
    ),
}


@pytest.mark.parametrize("case", WRITTEN.values(), ids=WRITTEN)
def test_what_state_does_not_tell_apart_is_named(case: Written) -> None:
    def make(runtime: ExploreRuntime, state: Callable[[Any], object]) -> Callable[[], None]:
        of = case.make()
        lock = runtime.lock("lock", state=lambda: state(of))

        def act() -> None:
            with lock:
                case.write(of)

        return act

    assert named(report_of(partial(make, state=case.partial))) == [f"{case.what}, under lock"]
    report = report_of(partial(make, state=case.whole))
    assert named(report) == []
    assert report.complete


def test_what_is_written_and_is_as_it_was_is_not_named() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        table = Table()
        lock = runtime.lock("table", state=lambda: table.users)

        def act() -> None:
            with lock:
                table.users += 1
                table.last = "busy"
                table.names.append("n")
                table.by_name["n"] = 1
                table.last = ""
                table.names.pop()
                table.names = [*table.names]
                del table.by_name["n"]

        return act

    assert named(report_of(make)) == []


def test_methods_of_the_program_that_take_locks_do_no_harm() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        inner = runtime.lock("inner", state=guards_nothing)

        class Name:
            def __init__(self, text: str) -> None:
                self.text = text

            def key(self) -> str:
                with inner:
                    return self.text

            def __hash__(self) -> int:
                return 1

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Name) and self.key() == other.key()

        table: dict[Name, Name] = {}
        lock = runtime.lock(
            "outer", state=lambda: [each.text for pair in table.items() for each in pair]
        )

        def act() -> None:
            with lock:
                table[Name(f"{len(table)}")] = Name("x")
                table[next(iter(table))] = Name("y")

        return act

    report = report_of(make)
    assert report.complete
    assert named(report) == []


def test_looking_leaves_everything_as_it_is() -> None:
    seen: list[object] = []

    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        things = (
            OrderedDict(b=[1], a=[2]),
            {3, 11, 19},
            deque([1, 2], 3),
            bytearray(b"ab"),
            Own(k=1),
        )
        lock = runtime.lock("things", state=guards_nothing)

        def act() -> None:
            with lock:
                things[0]["c"] = [3]
                things[0].move_to_end("a")
                things[1].add(27)
                things[1].discard(3)
                things[2].append(len(things[2]))
                things[3].append(0x63)
                things[4]["k"] += 1
            with lock:
                seen.append(
                    [
                        list(things[0].items()),
                        list(things[1]),
                        things[2].copy(),
                        bytes(things[3]),
                        dict(things[4]),
                    ]
                )

        return act

    report_of(make)
    table, numbers = OrderedDict(b=[1], a=[2], c=[3]), {3, 11, 19}
    table.move_to_end("a")
    numbers.add(27)
    numbers.discard(3)
    first = [list(table.items()), list(numbers), deque([1, 2, 2], 3), b"abc", {"k": 2}]
    assert first in seen


@pytest.fixture
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    own = list(declared.UNCOMPARED)
    monkeypatch.setattr(declared, "UNCOMPARED", own)
    monkeypatch.setattr(guarded, "UNCOMPARED", own)


@pytest.mark.usefixtures("own_declarations")
def test_a_declared_field_and_what_it_holds_are_not_named_and_are_counted() -> None:
    @uncompared(sent="a counter for reports", recent="the last lines, for reports")
    class Statistics:
        def __init__(self) -> None:
            self.sent = 0
            self.recent: list[str] = []
            self.kept = 0

    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        statistics = Statistics()
        lock = runtime.lock("statistics", state=guards_nothing)

        def act() -> None:
            with lock:
                statistics.sent += 1
                statistics.recent.append("line")
                statistics.kept += 1

        return act

    report = report_of(make)
    (line,) = named(report)
    assert line.endswith("Statistics.kept, under statistics")
    assert report.races is not None
    assert report.races.exemptions == "declared to be left out of states: 2 fields"


def test_a_declaration_needs_a_reason() -> None:
    with pytest.raises(ValueError, match=r"Kind\.count: uncompared, but no reason is given"):
        uncompared(count=" ")(type("Kind", (), {}))


def test_a_race_pass_without_time_has_run_at_least_once() -> None:
    result = race_pass(Two(guarding_nothing), over=lambda: True)
    assert (result.walks, result.executions, result.covered) == (1, 1, False)
    assert result.doubts != []
