"""Livelocks: schedules that come back to a state they have been in, and are fair all the way round.

A cycle is fair when every task that could go on at all of its points did go on at one of them.  An
unfair one is no fault of the code: its scheduler starves somebody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["Cycles", "LivelockError", "fair"]


class LivelockError(Exception):
    """A fair cycle: tasks run for ever, and nothing comes of it."""


def fair(enabled: Sequence[frozenset[int]], ran: Sequence[int]) -> bool:
    """Tell whether a cycle is fair: who could go on at its points with a choice, and who ran."""
    # Where one task alone could go on, and there was no choice, nobody else could all the way.
    return len(ran) > len(enabled) or frozenset[int].intersection(*enabled) <= set(ran)


class Cycles:
    """Looks for fair cycles in one execution; ask `check` at each point.

    It needs states (`Strategy.stateful`) and every point (`Strategy.every_point`).
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[int, int]] = {}  # state -> {points with a choice, steps} before
        self._enabled: list[frozenset[int]] = []
        self._ran: list[int] = []

    def check(self, view: View, enabled: list[Task]) -> None:
        """Look whether this state closes a fair cycle: then raises `LivelockError`."""
        if len(enabled) == 1:
            return
        key = view.state_key()
        start = self._seen.setdefault(key, (len(self._enabled), len(self._ran)))
        if start[1] < len(self._ran):
            ran = self._ran[start[1] :]
            if fair(self._enabled[start[0] :], ran):
                raise LivelockError(livelock_text(view, ran))
        self._enabled.append(frozenset(task.index for task in enabled))

    def note_ran(self, task: Task) -> None:
        """Note who was chosen."""
        self._ran.append(task.index)

    def least_recently_run(self, enabled: list[Task]) -> Task:
        """Return the task that has not run for the longest time."""
        last = {index: at for at, index in enumerate(self._ran)}
        return min(enabled, key=lambda task: last.get(task.index, -1))


def livelock_text(view: View, ran: Sequence[int]) -> str:
    """Return what a livelock's message says of the tasks that go round."""
    names = ", ".join(view.tasks[index].name for index in sorted(set(ran)))
    return f"a livelock: {names} come back to where they were, and nobody else can go on"
