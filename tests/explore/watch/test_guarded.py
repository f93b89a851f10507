"""What is written under a lock and not read by its `state=` is named, and the search is not complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec import Struct

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
        "this is written under a lock whose state= does not read it:",
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


class Frozen(Struct, frozen=True):
    size: int


def test_neither_is_what_its_maker_writes_before_others_see_it_nor_a_value() -> None:
    def make(runtime: ExploreRuntime) -> Callable[[], None]:
        made: dict[int, Any] = {}
        lock = runtime.lock("made", state=lambda: sorted(made))

        def act() -> None:
            with lock:
                number = len(made)
                table = Table()
                table.users = number
                made[number] = (table, Frozen(number))
            with lock:
                assert all(table.users == frozen.size for table, frozen in made.values())

        return act

    report = report_of(make)
    assert named(report) == []
    assert report.complete


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
