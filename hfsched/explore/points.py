"""Points: who goes next, and what becomes of the tasks.

A schedule is decided at *points*: before each operation, among the tasks whose operation can be
done.  Between two points a task runs alone.

Implementation note.  There is no hub on the way from task to task: the task that reaches a point
asks the strategy in its own greenlet and switches straight to the one chosen, which costs half a
microsecond; when it chooses itself, nothing is switched.  The greenlet that called `explore` gets
control when no task can go on, when the strategy cuts the execution short, or when one fails.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

from hfsched.errors import InternalError, UserError
from hfsched.explore.objects import Known, Thing, XLock, plain
from hfsched.explore.task import Group, Learnt, Task

try:
    import greenlet
except ImportError as exc:  # pragma: no cover - named by whoever explores
    raise UserError(
        "exploring needs the package 'greenlet': pip install 'hfsched[explore]'"
    ) from exc

if TYPE_CHECKING:
    from hfsched.explore.explain.recorder import Recorder
    from hfsched.explore.races import Races
    from hfsched.explore.strategy import Strategy

__all__ = ["STEPS_MAX", "Points", "Prune", "StepsExceededError"]

STEPS_MAX = 20_000
T = TypeVar("T")

# By task, what it has learnt and what it knew before the opaque calls that it is in; by lock.
Knowledge = tuple[list[tuple[int, tuple[int, ...], tuple[Learnt, ...]]], list[Known]]


class Prune(Exception):  # noqa: N818 - no error
    """The strategy has seen what follows already."""


class StepsExceededError(Exception):
    """An execution that does not end: a livelock, or a bound that is too low."""


class Points:
    """One execution: its tasks, things and time.

    It is always the base of an `hfsched.explore.runtime.ExploreRuntime`, the only class made of it:
    that is what strategies are given.  `tracing` records every step; `races` looks for unordered
    accesses to shared values in its own way, else the first shared value brings a detector along.
    """

    def __init__(
        self,
        strategy: Strategy,
        *,
        tracing: bool = False,
        races: Races | None = None,
        forgetting: bool = True,
        joining: bool = True,
        steps_max: int = STEPS_MAX,
    ) -> None:
        self._strategy = strategy
        self.stateful = strategy.stateful
        self._every_point = strategy.every_point
        self.races = races
        self.forgetting = (
            forgetting and strategy.stateful
        )  # opaque calls and `retain_only` have effect
        self.joining = joining  # an operation may belong to the step before it
        self._steps_max = steps_max
        self.tasks: list[Task] = []
        self._live: list[Task] = []  # those that have not ended, without the clock
        self.things: list[Thing] = []
        self.current: Task | None = None
        self.previous: Task | None = None  # who went last
        self.steps = 0
        self.touched: list[tuple[str, bool]] = []  # more that the last step did: (name, write)
        self.stopping = False
        self.settling = False
        self.time = 0
        self._made = 0  # a digest of who has made which tasks and things
        self.cut = False
        self.failure: BaseException | None = None
        self.failed_task: Task | None = None
        self.trace: list[str] | None = [] if tracing else None
        self._hub = greenlet.getcurrent()
        self._clock: Task | None = self._pseudo("clock", "clock", self._tick)
        if races is not None:
            races.attach(self)
        self.invariant: Callable[[], None] | None = None
        self.recorder: Recorder | None = None  # who tells the story of this execution

    # One execution.

    def explore(self) -> None:
        """Run the tasks that were spawned until none can go on, one fails, or the strategy cuts."""
        self.current = None
        if self.failure is not None:
            return  # what settled has failed
        chosen = self._next()
        if chosen is not None:
            chosen.glet.switch()

    def close(self) -> None:
        """Unwind every task that has not ended."""
        self.stopping = True
        for task in self.tasks:
            if task.glet is not None and not task.glet.dead:
                self.current = task
                task.glet.parent = self._hub
                with contextlib.suppress(Exception):  # what is unwound may say what it likes
                    task.glet.throw(greenlet.GreenletExit)
        self.current = None

    # Points.

    def point(
        self,
        kind: str,
        thing: Thing | None,
        *,
        write: bool = False,
        condition: Callable[[], bool] | None = None,
        deadline: int | None = None,
        also: Sequence[Thing] = (),
    ) -> None:
        """Let the strategy decide who goes next; return when it is this task's turn.

        `also` are things that the operation and its condition look at, besides `thing`; a `write` to
        them needs an operation whose order always matters (`hfsched.explore.task`).
        """
        task = self.current
        if task is None:
            return  # the scenario is being built, or looked at
        if self.stopping:
            raise greenlet.GreenletExit
        if (
            thing is not None
            and self.joining
            and (thing.private or thing.alone is not None or (task.entered and condition is None))
            and self._joins(task, kind, thing, write, condition, also)
        ):
            return
        if self.stateful:
            task.history = hash((task.history, kind))  # that it has come this far
        if deadline is not None:
            self.touched.append(("clock", False))  # time may stop here now
        task.entered = kind == "lock"
        task.kind = kind
        task.thing = thing
        task.also = also
        task.write = write
        task.condition = condition
        task.deadline = deadline
        task.key = None
        chosen = self._next()
        if chosen is not task:
            self._go_on(chosen)
        if condition is not None:
            task.condition = None
            task.deadline = None
        if self.trace is not None:
            self._record(task.describe())

    def _go_on(self, chosen: Task | None) -> None:
        """Let another task run, None: the hub; return when it is the caller's turn again."""
        if chosen is None:
            self._hub.switch()
        else:
            chosen.glet.switch()
        if self.stopping:
            raise greenlet.GreenletExit

    def _joins(
        self,
        task: Task,
        kind: str,
        thing: Thing,
        write: bool,  # noqa: FBT001
        condition: Callable[[], bool] | None,
        also: Sequence[Thing],
    ) -> bool:
        """Tell whether an operation belongs to the step before it.

        What one task alone touches is nobody's business.  And taking a lock can be put off until
        just before the first operation inside that never blocks, for nobody can tell them apart:
        lock, operation and unlock are one step (R. Lipton, "Reduction", CACM 18(12), 1975).
        Neither is so for a task of a process: that may die in between.
        """
        if thing.private:
            if thing.user is not None and thing.user is not task:
                raise InternalError(f"{thing.name} is private, and {task.name} uses it too")
            thing.user = task
        if task.group is not None:
            return False
        if not thing.private:
            if thing.alone is not None and thing.alone[0] == task.name and thing.alone[1]():
                if condition is not None and not condition():
                    return False
            elif condition is None and task.entered:
                task.entered = False
                self.touched += [(each.name, write) for each in (thing, *also)]
            else:
                return False
        if self.trace is not None:
            self._record(f"{task.name}: {kind} {thing.name}")
        return True

    def observe(self, value: object) -> None:
        """Note what the current task has learnt."""
        if self.stateful and self.current is not None:
            self.current.history = hash((self.current.history, value))

    def observe_plain(self, value: object) -> None:
        """Note what the current task has been given, whatever its type."""
        if self.stateful and self.current is not None:
            self.current.history = hash((self.current.history, plain(value)))

    def pass_on(self, thing: Thing) -> None:
        """Let whoever takes over from `thing` know all that happened before."""
        if self.races is not None:
            self.races.release(thing)

    def take_over(self, thing: Thing) -> None:
        """See `pass_on`."""
        if self.races is not None:
            self.races.acquire(thing)

    # Deciding.

    def _next(self) -> Task | None:
        """Choose the next task and make it the current one; None: back to the hub."""
        while True:
            self.steps += 1
            if self.steps > self._steps_max:
                return self._give_up(
                    StepsExceededError(f"{self._steps_max} steps and no end: a livelock?")
                )
            try:
                if self.invariant is not None:
                    self._look(self.invariant)
                enabled = self._enabled()
                many = len(enabled)
                if not many:
                    self.current = None
                    return None
                chosen = enabled[0]
                if many > 1 or self._every_point:
                    current = self.previous if self.previous in enabled else None
                    if not self.settling:
                        chosen = self._strategy.pick(self, current, enabled)  # type: ignore[arg-type]  # see the class's text
                    elif current is not None:
                        chosen = current
            except Prune:
                self.cut = True
                self.current = None
                return None
            except Exception as exc:  # noqa: BLE001 - a finding, whatever it is
                return self._give_up(exc)
            if self.touched:
                self.touched = []
            if chosen.act is None:
                self.previous = self.current = chosen
                return chosen
            self._record(chosen.name)
            self.current = None  # it is nobody's: no operation in it is a point
            try:
                chosen.act()
            except Exception as exc:  # noqa: BLE001 - likewise
                return self._give_up(exc)

    def _look(self, look: Callable[[], T]) -> T:
        """Call something that looks at everything; no operation in it is a point."""
        task, self.current = self.current, None
        try:
            return look()
        finally:
            self.current = task

    def _enabled(self) -> list[Task]:
        now = self.time
        enabled = [
            task
            for task in self._live
            if (condition := task.condition) is None
            or condition()
            or ((deadline := task.deadline) is not None and now >= deadline)
        ]
        if self._clock is not None and not self.settling and self._next_deadline() is not None:
            enabled.append(self._clock)
        return enabled

    def _next_deadline(self) -> int | None:
        times = [
            task.deadline
            for task in self._live
            if task.deadline is not None and task.deadline > self.time
        ]
        return min(times, default=None)

    def _tick(self) -> None:
        deadline = self._next_deadline()
        assert deadline is not None
        self.time = deadline

    def _give_up(self, failure: BaseException) -> Task | None:
        self.failure = failure
        self.failed_task = self.current
        self.current = None
        return None

    # Tasks.

    def _task(self, name: str, fn: Callable[[], None], group: Group | None) -> Task:
        task = Task(len(self.tasks), name, group)
        if group is not None:
            group.tasks.append(task)
        if self.races is not None:
            self.races.born(task, self.current)

        def body(*_: object) -> None:
            try:
                fn()
            except greenlet.GreenletExit:
                return
            except BaseException as exc:  # noqa: BLE001 - a finding, whatever it is
                if not self.stopping:
                    self._give_up(exc)
                    task.glet.parent = self._hub
                return
            self._leave(task)

        task.glet = greenlet.greenlet(body, self._hub)
        self._add(task)
        self._live.append(task)
        return task

    def _pseudo(self, name: str, kind: str, act: Callable[[], None]) -> Task:
        task = Task(len(self.tasks), name, None)
        task.kind = kind
        task.write = True
        task.act = act
        self._add(task)
        if kind != "clock":
            self._live.append(task)
        return task

    def _add(self, task: Task) -> None:
        self.tasks.append(task)
        self.made(task.name)

    def made(self, name: str) -> None:
        """Note that the current task has made, or closed, something of this name.

        States tell tasks and things by their places in the order in which they were made; so it is
        part of the state who has made what.
        """
        by = -1 if self.current is None else self.current.index
        self._made = hash((self._made, by, name))

    def _leave(self, task: Task) -> None:
        """End a task: whoever is next goes on when its greenlet returns."""
        self._end(task)
        if self.stopping:
            return
        chosen = self._next()
        task.glet.parent = self._hub if chosen is None else chosen.glet

    def _end(self, task: Task) -> None:
        """Note that a task has ended."""
        if task.done:
            return
        task.done = True
        task.key = None
        self._live.remove(task)
        group = task.group
        if group is not None and not group.dead:
            self.touched.append((f"tasks of {group.name}", True))  # which one ends last
            if group.ended():
                self._cut(group)

    def kill(self, group: Group) -> None:
        """End every task of a process where it is; the kernel closes its channels.

        What they knew is gone with them: two states that differ in that alone are the same.  What
        they have left half done under a lock that they hold is part of the state.
        """
        if group.ended():
            return
        group.dead = True
        for task in group.tasks:
            self._end(task)
            task.history, task.kept = 0, ()
            task.kind, task.thing, task.deadline = "dead", None, None
            task.key = None
        for lock in self._locks():
            if lock.owner is not None and lock.owner.group is group:
                lock.look()
        self._cut(group)
        if self.current is not None and self.current.group is group:
            self._go_on(self._next())  # nothing of it runs any more, not even a ``finally``

    def _cut(self, group: Group) -> None:
        """Close the channels of a process that is no more."""
        for end in group.ends:
            end.cut()
        self.touched += [(thing.name, True) for thing in group.things]

    def _locks(self) -> list[XLock]:
        return [thing for thing in self.things if isinstance(thing, XLock)]

    # States and traces.

    def state_key(self) -> int:
        """Return a 64-bit digest of the whole state (a collision is as likely as n^2 / 2^65)."""
        return self._look(self._state_key)

    def _state_key(self) -> int:
        parts: list[object] = [self.time if self._clock is not None else 0, self._made]
        for task in self.tasks:
            if task.key is None:
                extra = None if task.extra is None else task.extra()
                what = None if task.thing is None else task.thing.name
                task.key = hash((task.done, task.history, task.kind, what, task.deadline, extra))
            parts.append(task.key)
        parts += [thing.key() for thing in self.things]
        return hash(tuple(parts))

    def knowledge(self) -> Knowledge:
        """Return all digests of what was learnt so far, for `recall`."""
        tasks = [(task.history, task.kept, task.opaque_calls) for task in self.tasks]
        return tasks, [lock.known() for lock in self._locks()]

    def recall(self, knowledge: Knowledge) -> None:
        """Go on with what was learnt in another execution of the schedule so far.

        Until then this one may go without digests (`stateful` is false), which cost more than all
        else.  Nothing that has one for later may keep it anywhere but in a task or a lock.
        """
        tasks, locks = knowledge
        mine = self._locks()
        if len(tasks) != len(self.tasks) or len(locks) != len(mine):
            raise InternalError("the same schedule has made other tasks or locks than before")
        self.stateful = True
        for task, (history, kept, opaque_calls) in zip(self.tasks, tasks, strict=True):
            task.history, task.kept, task.opaque_calls = history, kept, opaque_calls
            task.key = None
        for lock, known in zip(mine, locks, strict=True):
            lock.recall(known)

    def _record(self, line: str) -> None:
        if self.trace is not None and not self.settling:
            self.trace.append(line)

    def trace_hash(self) -> str:
        """Return a digest of the trace, the same in every process."""
        assert self.trace is not None
        return hashlib.blake2b("\n".join(self.trace).encode(), digest_size=8).hexdigest()
