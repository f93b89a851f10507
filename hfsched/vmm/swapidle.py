"""The policy `--swap-idle`: a machine whose guests are idle is swapped out.

When every vCPU of the machine has been idle for the given time, all memory is staged and moved out.
A message then brings back the pages that it touches; when the guests have been idle again for that
long, those go out too.  Each idle period is used once: pages that a user swaps in by command stay
until a guest has run again, and so do pages that a user has staged by command.

One task checks whether it is time.  It sleeps until the earliest time possible, so it checks at most
once in the given time, however many messages come.  A vCPU that goes to sleep records when; one that
waits inside RUN (WFI on arm64 under KVM) does not, and counts as idle from the check that finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from hfsched.scheduler.suspension import SuspendError
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.protocol.messages import State, Status

if TYPE_CHECKING:
    from hfsched.runtime.base import Cell, Runtime, Task

__all__ = ["IdleTimer", "SwapIdle", "Swappable"]


class Swappable(Protocol):
    """What the policy needs of `hfsched.vmm.swapping.MachineSwap`; each may raise SwapError."""

    def enable(self, deadline: int | None = None) -> int:
        """Stage all memory; may raise SuspendError."""

    def swap_out(self, deadline: int | None = None) -> None:
        """Begin to move staged pages out."""

    def status(self, deadline: int | None = None) -> Status:
        """Return the status."""


class IdleTimer:
    """Computes when a machine has been idle for `after` ns.  Pure: the caller passes the time."""

    def __init__(self, after: int, now: int) -> None:
        self._after = after
        self._updated = now
        self._since = now  # since when it has been idle, if it is
        self._seen: int | None = None
        self._used: int | None = None

    def update(self, now: int, rested: int, runs: int | None) -> int | None:
        """Return when to check again (ns); None: the machine has been idle for long enough.

        `rested`: when a vCPU went to sleep last (ns).  `runs`: a number that changes with each RUN,
        None while a vCPU is inside one.
        """
        if runs is None:
            self._since = now
        elif runs != self._seen:
            self._since = rested if rested > self._updated else now
        self._seen = runs
        self._updated = now
        if runs == self._used:
            return now + self._after
        end = self._since + self._after
        return end if now < end else None

    def mark_used(self) -> None:
        """Mark this idle period as used."""
        self._used = self._seen

    def retry_at(self) -> int:
        """Return when to check again after an idle period that could not be used."""
        return self._updated + self._after


class SwapIdle:
    """See the module's text.  `runs` is as `IdleTimer.update` has it; `after` is in ns.

    `start` it once the guests run, `end` it before they are stopped, `close` it before swap.
    """

    def __init__(
        self, runtime: Runtime, swap: Swappable, runs: Callable[[], int | None], after: int
    ) -> None:
        self._runtime = runtime
        self._swap = swap
        self._runs = runs
        self._after = after
        self._rested: Cell[int] = runtime.cell("swap.rested", 0)
        self._ending = runtime.event("swap.idle.end")
        self._task: Task | None = None
        self._left = False  # the last idle period passed with pages staged by a user

    def start(self) -> None:
        """Start the task."""
        self._task = self._runtime.spawn("swap.idle", self._run)

    def note_rest(self) -> None:
        """Record that a vCPU goes to sleep; on its thread."""
        self._rested.set(self._runtime.now())

    def end(self) -> None:
        """Begin no further move."""
        self._ending.set()

    def close(self) -> None:
        """End, and wait for a move that is under way; each step of it has a deadline."""
        self.end()
        if self._task is not None:
            self._task.join()
        self._ending.close()

    def _run(self) -> None:
        watch = IdleTimer(self._after, self._runtime.now())
        deadline: int | None = watch.retry_at()
        while not self._ending.wait(deadline):
            rested = self._rested.get()
            runs = self._runs()
            deadline = watch.update(self._runtime.now(), rested, runs)
            if deadline is not None:
                continue
            try:
                self._move(watch)
            except LostError:
                return  # the run ends
            except (SwapError, SuspendError):
                pass  # `hfsched swap status` reports the cause
            deadline = watch.retry_at()

    def _move(self, watch: IdleTimer) -> None:
        """Move all memory out, unless a user's command is in effect."""
        status = self._swap.status()
        if status.state not in (State.READY, State.PENDING, State.ACTIVE):
            return  # a move is under way: try later
        watch.mark_used()
        # With an error it is PENDING because a move was aborted.
        staged = status.state is State.PENDING and not status.error
        self._left = staged and not self._left
        if not self._left:
            self._swap.enable()
            self._swap.swap_out()
