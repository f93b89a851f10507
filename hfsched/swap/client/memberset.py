"""The set of processes beside main that map guest memory, suspended together with the machine.

They are suspended after the guests, and resumed before them.  The set changes only while the
machine is suspended: so each suspension resumes exactly the processes that it suspended, and a new
process accesses nothing before the first resume.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.rundown import Rundown

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.swap.client.childmember import ChildMember

__all__ = ["MemberSet"]

_MAIN = 0  # main's number as a member


class MemberSet:
    """The processes; `suspend` and `resume` are a step of the machine's suspension.

    Whoever asks them something, or looks at them, does it between `in_use.enter` and `leave`: when swap is closed their
    channels and descriptors are.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._processes: tuple[ChildMember, ...] = ()
        self.in_use = Rundown(runtime, "members", "swap is being closed")

    def suspend(self, deadline: int | None = None) -> bool:
        """Suspend all, unless swap is being closed: who closes it does; raises SwapError for a process that does not in time."""
        if self.in_use.enter():
            try:
                for process in self._processes:
                    process.suspend(deadline)
            finally:
                self.in_use.leave()
        return True

    def resume(self) -> None:
        """Resume all, each whatever another raises, unless swap is being closed; does not wait."""
        if self.in_use.enter():
            with ExitStack() as stack:
                stack.callback(self.in_use.leave)
                for process in self._processes:
                    stack.callback(process.resume)

    @property
    def processes(self) -> Sequence[ChildMember]:
        """All of them, also those that have died and are not removed yet."""
        return self._processes

    def dead(self) -> Collection[ChildMember]:
        """Return the dynamic processes that have died."""
        return [process for process in self._processes if process.dynamic and process.dead]

    # Only while all are suspended.

    def free_number(self) -> int:
        """Return a member number that is not in use."""
        taken = {_MAIN, *(process.number for process in self._processes)}
        return next(number for number in range(len(taken) + 1) if number not in taken)

    def add(self, process: ChildMember) -> None:
        """Add a process; it is resumed with the others."""
        self._processes = (*self._processes, process)

    def remove(self, gone: Collection[ChildMember]) -> None:
        """Remove and close processes."""
        self._processes = tuple(each for each in self._processes if each not in gone)
        for process in gone:
            process.close()

    # When the guests have ended, and nobody uses them.

    def suspend_processes(self, deadline: int | None = None) -> None:
        """Suspend the processes, except those that fail to."""
        for process in self._processes:
            with suppress(SwapError):
                process.suspend(deadline)

    def leave(self) -> None:
        """Close the channels to all, and no descriptor that a monitor may be given yet."""
        for process in self._processes:
            process.leave()

    def close(self) -> None:
        """Remove and close all; `in_use` has ended."""
        self.remove(self._processes)
        self.in_use.close()
