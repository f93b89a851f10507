"""Plain state that differs between states that a search takes for one is named, and the search is not complete."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from hfsched.explore.execution import search
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.testing import Report, Settings, check
from hfsched.explore.watch.racepass import race_pass
from hfsched.runtime import declared
from hfsched.runtime.declared import uncompared

Act = Callable[[str], None]
Exclude = Callable[[ExploreRuntime], tuple[Callable[[], object], Callable[[], object]]]


def by_channel(runtime: ExploreRuntime) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what takes the one message of a channel, and what sends it back."""
    one, other = runtime.channel("turn")
    other.send(b"go")
    return one.recv, lambda: other.send(b"go")


def by_cell(runtime: ExploreRuntime) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return a spin lock, and what lets go of it."""
    cell, free = runtime.cell("taken", value=False), runtime.event("free")

    def take() -> None:
        while not cell.compare_and_set(False, True):
            free.wait()
            free.clear()

    def give() -> None:
        cell.set(False)
        free.set()

    return take, give


@dataclass(frozen=True)
class Turns:
    """Tasks a and b each act once, one after the other; then two more look, between operations of their own."""

    make: Callable[[], tuple[Act, Callable[[], object]]]
    exclude: Exclude = by_channel
    wrong: object = None
    name: str = "turns"

    def build(self, runtime: ExploreRuntime) -> World:
        act, look = self.make()
        take, give = self.exclude(runtime)
        more = runtime.cell("more", 0)

        def turn(name: str) -> Callable[[], None]:
            def run() -> None:
                take()
                act(name)
                give()

            return run

        tasks = [runtime.spawn(name, turn(name)) for name in "ab"]

        def looks(number: int) -> Callable[[], None]:
            def run() -> None:
                for task in tasks:
                    task.join()
                more.set(number)
                more.get()
                assert self.wrong is None or look() != self.wrong

            return run

        for number in (1, 2):
            runtime.spawn(f"look {number}", looks(number))
        return World()


def named(report: Report) -> list[str]:
    """Return what differs, without the places."""
    assert report.races is not None
    assert report.races.doubts == [] or "taken for one" in report.races.doubts[0]
    return [re.sub(r"^ *\S+\.py:\d+: ", "", line) for line in report.races.doubts[1:]]


@dataclass
class Box:
    last: str = ""


def in_field() -> tuple[Act, Callable[[], object]]:
    box = Box()

    def act(name: str) -> None:
        box.last = name

    return act, lambda: box.last


def test_why_it_matters_a_failure_that_the_search_does_not_see() -> None:
    """The search goes on from the one order alone; the race pass, which merges nothing, sees the other."""
    result = search(Turns(in_field, wrong="a"), Exhaustive())
    assert result.failure is None
    assert result.complete
    assert race_pass(Turns(in_field, wrong="a")).failure is not None


class Slotted:
    __slots__ = ("last",)


class Pair(NamedTuple):
    who: str
    turn: int


TOTAL = ""


def in_slot() -> tuple[Act, Callable[[], object]]:
    box: Any = Slotted()

    def act(name: str) -> None:
        box.last = name

    return act, lambda: box.last


def in_item() -> tuple[Act, Callable[[], object]]:
    items = [""]

    def act(name: str) -> None:
        items[0] = name

    return act, lambda: items[0]


def in_order() -> tuple[Act, Callable[[], object]]:
    items: list[str] = []
    return items.append, lambda: items[0]


def in_deque() -> tuple[Act, Callable[[], object]]:
    queue: deque[Pair] = deque()
    return (lambda name: queue.append(Pair(name, len(queue)))), lambda: queue[0].who


def in_dict() -> tuple[Act, Callable[[], object]]:
    table = {"last": ""}

    def act(name: str) -> None:
        table["last"] = name

    return act, lambda: table["last"]


def in_set() -> tuple[Act, Callable[[], object]]:
    first: set[str] = set()

    def act(name: str) -> None:
        if not first:
            first.add(name)
        else:
            first.update(())

    return act, lambda: min(first)


def in_variable() -> tuple[Act, Callable[[], object]]:
    last = ""

    def act(name: str) -> None:
        nonlocal last
        last = name

    return act, lambda: last


def in_global() -> tuple[Act, Callable[[], object]]:
    global TOTAL  # noqa: PLW0603 - what is tried
    TOTAL = ""

    def act(name: str) -> None:
        global TOTAL  # noqa: PLW0603
        TOTAL = name

    return act, lambda: TOTAL


def in_bytes() -> tuple[Act, Callable[[], object]]:
    memory = bytearray(4096)

    def act(name: str) -> None:
        memory[200:201] = name.encode()

    return act, lambda: memory[200]


def in_view() -> tuple[Act, Callable[[], object]]:
    memory = memoryview(bytearray(256))

    def act(name: str) -> None:
        memory[3] = ord(name)

    return act, lambda: memory[3]


def in_object() -> tuple[Act, Callable[[], object]]:
    """What the field holds is an object that can change; by its own fields it is told from the other."""
    box: Any = Box()
    boxes = {name: Box(name) for name in "ab"}

    def act(name: str) -> None:
        box.last = boxes[name]

    return act, lambda: box.last.last


def in_function() -> tuple[Act, Callable[[], object]]:
    box: Any = Box()
    acts = {"a": str.upper, "b": str.lower}

    def act(name: str) -> None:
        box.last = acts[name]

    return act, lambda: box.last("x")


def in_method() -> tuple[Act, Callable[[], object]]:
    box: Any = Box()
    texts = {"a": ["a"].count, "b": Pair("b", 1)._asdict}

    def act(name: str) -> None:
        box.last = texts[name]

    return act, lambda: box.last is texts["a"]


KINDS = [
    (in_field, "Box.last"),
    (in_slot, "Slotted.last"),
    (in_item, "list.[0]"),
    (in_order, "list."),
    (in_deque, "deque."),
    (in_dict, "dict.['last']"),
    (in_set, "set."),
    (in_variable, "cell."),
    (in_global, "dict.['TOTAL']"),
    (in_bytes, "bytearray.bytes 0xc0 to 0xff"),
    (in_view, "bytearray.bytes 0x0 to 0x3f"),
    (in_object, "Box.last"),
    (in_function, "Box.last"),
    (in_method, "Box.last"),
]


@pytest.mark.parametrize("exclude", [by_channel, by_cell])
@pytest.mark.parametrize(("make", "what"), KINDS)
def test_what_differs_is_named_with_its_line(
    make: Callable[[], tuple[Act, Callable[[], object]]], what: str, exclude: Exclude
) -> None:
    report = check(Turns(make, exclude), Settings("exhaustive"))
    assert report.found is None, report
    assert not report.complete
    assert all(name.startswith(what) for name in named(report)), report
    assert named(report)
    assert f"{__name__}.py:" in str(report)


def both_count() -> tuple[Act, Callable[[], object]]:
    """It is the same in either order."""
    box = Box()

    def act(_name: str) -> None:
        box.last += "x"

    return act, lambda: box.last


def each_its_own() -> tuple[Act, Callable[[], object]]:
    boxes = {name: Box() for name in "ab"}

    def act(name: str) -> None:
        boxes[name].last = name

    return act, lambda: boxes["a"].last


def no_order() -> tuple[Act, Callable[[], object]]:
    """A dict and a set have the same items, whoever came first; that these numbers collide shows in the set's order."""
    table: dict[str, int] = {}
    numbers: set[int] = set()

    def act(name: str) -> None:
        table[name] = 1
        numbers.add(0 if name == "a" else 8)

    return act, lambda: sorted(table)


