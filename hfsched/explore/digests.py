"""Digests of states, and of what tasks have learnt: what a search that compares states asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.explore.objects import Known
from hfsched.explore.task import Learnt

if TYPE_CHECKING:
    from hfsched.explore.tasktable import TaskTable

__all__ = ["Knowledge", "knowledge", "recall", "state_key"]

# By task: what it has learnt, and what it knew before the opaque calls that it is in; by lock.
Knowledge = tuple[list[tuple[int, tuple[int, ...], tuple[Learnt, ...]]], list[Known]]


def state_key(table: TaskTable, time: int) -> int:
    """Return a 64-bit digest of the whole state (a collision is as likely as n^2 / 2^65)."""
    parts: list[object] = [time, table.created]
    for task in table.tasks:
        if task.key is None:
            extra = None if task.extra is None else task.extra()
            what = None if task.thing is None else task.thing.name
            task.key = hash((task.done, task.history, task.kind, what, task.deadline, extra))
        parts.append(task.key)
    parts += [thing.key() for thing in table.things]
    return hash(tuple(parts))


def knowledge(table: TaskTable) -> Knowledge:
    """Return all digests of what was learnt so far, for `recall`."""
    tasks = [(task.history, task.kept, task.opaque_calls) for task in table.tasks]
    return tasks, [lock.known() for lock in table.locks()]


def recall(table: TaskTable, known: Knowledge) -> None:
    """Put back what was learnt in another execution of the schedule so far.

    Until then an execution may go without digests, which cost more than all else.  A digest that is
    needed later may be kept in a task or in a lock, and nowhere else.
    """
    tasks, locks = known
    mine = table.locks()
    if len(tasks) != len(table.tasks) or len(locks) != len(mine):
        raise InternalError("the same schedule has made other tasks or locks than before")
    for task, (history, kept, opaque_calls) in zip(table.tasks, tasks, strict=True):
        task.history, task.kept, task.opaque_calls = history, kept, opaque_calls
        task.key = None
    for lock, seen in zip(mine, locks, strict=True):
        lock.recall(seen)
