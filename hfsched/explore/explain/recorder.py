"""The listener of an execution: a strategy around the one that decides, which sees every point.

What happens between two points is one task's alone, so whatever differs at a point was done by the
operation before.  A row is written for each point that says something:

- reads and writes of cells, events that are set, messages on channels, processes, choices;
- a task that falls asleep, and one that wakes up;
- notes of the scenario (`ExploreRuntime.note`, and `machine`), and
- any other point, a lock taken for instance, if what is watched has changed by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.explore.controller import StepsExceededError
from hfsched.explore.objects import XCell, XEnd, XEvent, XShared

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.objects import Thing
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.scenario import World
    from hfsched.explore.strategy import Strategy, View
    from hfsched.explore.task import Task

__all__ = ["Recorder", "Row"]

VALUE_MAX = 40  # characters of a value


@dataclass(slots=True)
class Row:
    """A step in the making; lanes are tasks' names until the end."""

    lane: str
    text: str
    to: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    preempted: tuple[str, str] | None = None  # who goes on, and who could have
    point: int = -1  # the decision that it belongs to
    asleep: bool = False  # it says that the task fell asleep, which is no operation
    render: Callable[[], str] | None = None  # its text, once it is done


class Recorder:
    """Listens to one execution that `strategy` decides; the decision `always_shown` gets a row anyhow."""

    name = "recorder"
    every_point = True

    def __init__(self, strategy: Strategy, always_shown: int | None = None) -> None:
        self._strategy = strategy
        self._always_shown = always_shown
        self.stateful = strategy.stateful
        self.decisions: list[int] = []
        self.rows: list[Row] = []
        self._world: World | None = None
        self._runtime: ExploreRuntime | None = None
        self._incomplete: Row | None = None  # its operation may not be done yet
        self._unwritten: Row | None = None  # the point now under way, while it has said nothing
        self._state: Mapping[str, str] = {}
        self._asleep: set[int] = set()
        self._announced: dict[int, list[Row]] = {}
        self._actors: dict[int, list[str]] = {}
        self._preempted: tuple[str, str] | None = None  # not shown yet
        self.preemptions = 0
        self.invariant_failed = False  # the world's invariant
        # For `machine` and its like.
        self.names: dict[str, str] = {}  # task -> lane
        self.ranks: dict[str, int] = {}  # lane -> where it stands, 0 for what is not here
        self.hidden: Callable[[str], bool] = lambda _name: False  # things that say nothing

    # What the scenario's actors say.

    def note(self, text: str, *, lane: str | None = None, to: str | None = None) -> None:
        """Write a row for what was just done; see `ExploreRuntime.note`."""
        self._write(Row(self.lane if lane is None else lane, text, to))

    def announce(self, text: str, to: str) -> None:
        """Write a row when the current task comes to its next operation: what begins with it."""
        task = self._current_task()
        if task is not None:
            self._announced.setdefault(task.index, []).append(Row(self.lane, text, to))

    @contextmanager
    def acting_as(self, lane: str) -> Iterator[None]:
        """Let what the current task does be done by `lane`."""
        task = self._current_task()
        stack = self._actors.setdefault(-1 if task is None else task.index, [])
        stack.append(lane)
        try:
            yield
        finally:
            stack.pop()

    @property
    def lane(self) -> str:
        """Who acts now."""
        task = self._current_task()
        return "" if task is None else self._lane_of(task)

    def _current_task(self) -> Task | None:
        return None if self._runtime is None else self._runtime.current

    def _lane_of(self, task: Task) -> str:
        stack = self._actors.get(task.index)
        return stack[-1] if stack else task.name

    # The course of an execution.

    def watch_invariant(self, invariant: Callable[[], None]) -> Callable[[], None]:
        """Return the world's invariant, which says here when it is broken."""

        def checked() -> None:
            try:
                invariant()
            except Exception:
                self.invariant_failed = True
                raise

        return checked

    def attach(self, runtime: ExploreRuntime) -> None:
        """Belong to an execution; its world is about to be built."""
        self._runtime = runtime
        runtime.recorder = self

    def note_built(self, world: World) -> None:
        """Begin: what was done up to now is the start-up, the same in every schedule."""
        if self._runtime is None:
            raise InternalError("a recorder is told of a world before its runtime")
        self._world = world
        started = bool(self.rows) or bool(self._announced)
        self.rows.clear()
        self._incomplete = None
        self._announced.clear()
        self._state = self._watch()
        if started:
            sleepers = [task for task in self._runtime.tasks if self._is_blocked(task)]
            self._asleep = {task.index for task in sleepers}
            text = "; ".join(f"{self.name_of(task.name)} {_wait_text(task)}" for task in sleepers)
            self._write(Row("", f"after the start-up: {text or 'all can go on'}"))

    def begin(self) -> bool:
        """See `Strategy.begin`."""
        return self._strategy.begin()

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """See `Strategy.pick`."""
        self._complete_step()
        chosen = enabled[0]
        if len(enabled) > 1 or self._strategy.every_point:
            chosen = self._strategy.pick(view, current, enabled)
        self.decisions.append(chosen.index)
        if current is not None and chosen is not current:
            # What is folded shows nothing: from the first who was kept waiting to the last who goes.
            first = current.name if self._preempted is None else self._preempted[1]
            self._preempted = (chosen.name, first)
            self.preemptions += 1
        self._begin_step(chosen)
        return chosen

    def value(self, view: View, name: str, n: int) -> int:
        """See `Strategy.value`."""
        value = self._strategy.value(view, name, n)
        self.decisions.append(value)
        self._write(Row(self.lane, f"chooses {name}: {value} of {n}"))
        return value

    def end(self, outcome: Outcome) -> None:
        """See `Strategy.end`."""
        self._strategy.end(outcome)

    def finish(self, runtime: ExploreRuntime) -> None:
        """Take in the end of the execution."""
        self._complete_step()
        failure, failed = runtime.controller.failure, runtime.controller.failed_task
        if self.invariant_failed:
            self._write(Row("", "the invariant does not hold"))
        elif isinstance(failure, StepsExceededError):
            self._write(Row("", "given up: no end in sight"))
        elif failure is not None:
            lane = "" if failed is None else self._lane_of(failed)
            self._write(Row(lane, f"raises {type(failure).__name__}"))
        elif not runtime.controller.pruned:
            self._write(Row("", self._end_text(runtime)))
        self._close()

    def _end_text(self, runtime: ExploreRuntime) -> str:
        left = [task for task in runtime.tasks if task.act is None and not task.done]
        if not left:
            return "all have ended"
        text = "; ".join(f"{self.name_of(task.name)} {_wait_text(task)}" for task in left)
        return f"nobody can go on: {text}"

    def _complete_step(self) -> None:
        """Look at what the last operation has done, and at whoever falls asleep after it."""
        runtime = self._runtime
        if runtime is None:
            return
        before = self._state
        self._close()
        hidden, self._unwritten = self._unwritten, None
        if hidden is not None:
            changes = _changes(before, self._state)
            if changes or hidden.point == self._always_shown:
                hidden.text = changes or hidden.text
                hidden.state = self._state
                self._append(hidden)
        for task in runtime.tasks:
            if task.index not in self._asleep and self._is_blocked(task):
                self._asleep.add(task.index)
                row = Row(self._lane_of(task), _wait_text(task), state=self._state, asleep=True)
                row.point = len(self.decisions) - 1
                self._append(row)

    def _begin_step(self, task: Task) -> None:
        """Write what the chosen task's operation says before it is done."""
        slept = task.index in self._asleep
        self._asleep.discard(task.index)
        self._unwritten = Row(self._lane_of(task), _plain_operation(task))
        self._unwritten.point = len(self.decisions) - 1
        for row in self._announced.pop(task.index, []):
            self._write(row)
        row_of = self._row(task, slept=slept)
        if row_of is not None:
            self._write(row_of)

    def _row(self, task: Task, *, slept: bool) -> Row | None:
        lane = self._lane_of(task)
        if task.act is not None:
            return Row(task.name, "time passes" if task.kind == "clock" else "happens")
        thing = task.thing
        if thing is not None and self.hidden(thing.name):
            return None
        render = _operation(task.kind, thing)
        if render is None:
            return Row(lane, "wakes up") if slept else None
        return Row(lane, "", render=render)

    # Rows.

    def _write(self, row: Row) -> None:
        self._close()
        self._unwritten = None
        if row.point < 0:
            row.point = len(self.decisions) - 1
        self._append(row)
        self._incomplete = row

    def _append(self, row: Row) -> None:
        row.preempted, self._preempted = self._preempted, None
        if row.preempted is not None and row.preempted[0] == row.preempted[1]:
            row.preempted = None
        self.rows.append(row)

    def _close(self) -> None:
        """Complete the last row with what is now, before anything else happens."""
        self._state = self._watch()
        row, self._incomplete = self._incomplete, None
        if row is not None:
            row.state = self._state
            if row.render is not None:
                row.text = row.render()

    def _watch(self) -> Mapping[str, str]:
        runtime, world = self._runtime, self._world
        if runtime is None or world is None:
            return {}
        state: dict[str, str] = {}

        def read() -> None:
            state.update((name, _truncate(render)) for name, render in world.watch().items())
            for thing in runtime.controller.table.things:
                if not self.hidden(thing.name):
                    value = _value(thing)
                    if value is not None:
                        state[thing.name] = value

        runtime.controller.inspect(read)
        return state

    @staticmethod
    def _is_blocked(task: Task) -> bool:
        return (
            task.act is None
            and not task.done
            and task.condition is not None
            and task.kind != "lock"
            and not task.condition()
        )

    # Lanes.

    def name_of(self, lane: str) -> str:
        """Return what a lane, or a task, is called."""
        return self.names.get(lane, lane)

    def lanes(self) -> tuple[str, ...]:
        """Return the lanes in their order: one for each task, and for whoever else has a step."""
        found: dict[str, None] = {}
        runtime = self._runtime
        assert runtime is not None
        used = {self.name_of(name) for row in self.rows for name in (row.lane, row.to) if name}
        for task in runtime.tasks:
            if task.act is None or self.name_of(task.name) in used:
                found[self.name_of(task.name)] = None
        found |= dict.fromkeys(sorted(used))
        return tuple(sorted(found, key=lambda lane: self.ranks.get(lane, 0)))


