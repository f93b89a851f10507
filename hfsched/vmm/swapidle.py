"""The policy `--swap-idle`: a machine whose guests only wait is swapped out.

When every vCPU of the machine has rested for the time given, all memory is staged and moved out.  A
message then brings back what it touches; when the guests rest again for that long, that goes out
too.  An idle time is used once: what somebody brings back by hand meanwhile stays, until a
guest has run again; and so does what somebody has staged by hand, to move it in steps.

One task looks whether it is time.  It sleeps until it can be, so it looks at most once in the time
given, however many messages come.  A vCPU that goes to sleep leaves a note of when that was; one
that waits inside RUN (WFI on arm64 under KVM) leaves none, and counts from the look that finds it.
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
    """What the policy wants of `hfsched.vmm.swapping.MachineSwap`; all may raise SwapError."""

    def enable(self, deadline: int | None = None) -> int:
        """Stage all memory; may raise SuspendError."""

    def swap_out(self, deadline: int | None = None) -> None:
        """Begin to move it out."""

    def status(self, deadline: int | None = None) -> Status:
        """Say how things are."""


class IdleTimer:
    """Tells when a machine has been idle for `after` ns.  Plain; who uses it says what time it is."""

    def __init__(self, after: int, now: int) -> None:
        self._after = after
        self._updated = now
        self._since = now  # it has been idle, if it is
        self._seen: int | None = None
        self._used: int | None = None

    def update(self, now: int, rested: int, runs: int | None) -> int | None:
        """Return until when (ns) nothing can be due; None: it is time.

        `rested`: when a vCPU went to sleep last.  `runs`: a number that changes with whatever runs,
        None while something does.
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
        """Note that this idle time has had its effect."""
        self._used = self._seen

    def retry_at(self) -> int:
        """Return when to look again at a time that could not be used."""
        return self._updated + self._after


class SwapIdle:
    """See the module's text.  `runs` is as `IdleTimer.update` has it; `after` is in ns.

    `start` it once the guests run, `end` it before they are stopped, `close` it before the swap.
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
        self._left = False  # the last idle time went by with pages staged by somebody else

    def start(self) -> None:
        """Begin to watch."""
        self._task = self._runtime.spawn("swap.idle", self._run)

    def note_rest(self) -> None:
        """Note that a vCPU goes to sleep; on its thread."""
        self._rested.set(self._runtime.now())

    def end(self) -> None:
        """Let nothing more begin."""
        self._ending.set()

    def close(self) -> None:
        """End, and wait for what is under way; each step of it has a deadline."""
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
                pass  # `status` says what is wrong with the machine's swap
            deadline = watch.retry_at()

    def _move(self, watch: IdleTimer) -> None:
        """Move all memory out, unless somebody is at it by hand."""
        status = self._swap.status()
        if status.state not in (State.READY, State.PENDING, State.ACTIVE):
            return  # later: a move is under way
        watch.mark_used()
        # An error says that it was a move that ended before its time.
        staged = status.state is State.PENDING and not status.error
        self._left = staged and not self._left
        if not self._left:
            self._swap.enable()
            self._swap.swap_out()
