"""The tasks, processes and things of one execution: which exist, are enabled, or have ended.

Plain state.  The controller decides which task runs; a method that ends tasks returns the accesses
that this implies, as {name, write}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.explore.canonical import digest
from hfsched.explore.lock import XLock
from hfsched.explore.task import Group, Task
from hfsched.explore.thing import Thing

if TYPE_CHECKING:
    from hfsched.explore.task import Touched

__all__ = ["TaskTable"]

CREATIONS = 16  # that go into the digest at a time


class TaskTable:
    """All tasks in order of creation; a task's index is its position."""

    def __init__(self) -> None:
        self.tasks: list[Task] = []
        self.things: list[Thing] = []
        self._created = b""  # a digest: which task created which tasks and things,
        self._creations: list[tuple[int, str]] = []  # and those that it does not have yet
        self._live: list[Task] = []  # those that have not ended, without the clock

    def new(self, name: str, group: Group | None, maker: Task | None) -> Task:
        """Make a task of a process (None: of the first one)."""
        task = Task(len(self.tasks), name, group)
        if group is not None:
            group.tasks.append(task)
        self.tasks.append(task)
        self._live.append(task)
        self.note_created(name, maker)
        return task

    def new_pseudo(
        self, name: str, kind: str, act: Callable[[], None], maker: Task | None, *, live: bool
    ) -> Task:
        """Make a pseudo-task; choosing it calls `act`.  One that is not `live` is never enabled."""
        task = Task(len(self.tasks), name, None)
        task.kind, task.write, task.act = kind, True, act
        self.tasks.append(task)
        if live:
            self._live.append(task)
        self.note_created(name, maker)
        return task

    def note_created(self, name: str, maker: Task | None) -> None:
        """Record that a task (None: the scenario) has created, or closed, an object of this name.

        States identify tasks and things by their position in the order of creation, so that order is
        part of the state.
        """
        self._creations.append((-1 if maker is None else maker.index, name))

    def created(self) -> tuple[bytes, list[tuple[int, str]]]:
        """Return all that `note_created` has recorded: a digest, and the last ones."""
        while len(self._creations) >= CREATIONS:
            self._created = digest((self._created, self._creations[:CREATIONS]), "creations")
            del self._creations[:CREATIONS]
        return self._created, self._creations

    def enabled(self, now: int) -> list[Task]:
        """Return the tasks whose pending operation is enabled at time `now`, without the clock."""
        return [
            task
            for task in self._live
            if (condition := task.condition) is None
            or condition()
            or ((deadline := task.deadline) is not None and now >= deadline)
        ]

    def next_deadline(self, now: int) -> int | None:
        """Return the first deadline after `now`, None without one."""
        times = [
            task.deadline
            for task in self._live
            if task.deadline is not None and task.deadline > now
        ]
        return min(times, default=None)

    def locks(self) -> list[XLock]:
        """Return all locks."""
        return [thing for thing in self.things if isinstance(thing, XLock)]

    def end(self, task: Task) -> Touched:
        """Record the end of a task; the last one of a process closes its channels."""
        if task.done:
            return []
        task.done = True
        task.key = None
        self._live.remove(task)
        group = task.group
        if group is None or group.dead:
            return []
        touched = [(f"tasks of {group.name}", True)]  # which one ends last
        if group.ended():
            touched += self._close_channels(group)
        return touched

    def kill(self, group: Group) -> Touched:
        """End every task of a process where it is; the kernel closes its channels.

        The tasks' histories are dropped: states that differ in those alone are equal.  Incomplete
        changes under a lock that such a task holds are part of the state.
        """
        group.dead = True
        touched: Touched = []
        for task in group.tasks:
            touched += self.end(task)
            task.recall((b"", (), ()))
            task.kind, task.thing, task.deadline = "dead", None, None
            task.key = None
        for lock in self.locks():
            if lock.owner is not None and lock.owner.group is group:
                lock.note_state()
        return touched + self._close_channels(group)

    @staticmethod
    def _close_channels(group: Group) -> Touched:
        for end in group.ends:
            end.close_silently()
        return [(thing.name, True) for thing in group.things]