def _operation(kind: str, thing: Thing | None) -> Callable[[], str] | None:
    """Return what says an operation once it is done; None for one that says nothing."""
    if kind in _SILENT or kind.startswith("checkpoint "):
        return None
    name = "" if thing is None else thing.name
    if isinstance(thing, XCell):
        template = _CELLS.get(kind, f"{kind} {{}}: {{}}")
        return lambda: template.format(name, _short(thing.peek()))
    if isinstance(thing, XEvent):
        flag = thing.peek()
        if kind == "clear" and not flag:
            return None
        template = _EVENTS.get(kind, f"{kind} {{}}")
        return lambda: template.format(name, "set" if thing.peek() else "clear")
    if isinstance(thing, XEnd):
        return _channel(kind, thing)
    render = f"{kind} {name}".rstrip()
    return lambda: render


def _channel(kind: str, end: XEnd) -> Callable[[], str]:
    if kind == "recv":
        render = "reads the end of" if not end.inbox else f"receives {_short(end.inbox[0][0])} from"
        return lambda: f"{render} {end.name}"
    if kind == "send":
        count = len(end.inbox)

        def sent() -> str:
            what = _short(end.inbox[-1][0]) if len(end.inbox) > count else "in vain"
            return f"sends {what} to {end.name}"

        return sent
    return lambda: f"{kind} {end.name}"