def dropped() -> tuple[Act, Callable[[], object]]:
    """Who came first is in an object that nobody has any more, nor the lists in which it was."""
    held: list[Any] = [Slotted()]
    held[0].last = ""

    def act(name: str) -> None:
        if held[0].last == "":
            held[0].last = name
        else:
            copies = [*held]
            copies.append(copies[0].last)
            held[0] = None

    return act, lambda: held == [None]


@pytest.mark.parametrize("exclude", [by_channel, by_cell])
@pytest.mark.parametrize("make", [both_count, each_its_own, no_order, dropped])
def test_what_is_the_same_in_every_order_is_not_named(
    make: Callable[[], tuple[Act, Callable[[], object]]], exclude: Exclude
) -> None:
    report = check(Turns(make, exclude), Settings("exhaustive"))
    assert report.complete, report


def test_what_a_thing_tells_is_compared() -> None:
    """The order is in a cell: states with another one are others."""

    @dataclass(frozen=True)
    class Told:
        name: str = "told"

        def build(self, runtime: ExploreRuntime) -> World:
            take, give = by_channel(runtime)
            box, last = Box(), runtime.cell("last", "")

            def turn(name: str) -> Callable[[], None]:
                def run() -> None:
                    take()
                    box.last = name
                    last.set(name)
                    give()

                return run

            for name in "ab":
                runtime.spawn(name, turn(name))
            return World()

    assert check(Told(), Settings("exhaustive")).complete


