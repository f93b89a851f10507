"""The recorder of an execution: a strategy that wraps the deciding one, and so sees every point.

Between two points only one task runs, so every change found at a point was made by the operation
before.  A row is written for:

- reads and writes of cells, events that are set, messages on channels, processes, choices;
- a task that falls asleep, and one that wakes up;
- notes of the scenario (`ExploreRuntime.note`), and
- any other operation, such as taking a lock, that has changed a watched value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.explore.controller import StepsExceededError
from hfsched.explore.explain.wording import (
    changes,
    operation_text,
    plain_operation,
    truncate,
    value_text,
    wait_text,
)

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.scenario import World
    from hfsched.explore.strategy import Strategy, View
    from hfsched.explore.task import Task

__all__ = ["Recorder", "Row"]


@dataclass(slots=True)
class Row:
    """A step that is being recorded; lanes are tasks' names until the end."""

    lane: str
    text: str
    to: str | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    preempted: tuple[str, str] | None = None  # the task that runs, and the one that it preempts
    point: int = -1  # the index of its decision
    asleep: bool = False  # the task fell asleep, which is no operation
    render: Callable[[], str] | None = None  # returns the text when the operation is done


class Recorder:
    """Records one execution that `strategy` decides; the decision `always_shown` has a row in any case."""

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
        self._unwritten: Row | None = None  # of the current operation, while it has no row
        self._state: Mapping[str, str] = {}
        self._asleep: set[int] = set()
        self._announced: dict[int, list[Row]] = {}
        self._actors: dict[int, list[str]] = {}
        self._preempted: tuple[str, str] | None = None  # not shown yet
        self.preemptions = 0
        self.invariant_failed = False
        # Set by scenarios.
        self.names: dict[str, str] = {}  # task -> lane
        self.ranks: dict[str, int] = {}  # lane -> its rank in the order of lanes, by default 0
        self.hidden: Callable[[str], bool] = lambda _name: (
            False
        )  # things whose operations are hidden

    # Notes of the scenario's actors.

    def note(self, text: str, *, lane: str | None = None, to: str | None = None) -> None:
        """Write a row; see `ExploreRuntime.note`."""
        self._write(Row(self.lane if lane is None else lane, text, to))

    def announce(self, text: str, to: str) -> None:
        """Write a row when the current task's next operation begins."""
        task = self._current_task()
        if task is not None:
            self._announced.setdefault(task.index, []).append(Row(self.lane, text, to))

    @contextmanager
    def acting_as(self, lane: str) -> Iterator[None]:
        """Attribute the current task's steps to `lane`."""
        task = self._current_task()
        stack = self._actors.setdefault(-1 if task is None else task.index, [])
        stack.append(lane)
        try:
            yield
        finally:
            stack.pop()

    @property
    def lane(self) -> str:
        """The lane of the current task's steps."""
        task = self._current_task()
        return "" if task is None else self._lane_of(task)

    def _current_task(self) -> Task | None:
        return None if self._runtime is None else self._runtime.current

    def _lane_of(self, task: Task) -> str:
        stack = self._actors.get(task.index)
        return stack[-1] if stack else task.name

    # The course of an execution.

    def watch_invariant(self, invariant: Callable[[], None]) -> Callable[[], None]:
        """Return the world's invariant, wrapped to set `invariant_failed`."""

        def checked() -> None:
            try:
                invariant()
            except Exception:
                self.invariant_failed = True
                raise

        return checked

    def attach(self, runtime: ExploreRuntime) -> None:
        """Attach to an execution, before its world is built."""
        self._runtime = runtime
        runtime.recorder = self

    def note_built(self, world: World) -> None:
        """Begin to record: the steps so far are the start-up, the same in every schedule."""
        if self._runtime is None:
            raise InternalError("a recorder needs its runtime before the world")
        self._world = world
        started = bool(self.rows) or bool(self._announced)
        self.rows.clear()
        self._incomplete = None
        self._announced.clear()
        self._state = self._watch()
        if started:
            sleepers = [task for task in self._runtime.tasks if self._is_blocked(task)]
            self._asleep = {task.index for task in sleepers}
            text = "; ".join(f"{self.name_of(task.name)} {wait_text(task)}" for task in sleepers)
            self._write(Row("", f"after the start-up: {text or 'all tasks are runnable'}"))

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
            # Switches between hidden steps are merged: from the first preempted task to the last.
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
        """Record the end of the execution."""
        self._complete_step()
        failure, failed = runtime.controller.failure, runtime.controller.failed_task
        if self.invariant_failed:
            self._write(Row("", "the invariant does not hold"))
        elif isinstance(failure, StepsExceededError):
            self._write(Row("", "stopped: step limit exceeded"))
        elif failure is not None:
            lane = "" if failed is None else self._lane_of(failed)
            self._write(Row(lane, f"raises {type(failure).__name__}"))
        elif not runtime.controller.pruned:
            self._write(Row("", self._end_text(runtime)))
        self._close()

    def _end_text(self, runtime: ExploreRuntime) -> str:
        left = [task for task in runtime.tasks if task.act is None and not task.done]
        if not left:
            return "all tasks have ended"
        text = "; ".join(f"{self.name_of(task.name)} {wait_text(task)}" for task in left)
        return f"no task is runnable: {text}"

    def _complete_step(self) -> None:
        """Record the effects of the last operation, and the tasks that fall asleep after it."""
        runtime = self._runtime
        if runtime is None:
            return
        before = self._state
        self._close()
        unwritten, self._unwritten = self._unwritten, None
        if unwritten is not None:
            changed = changes(before, self._state)
            if changed or unwritten.point == self._always_shown:
                unwritten.text = changed or unwritten.text
                unwritten.state = self._state
                self._append(unwritten)
        for task in runtime.tasks:
            if task.index not in self._asleep and self._is_blocked(task):
                self._asleep.add(task.index)
                row = Row(self._lane_of(task), wait_text(task), state=self._state, asleep=True)
                row.point = len(self.decisions) - 1
                self._append(row)

    def _begin_step(self, task: Task) -> None:
        """Write the row of the chosen task's operation before it is done."""
        slept = task.index in self._asleep
        self._asleep.discard(task.index)
        self._unwritten = Row(self._lane_of(task), plain_operation(task))
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
        render = operation_text(task.kind, thing)
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
        """Complete the last row with the current state, before the next step."""
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
            state.update((name, truncate(text)) for name, text in world.watch().items())
            for thing in runtime.controller.table.things:
                if not self.hidden(thing.name):
                    value = value_text(thing)
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
        """Return the displayed name of a lane, or of a task."""
        return self.names.get(lane, lane)

    def lanes(self) -> tuple[str, ...]:
        """Return the lanes in their order: one for each task, and for each other actor with a step."""
        found: dict[str, None] = {}
        runtime = self._runtime
        assert runtime is not None
        used = {self.name_of(name) for row in self.rows for name in (row.lane, row.to) if name}
        for task in runtime.tasks:
            if task.act is None or self.name_of(task.name) in used:
                found[self.name_of(task.name)] = None
        found |= dict.fromkeys(sorted(used))
        return tuple(sorted(found, key=lambda lane: self.ranks.get(lane, 0)))
