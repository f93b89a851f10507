"""Digests of states and of tasks' observations, for searches that compare states; of traces too."""

from __future__ import annotations

import hashlib
import marshal
from typing import TYPE_CHECKING

from hfsched.errors import IncomparableError
from hfsched.explore.canonical import FORMAT, SIZE, NoCanonicalFormError, encode
from hfsched.explore.lock import LockDigests
from hfsched.explore.schedule import NondeterminismError
from hfsched.explore.task import History

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.explore.task import Task
    from hfsched.explore.tasktable import TaskTable

__all__ = ["Knowledge", "knowledge", "recall", "state_key", "trace_hash"]

# By task: its history, and those saved at the opaque calls that it is in; by lock.
Knowledge = tuple[list[tuple[History, tuple[History, ...]]], list[LockDigests]]


def state_key(table: TaskTable, time: int) -> bytes:
    """Return a 128-bit digest of the whole state (a collision is as likely as n^2 / 2^129).

    Raises NoCanonicalFormError.
    """
    parts: list[object] = [time, table.created()]
    parts += [task.key or _task_key(task) for task in table.tasks]
    parts += [thing.plain_key() for thing in table.things]
    return hashlib.blake2b(marshal.dumps(parts, FORMAT), digest_size=SIZE).digest()


def _task_key(task: Task) -> bytes:
    extra = None
    if task.extra is not None:
        place = f"what {task.name} has attached"
        try:
            attached = task.extra()
        except IncomparableError as exc:
            raise NoCanonicalFormError(f"{place}: {exc}") from exc
        extra = encode(attached, place)
    what = None if task.thing is None else task.thing.name
    state = (task.done, task.history, task.tail, task.kind, what, task.deadline, extra)
    task.key = hashlib.blake2b(marshal.dumps(state, FORMAT), digest_size=SIZE).digest()
    return task.key


def knowledge(table: TaskTable) -> Knowledge:
    """Return the digests of what the tasks have observed so far, for `recall`."""
    tasks = [(task.remember(), task.opaque_calls) for task in table.tasks]
    return tasks, [lock.known() for lock in table.locks()]


def recall(table: TaskTable, known: Knowledge) -> None:
    """Restore digests taken in another execution of the same schedule prefix.

    Up to there an execution may run without digests, which are its largest cost.  A digest that is
    needed later may be kept only in a task or in a lock.
    """
    tasks, locks = known
    mine = table.locks()
    if len(tasks) != len(table.tasks) or len(locks) != len(mine):
        raise NondeterminismError("the same schedule has created other tasks or locks than before")
    for task, (history, opaque_calls) in zip(table.tasks, tasks, strict=True):
        task.recall(history)
        task.opaque_calls = opaque_calls
        task.key = None
    for lock, seen in zip(mine, locks, strict=True):
        lock.recall(seen)


def trace_hash(trace: Sequence[str]) -> str:
    """Return a 64-bit digest of a trace in hex, the same in every process."""
    return hashlib.blake2b("\n".join(trace).encode(), digest_size=8).hexdigest()