def test_a_field_that_is_declared_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(declared, "UNCOMPARED", [])
    monkeypatch.setattr("hfsched.explore.watch.guarded.UNCOMPARED", declared.UNCOMPARED)
    uncompared(last="it is for a message alone")(Box)
    report = check(Turns(in_field), Settings("exhaustive"))
    assert report.complete
    assert report.races is not None
    assert report.races.left_out == {(Box, "last")}


def test_only_a_search_that_compares_states_is_held_to_it() -> None:
    report = check(Turns(in_field), Settings("pos", executions=20))
    assert report.races is not None
    assert report.races.doubts == []
    assert race_pass(Turns(in_field), merging=True).merged_lines


def test_what_only_the_dead_have_written_is_not_compared() -> None:
    """Histories of a process that has died are forgotten; what it had is gone with it."""

    @dataclass(frozen=True)
    class Dies:
        name: str = "dies"

        def build(self, runtime: ExploreRuntime) -> World:
            one, other = runtime.channel("turn")
            other.send(b"")
            box, done, never = Box(), runtime.cell("done", 0), runtime.event("never")

            def turn(name: str) -> Callable[[], None]:
                def run() -> None:
                    number, _ = one.recv() or (
                        b"",
                        [],
                    )  # until they die, the order is in what they know
                    box.last = name
                    other.send(number + b"1")
                    never.wait()

                return run

            def child(*_: object) -> None:
                for name in "ab":
                    runtime.spawn(name, turn(name))

            process = runtime.process("child", child, [])

            def main() -> None:
                process.kill()
                for number in (1, 2):
                    done.set(number)

            runtime.spawn("main", main)
            runtime.spawn("other", lambda: done.set(3))
            return World(final=lambda: box is None)

    assert check(Dies(), Settings("exhaustive")).complete


@dataclass(frozen=True)
class Rounds:
    """Tasks a and b act in turns, and forget all but how often."""

    make: Callable[[], tuple[Act, Callable[[], object]]]
    name: str = "rounds"

    def build(self, runtime: ExploreRuntime) -> World:
        act, look = self.make()
        take, give = by_channel(runtime)

        def rounds(name: str) -> Callable[[], None]:
            def run() -> None:
                for number in range(2):
                    runtime.retain_only(number)
                    take()
                    act(name)
                    give()

            return run

        for name in "ab":
            runtime.spawn(name, rounds(name))
        return World(final=look)


def test_what_is_forgotten_and_makes_a_difference_is_named() -> None:
    report = check(Rounds(in_field), Settings("exhaustive"))
    assert named(report) == ["Box.last"]
    assert check(Rounds(both_count), Settings("exhaustive")).complete


def test_a_value_that_comes_back_before_its_task_lets_go_of_anything_is_seen() -> None:
    """Accesses to one place are noted once between two releases; a look begins anew."""

    @dataclass(frozen=True)
    class Holds:
        name: str = "holds"

        def build(self, runtime: ExploreRuntime) -> World:
            take, give = by_channel(runtime)
            box, other = Box(), Box()

            def beside() -> None:
                for _ in range(3):
                    runtime.checkpoint("beside")
                    other.last += "x"

            def turn() -> None:
                take()
                box.last = "taken"
                runtime.checkpoint("has it")
                box.last = ""
                runtime.checkpoint("had it")
                give()

            for name in "ab":
                runtime.spawn(name, turn)
            runtime.spawn("beside", beside)
            return World()

    assert check(Holds(), Settings("exhaustive")).complete
