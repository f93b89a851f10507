"""Livelocks: fair cycles, by which a schedule returns to an earlier state.

A cycle is fair when every task that is enabled at all of its points runs at one of them, and so does every task that
waits for a lock which is free at some of them: a lock that is let go of again and again is got at last.  An unfair
cycle is no fault of the code under test: its scheduler starves a task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["Cycles", "LivelockError", "fair"]


class LivelockError(Exception):
    """A fair cycle: tasks run endlessly without progress."""


def fair(enabled: Sequence[frozenset[int]], ran: Sequence[int], view: View) -> bool:
    """Return whether a cycle, at whose end `view` is, is fair.

    `enabled` are the tasks enabled at each of its points with a choice, `ran` the task of each step.
    """
    moved = set(ran)
    # A task that did not run has waited for the same lock all along.
    if any(view.tasks[index].kind == "lock" for index in frozenset[int]().union(*enabled) - moved):
        return False
    # At a point without a choice only one task is enabled: no other is enabled at all points.
    return len(ran) > len(enabled) or frozenset[int].intersection(*enabled) <= moved


class Cycles:
    """Detects fair cycles in one execution; call `check` at each point, then `note_ran`.

    It needs states (`Strategy.stateful`) and every point (`Strategy.every_point`).
    """

    def __init__(self) -> None:
        self._seen: dict[
            bytes, tuple[int, int]
        ] = {}  # state -> {points with a choice, steps} before
        self._enabled: list[frozenset[int]] = []
        self._ran: list[int] = []

    def check(self, view: View, enabled: list[Task]) -> None:
        """Raise `LivelockError` if this state closes a fair cycle."""
        if len(enabled) == 1:
            return
        key = view.state_key()
        start = self._seen.setdefault(key, (len(self._enabled), len(self._ran)))
        if start[1] < len(self._ran):
            ran = self._ran[start[1] :]
            if fair(self._enabled[start[0] :], ran, view):
                raise LivelockError(livelock_text(view, ran))
        self._enabled.append(frozenset(task.index for task in enabled))

    def note_ran(self, task: Task) -> None:
        """Record the chosen task."""
        self._ran.append(task.index)

    def least_recently_run(self, enabled: list[Task]) -> Task:
        """Return the task that has not run for the longest time."""
        last = {index: at for at, index in enumerate(self._ran)}
        return min(enabled, key=lambda task: last.get(task.index, -1))


def livelock_text(view: View, ran: Sequence[int]) -> str:
    """Return a livelock's message, which names the tasks of the cycle."""
    names = ", ".join(view.tasks[index].name for index in sorted(set(ran)))
    return f"livelock: {names} return to an earlier state, and no other task stays enabled"
