"""Small programs over all that a runtime offers, to draw and to run.

A program is data, so that a failing one is printed and shrinks.  Each task logs what it learns; the
log is its local state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hypothesis import strategies as st

from hfsched.explore.door import door
from hfsched.explore.objects import XCell, XEvent
from hfsched.explore.runtime import ExploreRuntime, ProcessHandle, TaskHandle
from hfsched.explore.scenario import World
from hfsched.runtime.base import ChannelClosedError

__all__ = ["Do", "Program", "programs", "spinning"]

CELLS = ("c0", "c1")
LOCKS = ("l0", "l1")
OWN = "own"  # the lock of the task that may die: it shares none with others, as no process does
EVENT = "e"
SHARED = "s"
ENDS = ("left", "right")
TIMES = (10, 20)


@dataclass(frozen=True)
class Do:
    """One operation: `what`, on the thing `on`, with a value or a time, around a body."""

    what: str
    on: str = ""
    value: int = 0
    body: tuple[Do, ...] = ()

    def __repr__(self) -> str:
        inner = f" {list(self.body)}" if self.body else ""
        return f"{self.what} {self.on or '-'} {self.value}{inner}"

    def walk(self) -> Iterator[Do]:
        """Return this operation and all in its body."""
        yield self
        for each in self.body:
            yield from each.walk()


@dataclass(frozen=True)
class Program:
    """`tasks` are named by their number.

    With `dies`, task 0 is a process that has the right end of the channel, and may die.  With
    `promises`, things are kept private, or alone, where that is so.
    """

    tasks: tuple[tuple[Do, ...], ...]
    dies: bool = False
    promises: bool = False
    timers: bool = True
    name: str = "small"
    seen: set[Hashable] = field(default_factory=set, compare=False, repr=False)  # values at once

    def operations(self) -> dict[str, list[Do]]:
        """Return what each task does, by its name; a child's are its own."""
        found: dict[str, list[Do]] = {}
        for number, body in enumerate(self.tasks):
            mine = found[str(number)] = []
            for each in body:
                if each.what == "spawn":
                    found[f"{number}.child"] = [op for inner in each.body for op in inner.walk()]
                else:
                    mine += each.walk()
        return found

    def shares(self) -> bool:
        """Tell whether there is a plain value that tasks share."""
        return any(op.on == SHARED for ops in self.operations().values() for op in ops)

    def users(self) -> dict[str, list[str]]:
        """Return the names of the tasks that use each thing."""
        found: dict[str, list[str]] = {}
        for name, operations in self.operations().items():
            for thing in sorted({thing for op in operations for thing in _uses(op)}):
                found.setdefault(thing, []).append(name)
        return found

    def build(self, runtime: ExploreRuntime) -> World:
        """Make the tasks."""
        run = _Run(self, runtime)
        return World(invariant=run.look, final=run.final, timers=self.timers)


def _uses(op: Do) -> list[str]:
    if op.what == "select":
        return [EVENT]
    return [op.on] if op.on in (*CELLS, *LOCKS, OWN, EVENT) else []


