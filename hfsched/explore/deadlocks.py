"""Deadlocks: waits that cannot end, whatever the other tasks do.

A task that waits for a lock waits for the task that holds it; one that joins a task, or a process, waits
for its end.  Such waits are a deadlock

- where they form a cycle, as soon as it closes: a lock that its own holder takes again is the smallest;
- where no task is enabled any more, and one waits for a lock: no holder is ever to wait for good.

A task that waits for an event, a message or a connection may be a server, which has nothing to do at the
end: only the scenario's `check` knows.  Nor is a process that dies with a lock a mistake of the code.  A task with a deadline waits no longer than that.  But where no
task has come to its end, and the scenario has no `check`, nobody knows, and all that wait are one too: a
scenario in which that is meant says so by `World(idle=True)`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hfsched.explore.misuse import DeadlockError
from hfsched.explore.places import caller, place_of_frame, text_of

if TYPE_CHECKING:
    from hfsched.explore.lock import XLock
    from hfsched.explore.scenario import World
    from hfsched.explore.task import Task

__all__ = ["find_cycle", "raise_deadlock"]


def _awaited(task: Task) -> Iterable[Task]:
    """Return the tasks whose steps alone can end the wait of `task`; none: it may end otherwise."""
    if task.deadline is not None or task.done:
        return ()
    if task.kind == "lock":
        lock: XLock = task.thing  # type: ignore[assignment]  # whose operation this is
        return () if lock.owner is None else (lock.owner,)
    return [each for each in task.awaits if not each.done]


def find_cycle(start: Task) -> DeadlockError | None:
    """Return the deadlock that the wait of `start`, which begins, closes; None: it closes none."""
    path = [start]
    while True:
        awaited = list(_awaited(path[-1]))
        if len(awaited) != 1:  # of several tasks of a process, each may still end
            return None
        if awaited[0] in path:
            return DeadlockError("deadlock: " + _told(path[path.index(awaited[0]) :], start))
        path.append(awaited[0])


def stuck(tasks: Sequence[Task]) -> DeadlockError | None:
    """Return the deadlock at an end, where no task is enabled; None: no task waits for a lock."""
    for task in tasks:
        if task.kind == "lock" and not task.done and task.deadline is None:
            path = [task]
            while len(awaited := list(_awaited(path[-1]))) == 1 and awaited[0] not in path:
                path.append(awaited[0])
            last = path[-1]  # with a deadline, it would go on if time passed
            died = last.group is not None and last.group.dead
            if last.deadline is None and not died:
                return DeadlockError("deadlock: " + _told(path, None))
    return None


def raise_deadlock(tasks: Sequence[Task], world: World) -> None:
    """Raise the deadlock that an end is, if it is one: see the module's docstring."""
    deadlock = stuck(tasks)
    if deadlock is None and not world.has_check and not world.idle:
        deadlock = all_wait(tasks)
    if deadlock is not None:
        raise deadlock


def all_wait(tasks: Sequence[Task]) -> DeadlockError | None:
    """Return the deadlock of an end at which no task has ended, and every one waits; None: there is none."""
    real = [task for task in tasks if task.act is None]
    if not real or any(task.done or task.deadline is not None for task in real):
        return None
    waits = "; ".join(f"{task.name} {_wait(task, None)}" for task in real)
    return DeadlockError(
        f"deadlock: every task waits: {waits} (the scenario has no check; if that is meant: World(idle=True))"
    )


def _told(path: Sequence[Task], running: Task | None) -> str:
    """Return who holds what, waits for what, and where."""
    parts = []
    for at, task in enumerate(path):
        holder = path[at - 1]
        held = holder.thing if holder.kind == "lock" else None
        lock: XLock | None = held if getattr(held, "owner", None) is task else None  # type: ignore[assignment]
        holds = "" if lock is None else f"holds {lock.place}{text_of(lock.taken)} and "
        parts.append(f"{task.name} {holds}{_wait(task, running)}")
    return "; ".join(parts)


def _wait(task: Task, running: Task | None) -> str:
    if task.done:
        return "has ended"
    where = caller() if task is running else _place_of(task)
    what = f" {task.thing.place}" if task.thing is not None else ""
    if task.awaits:
        what = " " + ", ".join(each.name for each in task.awaits)
    elif task.also:
        what = " " + ", ".join(thing.place for thing in task.also)
    verb = {"lock": "waits for", "join": "joins", "anything": "joins"}.get(
        task.kind, f"waits in {task.kind} of"
    )
    return f"{verb}{what}{text_of(where)}"


def _place_of(task: Task) -> tuple | None:  # type: ignore[type-arg]
    frame = getattr(task.glet, "gr_frame", None)
    return place_of_frame(frame)
