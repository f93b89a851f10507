"""What syntax does not read, and so does not race with what another task writes."""

from __future__ import annotations

import gc
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.testing import Settings, check
from hfsched.explore.watch.places import places_of
from hfsched.explore.watch.replaced import may_be_replaced

written_global = 0
Acts = tuple[Callable[[], object], Callable[[], object]]


@dataclass(eq=False)
class Box:
    n: int = 0
    kind: str = "box"

    def unreplaced(self) -> int:
        return self.n


@dataclass(eq=False)
class Event:
    n: int = 0


def another_class(_: ExploreRuntime) -> Acts:
    event: Any = Event()

    def read() -> None:
        match event:
            case Box(n=0):
                raise AssertionError

    return lambda: setattr(event, "n", 1), read


def part_that_does_not_match_before(_: ExploreRuntime) -> Acts:
    box, items = Box(), [1]

    def write() -> None:
        box.n = 1
        items.append(2)

    def read() -> None:
        match ("closed", box, items):
            case ("open", Box(n=0), _) | (_, Event(n=0), [1, *_]):
                raise AssertionError

    return write, read


def another_key(_: ExploreRuntime) -> Acts:
    table = {"k": 1}

    def write() -> None:
        table["z"] = 2

    def read() -> None:
        match table:
            case {"k": 1}:
                pass
            case _:
                raise AssertionError

    return write, read


def variable_of_the_class(_: ExploreRuntime) -> Acts:
    def write() -> None:
        global written_global  # noqa: PLW0603
        written_global = 1

    def read() -> None:
        class Kind:
            written_global = 2
            copy = written_global

        assert Kind.copy == 2

    return write, read


def attribute_of_another_object(_: ExploreRuntime) -> Acts:
    class Handler:
        def handle(self) -> int:
            return 1

    one, other = Handler(), Handler()
    changed: Any = one

    def write() -> None:
        changed.handle = lambda: 2

    return write, lambda: other.handle() or 1


def method_that_locks(runtime: ExploreRuntime) -> Acts:
    class Status:
        n: int

        def __init__(self) -> None:
            object.__setattr__(self, "n", 0)

        def __setattr__(self, name: str, value: Any) -> None:
            with lock:
                object.__setattr__(self, name, value)

        def __getattribute__(self, name: str) -> Any:
            with lock:
                return object.__getattribute__(self, name)

        def __delattr__(self, name: str) -> None:
            with lock:
                object.__delattr__(self, name)

    own = Status()
    lock = runtime.lock("lock", state=lambda: object.__getattribute__(own, "__dict__").get("n"))

    def write() -> None:
        own.n = 5
        setattr(own, "n", 6)  # noqa: B010
        own.n += 1
        del own.n

    return write, lambda: getattr(own, "n", 0) or hasattr(own, "n")


def proxy_in_python(_: ExploreRuntime) -> Acts:
    class Proxy:
        def __init__(self, of: Any) -> None:
            object.__setattr__(self, "_of", of)

        def __getattribute__(self, name: str) -> Any:
            return getattr(object.__getattribute__(self, "_of"), name)

    own: Any = Proxy(Box())
    return lambda: own.n, lambda: (own.n, isinstance(own, Box), own.__dict__)


def own_iterators(_: ExploreRuntime) -> Acts:
    items = [(1, (2, 3))]

    def act() -> None:
        for index, (_one, (_two, _three)) in enumerate(items):
            assert index == 0
        assert [a for a, *_ in iter(items)] == [1]

    return act, act


def caller_by_frame(_: ExploreRuntime) -> Acts:
    def name() -> str:
        return sys._getframe(1).f_code.co_name

    def act() -> None:
        here = inspect.currentframe()
        assert here is not None
        names = [here.f_code.co_name, sys._getframe().f_code.co_name, name()]
        assert names == ["act", "act", "act"]
        assert [each.function for each in inspect.stack()[:2]] == ["act", "run"]

    return act, act


PROGRAMS = [
    caller_by_frame,
    another_class,
    part_that_does_not_match_before,
    another_key,
    variable_of_the_class,
    attribute_of_another_object,
    method_that_locks,
    proxy_in_python,
    own_iterators,
]


@dataclass
class Program:
    function: Callable[[ExploreRuntime], Acts]
    name: str = "quiet"

    def build(self, runtime: ExploreRuntime) -> World:
        for name, act in zip("ab", self.function(runtime), strict=True):
            runtime.spawn(name, self.task(act))
        return World()

    @staticmethod
    def task(act: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            act()

        return run


@pytest.fixture(scope="module", autouse=True)
def _thawed(_frozen: None) -> None:
    gc.unfreeze()


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda each: each.__name__)
def test_what_is_not_accessed_does_not_race(function: Callable[[ExploreRuntime], Acts]) -> None:
    report = check(Program(function), Settings("exhaustive"))
    assert report.found is None, report
    assert report.complete, report


def test_a_function_that_nobody_replaces_is_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    for module in ("replaced", "places"):
        monkeypatch.setattr(f"hfsched.explore.watch.{module}.REPLACED", names)
    box = Box()
    assert places_of(box, "unreplaced", write=False) == ()
    assert places_of(Box, "unreplaced", write=False) == ()
    may_be_replaced(["unreplaced"])
    assert places_of(box, "unreplaced", write=False)
    assert places_of(Box, "unreplaced", write=False) == ((Box, "unreplaced", False),)


def test_a_method_that_is_replaced_by_a_computed_name_is_listed() -> None:
    class Handler:
        def never_assigned_by_name(self) -> int:
            return 1

    def acts(_: ExploreRuntime) -> Acts:
        name = "never_assigned_by_name"
        return lambda: setattr(Handler, name, lambda _self: 2), Handler().never_assigned_by_name

    report = check(Program(acts), Settings("exhaustive"))
    assert report.found is None
    assert not report.complete
    assert report.races is not None
    (line,) = report.races.unruled_lines
    assert line.endswith("Handler.never_assigned_by_name by a computed name")