class _Party:
    """Something that is called through a door: it counts, in two steps."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self.count = 0
        self._lock = runtime.lock("party", state=lambda: self.count)

    def ask(self) -> int:
        with self._lock:
            count = self.count
        with self._lock:
            self.count = count + 1
        return count % 2


@dataclass
class _Local:
    """What a task knows."""

    name: str
    log: list[Any] = field(default_factory=list)
    loops: int = 0  # how deep


class _Run:
    """One execution of a program."""

    def __init__(self, program: Program, runtime: ExploreRuntime) -> None:
        self.program = program
        self.runtime = runtime
        self.cells: dict[str, XCell[int]] = {name: runtime.cell(name, 0) for name in CELLS}
        self.event: XEvent = runtime.event(EVENT)
        self.boxes = dict.fromkeys((*LOCKS, OWN), 0)
        self.locks = {
            name: runtime.lock(name, state=partial(self.boxes.__getitem__, name))
            for name in self.boxes
        }
        self.ends = dict(zip(ENDS, runtime.channel("ch"), strict=True))
        self.party = _Party(runtime)
        self.behind = door(runtime, self.party)
        if program.shares():
            self.shared = runtime.shared(SHARED, 0)
        self.locals: list[_Local] = []
        self.handles: dict[str, TaskHandle] = {}
        self.process: ProcessHandle | None = None
        for number, body in enumerate(program.tasks):
            if program.dies and number == 0:
                ends = [self.ends["right"]]
                main = partial(self._child, body)
                self.process = runtime.process("0", main, ends)
                runtime.may_die(self.process)
            else:
                self.spawn(str(number), body)
        if program.promises:
            self._promise()

    def _promise(self) -> None:
        waited = {
            op.on if op.what == "wait" else EVENT
            for operations in self.program.operations().values()
            for op in operations
            if op.what in ("wait", "select")
        }
        for thing, users in self.program.users().items():
            if len(users) == 1 and thing not in waited:
                self.runtime.keep_private(thing)
            elif len(users) > 1:
                others = users[:-1]
                self.runtime.keep_alone(users[-1], thing, partial(self._ended, others))

    def _ended(self, names: list[str]) -> bool:
        done = {task.name: task.done for task in self.runtime.tasks if task.glet is not None}
        return all(done.get(name, done[name[0]]) for name in names)

    def spawn(self, name: str, body: tuple[Do, ...]) -> None:
        self.handles[name] = self.runtime.spawn(name, partial(self._task, name, body))

    def _child(self, body: tuple[Do, ...], *_: object) -> None:
        self._task("0", body)

    def _task(self, name: str, body: tuple[Do, ...]) -> None:
        local = _Local(name)
        self.locals.append(local)
        self._all(body, local, ())

    def _all(self, body: tuple[Do, ...], local: _Local, site: tuple[int, ...]) -> None:
        for number, op in enumerate(body):
            self._do(op, local, (*site, number))

    def _do(self, op: Do, local: _Local, site: tuple[int, ...]) -> None:
        act: Callable[[Do, _Local], object] | None = getattr(self, f"do_{op.what}", None)
        if act is not None:
            local.log.append(act(op, local))
            return
        if op.what == "lock":
            with self.locks[op.on]:
                self._all(op.body, local, site)
        elif op.what == "when":
            if local.log and local.log[-1] == op.value:
                self._all(op.body, local, site)
        elif op.what == "either":
            self._all(op.body[self.runtime.choose("one", len(op.body)) :][:1], local, site)
        elif op.what == "twice":
            before = tuple(local.log)
            for round_ in range(2):
                local.log[:] = before
                self.runtime.forget(site, round_, before, level=local.loops)
                local.loops += 1
                self._all(op.body, local, site)
                local.loops -= 1
        else:
            assert op.what == "spin", op.what
            while self.cells[op.on].get() == 0:
                self.runtime.forget(site, tuple(local.log), level=local.loops)

    # Operations: what each returns goes into the log.

    def do_get(self, op: Do, _: _Local) -> object:
        return self.cells[op.on].get()

    def do_put(self, op: Do, _: _Local) -> None:
        self.cells[op.on].set(op.value)

    def do_add(self, op: Do, _: _Local) -> object:
        value = self.cells[op.on].get() + 1
        self.cells[op.on].set(value)
        return value

    def do_exchange(self, op: Do, _: _Local) -> object:
        return self.cells[op.on].exchange(op.value)

    def do_swap_0(self, op: Do, _: _Local) -> object:
        return self.cells[op.on].compare_and_set(0, op.value)

    def do_expect(self, op: Do, _: _Local) -> None:
        assert self.cells[op.on].get() == op.value, f"{op.on} is not {op.value}"

    def do_bump(self, op: Do, _: _Local) -> object:
        """Count what a lock guards; only within it."""
        self.boxes[op.on] += 1
        return self.boxes[op.on]

    def do_set(self, _op: Do, _: _Local) -> None:
        self.event.set()

    def do_clear(self, _op: Do, _: _Local) -> None:
        self.event.clear()

    def do_is_set(self, _op: Do, _: _Local) -> object:
        return self.event.is_set()

    def do_wait(self, op: Do, _: _Local) -> object:
        return self.event.wait(op.value or None)

    def do_send(self, op: Do, _: _Local) -> object:
        with contextlib.suppress(ChannelClosedError):
            self.ends[op.on].send(b"m")
            return "sent"
        return "closed"

    def do_recv(self, op: Do, _: _Local) -> object:
        with contextlib.suppress(ChannelClosedError):
            return self.ends[op.on].recv(op.value or None)
        return "closed"

    def do_close(self, op: Do, _: _Local) -> None:
        self.ends[op.on].close()

    def do_select(self, op: Do, _: _Local) -> object:
        found = self.runtime.select([self.event, self.ends["left"]], op.value or None)
        return tuple(each is self.event for each in found)

    def do_now(self, _op: Do, _: _Local) -> object:
        return self.runtime.now()

    def do_sleep(self, op: Do, _: _Local) -> None:
        self.runtime.sleep_until(op.value)

    def do_checkpoint(self, _op: Do, _: _Local) -> None:
        self.runtime.checkpoint("here")

    def do_choose(self, op: Do, _: _Local) -> object:
        return self.runtime.choose("any", op.value)

    def do_load(self, _op: Do, _: _Local) -> object:
        return self.shared.value

    def do_store(self, op: Do, _: _Local) -> None:
        self.shared.value = op.value

    def do_ask(self, _op: Do, _: _Local) -> object:
        return self.behind.ask()

    def do_join(self, op: Do, local: _Local) -> object:
        handle = self.handles.get(op.on)
        if handle is None or op.on == local.name:
            return None
        return handle.join(op.value or None)

    def do_kill(self, _op: Do, local: _Local) -> None:
        if self.process is not None and local.name[0] != "0":
            self.process.kill()

    def do_reap(self, op: Do, local: _Local) -> object:
        if self.process is None or local.name[0] == "0":
            return None
        ended = self.process.join(op.value or None)
        return ended, self.process.exit_status if ended else None

    def do_spawn(self, op: Do, local: _Local) -> None:
        self.spawn(f"{local.name}.child", op.body)

    # Looking on.

    def _public(self) -> Hashable:
        things = (*self.cells.values(), self.event)
        return tuple(
            None if thing.private or thing.alone is not None else thing.key() for thing in things
        )

    def look(self) -> None:
        self.program.seen.add(self._public())

    def final(self) -> Hashable:
        """Return what each task has learnt, where it sleeps, and what there is to see.

        What a process that was killed had to itself is gone with it.
        """
        killed = self.process is not None and self.process.group.dead
        waiting = {
            task.name: None if task.done else (task.kind, task.thing and task.thing.name)
            for task in self.runtime.tasks
            if task.glet is not None
        }
        logs = sorted(
            (local.name, str(local.log), str(waiting[local.name]))
            for local in self.locals
            if not (killed and local.name[0] == "0")
        )
        things: tuple[object, ...] = ([each.key() for each in self.ends.values()], self._public())
        if not killed:
            things = (*things, [cell.key() for cell in self.cells.values()], self.event.key())
        boxes = {name: value for name, value in self.boxes.items() if name != OWN or not killed}
        return (tuple(logs), str(things), str(boxes), self.party.count)


def _plain_operations(families: frozenset[str], names: list[str], *, own: bool) -> list[Do]:
    """Return the operations without a body of some families."""
    channel = [Do("send", end) for end in ENDS] + [Do("close", end) for end in ENDS]
    channel += [Do("recv", end, time) for end in ENDS for time in (0, TIMES[0])]
    known = {
        "cells": [
            Do(what, cell, value)
            for cell in CELLS
            for what, value in (
                ("get", 0),
                ("put", 1),
                ("put", 2),
                ("add", 0),
                ("exchange", 1),
                ("swap_0", 2),
                ("expect", 0),
                ("expect", 1),
            )
        ],
        "events": [Do(what, EVENT) for what in ("set", "clear", "is_set", "wait")],
        "channel": channel,
        "select": [Do("select"), Do("select", "", TIMES[0]), Do("set", EVENT), Do("send", "right")],
        "time": [Do("now"), *(Do("sleep", "", time) for time in TIMES), Do("wait", EVENT, 10)],
        "choose": [Do("choose", "", 2), Do("checkpoint")],
        "shared": [Do("load", SHARED), *(Do("store", SHARED, value) for value in (1, 2))],
        "door": [] if own else [Do("ask")],
        "join": [Do("join", name, time) for name in names for time in (0, TIMES[0])],
        "death": [] if own else [Do("kill"), Do("reap"), Do("reap", "", TIMES[0])],
    }
    return [op for family in sorted(families & known.keys()) for op in known[family]]


FAMILIES = (
    "cells", "locks", "events", "channel", "select", "time", "choose", "shared", "door", "join",
    "death", "loops",
)  # fmt: skip


@st.composite
def _bodies(
    draw: st.DrawFn, families: frozenset[str], names: list[str], most: int, *, own: bool
) -> tuple[Do, ...]:
    """Draw what a task does: at most so many operations, a body's counted."""
    simple = st.sampled_from(
        _plain_operations(families, names, own=own) or [Do("checkpoint"), Do("get", CELLS[0])]
    )
    wraps = [
        *(["lock", "lock"] if "locks" in families else []),
        *(["either", "when"] if "choose" in families else []),
        *(["twice"] if "loops" in families else []),
    ]
    operations: list[Do] = []
    left = draw(st.integers(1, most))
    while left > 0:
        wrap = draw(st.sampled_from([*wraps, ""])) if left > 1 else ""
        if not wrap:
            operations.append(draw(simple))
            left -= 1
            continue
        lock = OWN if own else draw(st.sampled_from(LOCKS))
        most_inner = 1 if wrap == "twice" else 2  # each is done twice
        inner = draw(st.lists(simple, min_size=2 if wrap == "either" else 1, max_size=most_inner))
        if wrap == "lock" and draw(st.booleans()):
            inner.insert(draw(st.integers(0, len(inner))), Do("bump", lock))
        if wrap == "lock" and not own and draw(st.integers(0, 3)) == 0:
            other = LOCKS[1 - LOCKS.index(lock)]
            inner[-1:] = [Do("lock", other, 0, tuple(inner[-1:]))]
        if wrap == "lock" and "choose" in families and draw(st.booleans()):
            inner = [Do("either", "", 0, (draw(simple), inner[0])), *inner[1:]]
        value = draw(st.integers(0, 2)) if wrap == "when" else 0
        operations.append(Do(wrap, lock if wrap == "lock" else "", value, tuple(inner)))
        left -= 1 + len(inner) if wrap != "twice" else 2
    return tuple(operations)


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Draw a program whose schedules can be counted."""
    families = draw(st.frozensets(st.sampled_from(FAMILIES), min_size=1, max_size=3))
    dies = "death" in families
    many = draw(st.booleans())
    names = ["0", "1", "2"] if many else ["0", "1"]
    tasks: list[tuple[Do, ...]] = []
    for name in names:
        own = dies and name == "0"
        others = [each for each in names if each != name]
        body = draw(_bodies(families, others, 2 if many else 4, own=own))
        if not many and "join" in families and name == "0" and draw(st.booleans()):
            body = (*body[:2], Do("spawn", "", 0, draw(_bodies(families, others, 1, own=own))))
        tasks.append(body)
    return Program(tuple(tasks), dies=dies, promises=draw(st.booleans()))


@st.composite
def spinning(draw: st.DrawFn) -> Program:
    """Draw a program in which a task or two look at a cell again and again; the last one sets it."""
    families = draw(st.frozensets(st.sampled_from(("cells", "choose"))))
    names = ["0", "1", "2"]
    tasks = [draw(_bodies(families, names, 2, own=False)) for _ in names]
    for number in draw(st.sets(st.sampled_from((0, 1)), min_size=1)):
        at = draw(st.integers(0, len(tasks[number])))
        tasks[number] = (*tasks[number][:at], Do("spin", CELLS[1]), *tasks[number][at:])
    tasks[2] = (*tasks[2], Do("put", CELLS[1], 1))
    return Program(tuple(tasks), promises=draw(st.booleans()), timers=False)
