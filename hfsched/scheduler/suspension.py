"""The suspend suspension: a machine brought to a standstill in a fixed order, and back in reverse.

What stands still: no message is on its way into a mailbox, no vCPU is in RUN, no guest's clock goes on.
Whoever wants to look at a machine or change it beneath its guests (swap, snapshots) does it in
between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.errors import HfschedError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["THROTTLE_MAX", "Step", "SuspendError", "SuspendThrottle", "Suspension"]

THROTTLE_MAX = 100_000_000  # ns


class SuspendError(HfschedError):
    """The machine could not be suspended; it runs as before.  The text says which step it was."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to stop: `pause(deadline)` tells whether that came in time, `resume` undoes it.

    `resume` is called also after a `pause` that failed.
    """

    name: str
    pause: Callable[[int | None], bool]
    resume: Callable[[], None]


class SuspendThrottle:
    """A first step that stops nothing: between two suspensions the machine runs as long as it stood.

    Otherwise who suspends again and again would leave the guests no time at all.  After a
    long suspension `THROTTLE_MAX` is enough.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._begun = 0
        self._until = 0
        self.step = Step("the machine's share of time", self._pause, self._resume)

    def _pause(self, deadline: int | None) -> bool:
        until = self._until if deadline is None else min(self._until, deadline)
        if self._runtime.now() < until:
            self._runtime.sleep_until(until)
        self._begun = self._runtime.now()
        return True

    def _resume(self) -> None:
        now = self._runtime.now()
        self._until = now + min(now - self._begun, THROTTLE_MAX)


class Suspension:
    """Suspends by `steps`, in their order.  One suspension at a time; others wait for its end."""

    def __init__(self, runtime: Runtime, steps: Sequence[Step]) -> None:
        self._runtime = runtime
        self._steps = tuple(steps)
        self._lock = runtime.lock("suspension", state=lambda: self._taken)
        self._taken = False
        self._free = runtime.event("suspension.free")

    def suspend(self, deadline: int | None = None) -> None:
        """Stop everything, by the deadline; else raise SuspendError, with nothing left stopped."""
        self._acquire(deadline)
        done: list[Step] = []
        try:
            for step in self._steps:
                done.append(step)
                if not step.pause(deadline):
                    raise SuspendError(f"suspend: {step.name} did not stop in time")
        except BaseException:
            self._undo(done)
            raise

    def resume(self) -> None:
        """Let everything go on."""
        self._undo(list(self._steps))

    @contextmanager
    def held(self, deadline: int | None = None) -> Iterator[None]:
        """Keep the machine suspended for a ``with``."""
        self.suspend(deadline)
        try:
            yield
        finally:
            self.resume()

    def _acquire(self, deadline: int | None) -> None:
        while True:
            with self._lock:
                if not self._taken:
                    self._taken = True
                    self._free.clear()
                    return
            self._runtime.retain_only(level=1)
            if not self._free.wait(deadline):
                raise SuspendError("suspend: another suspension did not end in time")

    def _undo(self, done: list[Step]) -> None:
        """Undo steps in reverse, all of them whatever one raises, and let others suspend."""
        with ExitStack() as stack:
            stack.callback(self._release)
            for step in done:
                stack.callback(step.resume)

    def _release(self) -> None:
        with self._lock:
            self._taken = False
            self._free.set()
