"""An operation's footprint, made smaller on purpose: the comparison with every schedule sees it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from small import Do, Program
from test_soundness import GET, STEP, compare, plainly, within

from hfsched.explore import task
from hfsched.explore.controller import Controller
from hfsched.explore.execution import execute
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies import exhaustive
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.task import Group, Task, Touched, dependent, touches
from hfsched.explore.tasktable import TaskTable
from hfsched.scenarios.swapmemory import MAIN, Memory

SEND = Do("send", "left")
SET = Do("set", "e")
FOR_EVER = Do("wait", "e1")
SELECT = Do("select", "e+left")


def without(which: Task, act: Callable[[], bool]) -> bool:
    """Do something while a task says nothing of what else it looks at."""
    also, which.also = which.also, ()
    try:
        return act()
    finally:
        which.also = also


def deaf(kind: str) -> Callable[..., None]:
    """Return `point`, told of nothing else that operations of a kind look at."""
    point = Controller.point

    def recorded(self: Controller, what: str, thing: Any, **more: Any) -> None:
        if what == kind:
            more["also"] = ()
        point(self, what, thing, **more)

    return recorded


def silently(group: Group) -> Touched:
    for end in group.ends:
        end.close_silently()
    return []


ENDS_OF = task._ends
MISTAKES: dict[str, tuple[object, str, object, Program]] = {
    "select looks at nothing": (
        Controller,
        "point",
        deaf("select"),
        Program(((SELECT,), (Do("send", "right"), SET))),
    ),
    "dependence is one-sided": (
        exhaustive,
        "dependent",
        lambda one, two: without(two, lambda: dependent(one, two)),
        Program(((SELECT,), (Do("send", "right"), SET))),
    ),
    "what a step touches wakes no select": (
        exhaustive,
        "touches",
        lambda one, things: without(one, lambda: touches(one, things)),
        Program(((Do("send", "right"), within("l0", SET), STEP), (SELECT,))),
    ),
    "close within a lock touches one end": (
        Controller,
        "point",
        deaf("close"),
        Program(((within("l0", Do("close", "right")),), (SEND,))),
    ),
    "a death closes nothing": (
        Group,
        "things",
        property(lambda _: (), lambda _, _things: None),
        Program(((FOR_EVER,), (SEND,)), dies=1),
    ),
    "a death ends nobody": (
        task,
        "_ends",
        lambda death, other: other.group is not death.kills and ENDS_OF(death, other),
        Program(((within("l0", GET),), (within("l0", GET),), (within("l0", GET),)), dies=1),
    ),
    "the end of a process touches nothing": (
        TaskTable,
        "_close_channels",
        staticmethod(silently),
        Program(((GET,), (SEND,)), dies=1),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_footprint_that_is_too_small_loses_outcomes(
    mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, wrong, program = MISTAKES[mistake]
    compare(program, partial(plainly, most=5000))
    monkeypatch.setattr(where, name, wrong, raising=False)
    with pytest.raises(AssertionError, match="lost"):
        compare(program, partial(plainly, most=5000), ["all", "no cache"])


class Families:
    """Two tasks that make a task each; those do different things, and learn the same."""

    name = "families"

    def build(self, runtime: ExploreRuntime) -> World:
        def parent(child: str) -> None:
            runtime.checkpoint("before")
            runtime.spawn(child, lambda: runtime.checkpoint("child"))

        for child in ("a", "b"):
            runtime.spawn(f"parent of {child}", partial(parent, child))
        return World()


def test_states_tell_who_is_who_among_tasks_made_in_another_order() -> None:
    ends: dict[bytes, set[tuple[str, ...]]] = {}

    def look(runtime: ExploreRuntime) -> None:
        names = tuple(task.name for task in runtime.tasks)
        ends.setdefault(runtime.controller.state_key(), set()).add(names)

    strategy = Exhaustive(cache=True, sleep=False)
    while strategy.begin():
        strategy.end(execute(Families(), strategy, look=look))
    assert len({names for found in ends.values() for names in found}) > 1
    assert all(len(found) == 1 for found in ends.values())


class Finally:
    """A process whose code has something to do whatever ends it; and one that ends itself."""

    name = "finally"

    def __init__(self, *, itself: bool) -> None:
        self.itself = itself
        self.after: list[bool] = []

    def build(self, runtime: ExploreRuntime) -> World:
        here, there = runtime.channel("c")

        def child(_: ExploreRuntime, end: object) -> None:
            assert end is there
            try:
                if self.itself:
                    process.kill()
                there.send(b"1")
            finally:
                if not runtime.controller.stopping and process.group.dead:
                    self.after.append(True)

        process = runtime.process("child", child, [there])
        runtime.may_die(process)
        runtime.spawn("parent", here.close)
        return World()


@pytest.mark.parametrize("itself", [False, True])
def test_nothing_of_a_dead_process_runs(itself: bool) -> None:
    scenario = Finally(itself=itself)
    strategy = Exhaustive(cache=False, sleep=False)
    while strategy.begin():
        strategy.end(execute(scenario, strategy))
    assert scenario.after == []


def test_a_process_that_has_ended_cannot_die_and_has_closed_its_channels() -> None:
    """Whoever waits for its end of file comes to it, and no death is left to choose."""

    class Ends:
        name = "ends"

        def build(self, runtime: ExploreRuntime) -> World:
            here, there = runtime.channel("c")
            process = runtime.process("child", lambda *_: runtime.checkpoint("child"), [there])

            def check() -> None:
                assert here.ready()
                assert process.exit_status == 0
                process.kill()
                assert process.exit_status == 0

            return World(check)

    strategy = Exhaustive()
    while strategy.begin():
        outcome = execute(Ends(), strategy)
        strategy.end(outcome)
        assert outcome.failure is None


def test_a_fault_that_finds_one_unread_has_looked_at_the_queue() -> None:
    """Two guests fault on a page: each reads what the monitor takes, and the first one writes it."""
    touched: list[tuple[str, bool]] = []

    class Two:
        name = "two"

        def build(self, runtime: ExploreRuntime) -> World:
            memory = Memory(runtime, 1)
            (page,) = memory.pages
            page.mapped, page.registered = set(), {MAIN}
            look = runtime.controller._next

            def spy() -> Task | None:
                touched.extend(runtime.controller.touched)
                return look()

            runtime.controller._next = spy  # type: ignore[method-assign]
            for guest in ("g0", "g1"):
                runtime.spawn(guest, partial(memory.touch, guest, page))
            return World()

    strategy = Exhaustive()
    strategy.begin()
    execute(Two(), strategy)
    assert [write for name, write in touched if name == "uffd"] == [False, True, False]