# What says nothing by itself.  "select" and "sleep" do when they were waited for.
_SILENT = frozenset({"lock", "start", "join", "now", "sleep", "wait", "select", "anything"})
_CELLS = {
    "get": "reads {}: {}",
    "put": "{} = {}",
    "exchange": "exchanges {}: now {}",
    "compare_and_set": "compares and sets {}: now {}",
}
_EVENTS = {"set": "sets {}", "clear": "clears {}", "is_set": "looks at {}: {}"}


def _plain_operation(task: Task) -> str:
    """Say an operation that says nothing, for once."""
    name = "" if task.thing is None else task.thing.name
    if task.kind == "lock":
        return f"looks at what {name} guards"
    return f"{task.kind} {name}".rstrip()


def _wait_text(task: Task) -> str:
    """Say of a task that cannot go on what it waits for."""
    if task.kind == "lock":
        return "waits for " + ("a lock" if task.thing is None else task.thing.name)
    what = "" if task.thing is None else f", waiting for {task.thing.name}"
    until = "" if task.deadline is None else f" until {task.deadline} ns"
    if task.kind == "join":
        what = ", waiting for another's end"
    return f"sleeps{until}{what}"


def _value(thing: Thing) -> str | None:
    if isinstance(thing, XCell | XShared):
        return _short(thing.peek())
    if isinstance(thing, XEvent):
        return "set" if thing.peek() else "clear"
    if isinstance(thing, XEnd):
        return f"{len(thing.inbox)} waiting" + (", closed" if thing.closed else "")
    return None


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    return "; ".join(
        f"{name}: {value}" for name, value in after.items() if before.get(name) != value
    )


def _short(value: object) -> str:
    return _truncate(repr(value))


def _truncate(text: str) -> str:
    return text if len(text) <= VALUE_MAX else text[: VALUE_MAX - 1] + "…"
