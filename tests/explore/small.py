"""Small programs over all that a runtime offers, to run; `drawn` draws them.

A program is data, so that a failing one is printed and shrinks.  Each task logs what it learns; the
log is its local state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hfsched.explore.handles import ProcessHandle, TaskHandle
from hfsched.explore.objects import XCell, XEnd, XEvent
from hfsched.explore.opaque import opaque_call
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.runtime.base import ChannelClosedError

__all__ = [
    "CELLS",
    "ENDS",
    "EVENT",
    "EVENTS",
    "HELD",
    "LOCKS",
    "MORE_ENDS",
    "OWN",
    "SHARED",
    "TIMES",
    "Do",
    "Program",
]

CELLS = ("c0", "c1")
LOCKS = ("l0", "l1")
OWN = "own"  # a lock that only a process uses
EVENT = "e"
EVENTS = (EVENT, "e1")
SHARED = "s"
ENDS = ("left", "right")  # of a channel from the first process to a process, if that is one
MORE_ENDS = ("left2", "right2")  # of a channel from that process to another one, or to the first
HELD = (("right", "left2"), ("right2",))  # the ends of each process
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

    The first `dies` tasks are processes that have the ends `HELD`, and may die.  With `promises`,
    things are kept private, or alone, where that is so.
    """

    tasks: tuple[tuple[Do, ...], ...]
    dies: int = 0
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
        return [name for name in _selected(op) if name in EVENTS]
    return [op.on] if op.on in (*CELLS, *LOCKS, OWN, *EVENTS) else []


def _selected(op: Do) -> list[str]:
    return op.on.split("+") if op.on else [EVENT, "left"]


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
        self.events: dict[str, XEvent] = {name: runtime.event(name) for name in EVENTS}
        self.boxes = dict.fromkeys((*LOCKS, OWN), 0)
        self.locks = {
            name: runtime.lock(name, state=partial(self.boxes.__getitem__, name))
            for name in self.boxes
        }
        self.ends = dict(zip(ENDS, runtime.channel("ch"), strict=True))
        self.ends |= zip(MORE_ENDS, runtime.channel("ch2"), strict=True)
        self.party = _Party(runtime)
        self.behind = opaque_call(runtime, self.party)
        if program.shares():
            self.shared = runtime.shared(SHARED, 0)
        self.locals: list[_Local] = []
        self.handles: dict[str, TaskHandle] = {}
        self.processes: dict[str, ProcessHandle] = {}
        for number, body in enumerate(program.tasks):
            if number < program.dies:
                ends = [self.ends[name] for name in HELD[number]]
                main = partial(self._main, str(number), body)
                process = self.processes[str(number)] = runtime.process(str(number), main, ends)
                runtime.may_die(process)
            else:
                self.spawn(str(number), body)
        if program.promises:
            self._promise()

    def _promise(self) -> None:
        waited = {
            name
            for operations in self.program.operations().values()
            for op in operations
            if op.what in ("wait", "select")
            for name in _uses(op)
        }
        for thing, users in self.program.users().items():
            if len(users) == 1 and thing not in waited:
                self.runtime.declare_private(thing)
            elif len(users) > 1:
                others = users[:-1]
                self.runtime.declare_exclusive(users[-1], thing, partial(self._ended, others))

    def _ended(self, names: list[str]) -> bool:
        done = {task.name: task.done for task in self.runtime.tasks if task.glet is not None}
        return all(done.get(name, done[name[0]]) for name in names)

    def spawn(self, name: str, body: tuple[Do, ...]) -> None:
        self.handles[name] = self.runtime.spawn(name, partial(self._task, name, body))

    def _main(self, name: str, body: tuple[Do, ...], *_: object) -> None:
        self._task(name, body)

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
                self.runtime.retain_only(site, round_, before, level=local.loops)
                local.loops += 1
                self._all(op.body, local, site)
                local.loops -= 1
        else:
            assert op.what == "spin", op.what
            while self.cells[op.on].get() == 0:
                self.runtime.retain_only(site, tuple(local.log), level=local.loops)

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

    def do_set(self, op: Do, _: _Local) -> None:
        self.events[op.on].set()

    def do_clear(self, op: Do, _: _Local) -> None:
        self.events[op.on].clear()

    def do_is_set(self, op: Do, _: _Local) -> object:
        return self.events[op.on].is_set()

    def do_wait(self, op: Do, _: _Local) -> object:
        return self.events[op.on].wait(op.value or None)

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
        things: dict[str, XEvent | XEnd] = {**self.events, **self.ends}
        names = {things[name]: name for name in _selected(op)}
        return tuple(
            names[each]  # type: ignore[index]  # it is one of those
            for each in self.runtime.select(list(names), op.value or None)
        )

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

    def _other(self, op: Do, local: _Local) -> ProcessHandle | None:
        process = self.processes.get(op.on or "0")
        return process if local.name[0] != (op.on or "0") else None

    def do_kill(self, op: Do, local: _Local) -> None:
        if (process := self._other(op, local)) is not None:
            process.kill()

    def do_reap(self, op: Do, local: _Local) -> object:
        if (process := self._other(op, local)) is None:
            return None
        ended = process.join(op.value or None)
        return ended, process.exit_status if ended else None

    def do_spawn(self, op: Do, local: _Local) -> None:
        self.spawn(f"{local.name}.child", op.body)

    # Looking on.

    def _public(self) -> Hashable:
        things = (*self.cells.values(), *self.events.values())
        return tuple(
            None if thing.private or thing.exclusive is not None else thing.key()
            for thing in things
        )

    def look(self) -> None:
        self.program.seen.add(self._public())

    def final(self) -> Hashable:
        """Return what each task has learnt, where it sleeps, and what there is to see.

        What a process that was killed had to itself is gone with it.
        """
        killed = {name for name, process in self.processes.items() if process.group.dead}
        waiting = {
            task.name: None if task.done else (task.kind, task.thing and task.thing.name)
            for task in self.runtime.tasks
            if task.glet is not None
        }
        logs = sorted(
            (local.name, str(local.log), str(waiting[local.name]))
            for local in self.locals
            if local.name[0] not in killed
        )
        things: tuple[object, ...] = ([each.key() for each in self.ends.values()], self._public())
        if not killed:
            things = (*things, [cell.key() for cell in self.cells.values()])
            things = (*things, [event.key() for event in self.events.values()])
        return (tuple(logs), str(things), str(self.boxes), self.party.count)
