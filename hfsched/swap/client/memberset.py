"""The processes beside main that have guest memory mapped, and their part in a suspendable.

They stand still after the guests do, and go on before them.  Who they are changes only while the
machine stands still, so that each suspension ends for those for whom it began, and a new process
touches nothing before its first end.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.suspension import Suspendable

if TYPE_CHECKING:
    from hfsched.swap.client.childmember import ChildMember

__all__ = ["MemberSet"]

_MAIN = 0  # main's number as a member


class MemberSet:
    """A `Suspendable` of `machine` and of the processes."""

    def __init__(self, machine: Suspendable) -> None:
        self._machine = machine
        self._processes: tuple[ChildMember, ...] = ()

    def suspend(self, deadline: int | None = None) -> None:
        """See `Suspendable`; raises SwapError for a process that does not stand still."""
        self._machine.suspend(deadline)
        try:
            for process in self._processes:
                process.suspend(deadline)
        except BaseException:
            self.resume()
            raise

    def resume(self) -> None:
        """See `Suspendable`; nothing is waited for."""
        with ExitStack() as stack:
            stack.callback(self._machine.resume)
            for process in self._processes:
                stack.callback(process.resume)

    def dead(self) -> Collection[ChildMember]:
        """Return those that have ended and may."""
        return [process for process in self._processes if process.dynamic and process.dead]

    # While all are suspended.

    def free_number(self) -> int:
        """Return a number that no member has."""
        taken = {_MAIN, *(process.number for process in self._processes)}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def add(self, process: ChildMember) -> None:
        """Have one more; it goes on with the others."""
        self._processes = (*self._processes, process)

    def remove(self, gone: Collection[ChildMember]) -> None:
        """Let go of some."""
        self._processes = tuple(each for each in self._processes if each not in gone)
        for process in gone:
            process.close()

    # When guests have stopped for ever.

    def suspend_processes(self, deadline: int | None = None) -> None:
        """Have those stand still that can."""
        for process in self._processes:
            with suppress(SwapError):
                process.suspend(deadline)

    def close(self) -> None:
        """Let go of all."""
        self.remove(self._processes)
