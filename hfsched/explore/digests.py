"""Digests of states and of tasks' observations, for searches that compare states; of traces too."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.explore.objects import LockDigests
from hfsched.explore.task import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.explore.tasktable import TaskTable

__all__ = ["Knowledge", "knowledge", "recall", "state_key", "trace_hash"]

# By task: its history, and those saved at the opaque calls that it is in; by lock.
Knowledge = tuple[list[tuple[int, tuple[int, ...], tuple[History, ...]]], list[LockDigests]]


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
    """Return the digests of what the tasks have observed so far, for `recall`."""
    tasks = [(task.history, task.kept, task.opaque_calls) for task in table.tasks]
    return tasks, [lock.known() for lock in table.locks()]


def recall(table: TaskTable, known: Knowledge) -> None:
    """Restore digests taken in another execution of the same schedule prefix.

    Up to there an execution may run without digests, which are its largest cost.  A digest that is
    needed later may be kept only in a task or in a lock.
    """
    tasks, locks = known
    mine = table.locks()
    if len(tasks) != len(table.tasks) or len(locks) != len(mine):
        raise InternalError("the same schedule has created other tasks or locks than before")
    for task, (history, kept, opaque_calls) in zip(table.tasks, tasks, strict=True):
        task.history, task.kept, task.opaque_calls = history, kept, opaque_calls
        task.key = None
    for lock, seen in zip(mine, locks, strict=True):
        lock.recall(seen)


def trace_hash(trace: Sequence[str]) -> str:
    """Return a 64-bit digest of a trace in hex, the same in every process."""
    return hashlib.blake2b("\n".join(trace).encode(), digest_size=8).hexdigest()
