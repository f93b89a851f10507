"""Tasks of the exploring runtime, and dependence between their pending operations."""

from __future__ import annotations

import marshal
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfsched.explore.objects import XEnd
from hfsched.explore.thing import Thing

__all__ = ["Group", "History", "Task", "Touched", "dependent", "touches"]

Touched = list[tuple[str, bool]]  # names of things, and whether the access is a write
# What a task has observed: a digest of the first part, the items after it, and what it has `kept`.
History = tuple[bytes, tuple[object, ...], tuple[bytes, ...]]
TAIL = 16  # items


class Group:
    """The tasks of one process; None stands for the first process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dead = False
        self.tasks: list[Task] = []
        self.ends: list[XEnd] = []  # closed by the kernel when the process ends
        self.things: list[Thing] = []  # both ends of every channel that it holds

    def ended(self) -> bool:
        """Return whether it has died, or all its tasks have ended."""
        return self.dead or all(task.done for task in self.tasks)


class Task:
    """A task: its greenlet, and its pending operation.

    `kind`, `thing` and `write` describe the operation (of a task that has not begun: "start"), `also`
    the other things that it reads; `condition` returns whether it is enabled, None for always;
    `deadline` is the time from which it is enabled in any case.  `history` and `tail` are everything
    that the task has observed and still depends on: `TAIL` items of the tail at a time are taken into the
    digest, so that equal observations are represented equally wherever they were digested.
    `act` makes it a pseudo-task: choosing it calls `act`, and no greenlet runs.
    """

    __slots__ = (
        "act",
        "also",
        "awaits",
        "clock",
        "condition",
        "deadline",
        "done",
        "entered",
        "extra",
        "glet",
        "group",
        "history",
        "index",
        "kept",
        "key",
        "kills",
        "kind",
        "name",
        "opaque_calls",
        "tail",
        "thing",
        "write",
    )

    def __init__(self, index: int, name: str, group: Group | None) -> None:
        self.index = index
        self.name = name
        self.group = group
        self.glet: Any = None
        self.done = False
        self.kind = "start"
        self.thing: Thing | None = None
        self.also: Sequence[Thing] = ()
        self.awaits: Sequence[Task] = ()  # tasks for whose end it waits
        self.write = False
        self.condition: Callable[[], bool] | None = None
        self.deadline: int | None = None
        self.entered = False  # it has taken a lock, and done nothing since
        self.history = b""
        self.tail: list[object] = []  # plain values: see `hfsched.explore.canonical.ATOMS`
        self.kept: tuple[bytes, ...] = ()  # for each loop level, a digest of its live values
        self.opaque_calls: tuple[
            History, ...
        ] = ()  # saved at the entry of each opaque call it is in
        self.act: Callable[[], None] | None = None
        self.kills: Group | None = None  # the process that this pseudo-task kills
        self.extra: Callable[[], object] | None = None  # more of its state, hashable
        self.key: bytes | None = None  # its part of the state's key; None: to be computed
        self.clock: dict[int, int] = {}  # vector clock, for the race detector

    def learn(self, item: object) -> None:
        """Add an observation, as a plain value, to the history."""
        tail = self.tail
        tail.append(item)
        if len(tail) == TAIL:
            self.history = blake2b(self.history + marshal.dumps(tail, 2), digest_size=16).digest()
            tail.clear()

    def remember(self) -> History:
        """Return what `recall` restores."""
        return self.history, tuple(self.tail), self.kept

    def recall(self, known: History) -> None:
        """Restore what it had observed."""
        self.history, tail, self.kept = known
        self.tail = list(tail)

    def retain(self, level: int, live: bytes) -> None:
        """Drop the history but for the live values of the loops around it, and of this one (a digest)."""
        self.kept = (*self.kept[:level], live)
        self.history, self.tail = b"", [self.kept]

    def enabled(self, now: int) -> bool:
        """Return whether the pending operation can be done."""
        return (
            self.condition is None
            or self.condition()
            or (self.deadline is not None and now >= self.deadline)
        )

    def describe(self) -> str:
        """Return "task: operation on thing"."""
        what = f" {self.thing.name}" if self.thing is not None else ""
        return f"{self.name}: {self.kind}{what}"


_WIDE = ("anything", "close", "checkpoint")


def _wide(task: Task) -> bool:
    """Return whether a pending operation is dependent on every other operation.

    A checkpoint may stand between any two accesses of plain data.  Closing an end of a channel touches both ends; a join with a deadline depends on any step that may
    be the last one of the joined task.
    """
    kind = task.kind
    return kind.startswith(_WIDE) or (kind == "join" and task.deadline is not None)


def touches(task: Task, things: Sequence[tuple[str, bool]]) -> bool:
    """Return whether a pending operation is dependent on accesses (name, write)."""
    if _wide(task):
        return True
    if task.kind == "clock":
        return any(name == "clock" for name, _ in things)
    if task.kills is not None:
        return any(name == each.name for each in task.kills.things for name, _ in things)
    if task.also and any(
        write and name == each.name for each in task.also for name, write in things
    ):
        return True
    thing = task.thing
    return thing is not None and any(
        name == thing.name and (write or task.write) for name, write in things
    )


def _ends(death: Task, other: Task) -> bool:
    """Return whether `death` ends the task of the operation `other`, or closes what that reads."""
    group = death.kills
    if group is None:
        return False
    things = group.things
    if other.kind == "clock":  # the next deadline may be that of a task of the process
        return any(task.deadline is not None for task in group.tasks)
    if other.group is group or other.thing in things:
        return True
    return any(each in things for each in other.also)


def dependent(one: Task, two: Task) -> bool:
    """Return whether two pending operations are dependent: whether their order can matter.

    Time counts as a thing: the clock's step is dependent on every operation with a deadline.
    """
    if _wide(one) or _wide(two):
        return True
    if one.kills is not None or two.kills is not None:
        return _ends(one, two) or _ends(two, one)
    if one.kind == "clock" or two.kind == "clock":
        return (
            one.kind == two.kind
            or one.deadline is not None
            or two.deadline is not None
            or ("now" in (one.kind, two.kind))
        )
    if (two.write and two.thing in one.also) or (one.write and one.thing in two.also):
        return True
    return one.thing is not None and one.thing is two.thing and (one.write or two.write)
