"""Suspension: a machine is paused by steps in a fixed order, for holders by name, and resumed in reverse.

While it is suspended, no message is on its way into a mailbox, no vCPU executes in RUN, and no guest's clock
runs.  What looks at a machine or changes it beneath its guests (swap, a snapshot, a debugger) holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from enum import Enum
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.errors import HfschedError, InternalError
from hfsched.runtime.declared import uncompared
from hfsched.scheduler.waiters import Waiters

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["THROTTLE_MAX", "Holder", "Step", "SuspendError", "SuspendThrottle", "Suspension"]

THROTTLE_MAX = 100_000_000  # ns


class SuspendError(HfschedError):
    """The machine could not be suspended; the text names the step or the holder that was in the way."""


class Step(Struct, frozen=True):
    """One thing to pause: `pause(deadline)` returns whether that was in time, `resume` undoes it.

    `resume` is called also after a `pause` that failed.
    """

    name: str
    pause: Callable[[int | None], bool]
    resume: Callable[[], None]


class SuspendThrottle:
    """A first step that pauses nothing: between two suspensions the machine runs as long as it was paused.

    Otherwise a caller that suspends again and again would leave the guests no time at all.  After a
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


class _Phase(Enum):
    RUNNING = "running"
    CHANGING = "changing"  # steps are being taken, or undone
    SUSPENDED = "suspended"


@uncompared(
    _taken="only the task that changes the phase uses it, and between its steps it has no lock"
)
class Suspension:
    """Suspends by steps, in their order; the machine runs when no holder is left.

    `on_hold(holder, held)` is called, on its task, when a holder has suspended the machine (True) and
    before it resumes it (False); it must not block.

    A holder joins a standing suspension at once.  A *frozen* one excludes the others' writes to guest
    memory: it begins when no `writing` is under way, and `writing` waits for its end.
    """

    def __init__(self, runtime: Runtime, steps: Sequence[Step] = ()) -> None:
        self._runtime = runtime
        self._steps = list(steps)
        self._taken: list[Step] = []  # in the order in which they were paused
        self._lock = runtime.lock("suspension", state=self.key)
        self._phase = _Phase.RUNNING
        self._holders: list[str] = []
        self._frozen: str | None = None
        self._writers = 0
        self._waiters = Waiters(runtime, "suspension.changed")
        self.on_hold: Callable[[str, bool], None] = lambda _holder, _held: None

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        waiting = self._waiters.key()
        return (self._phase, tuple(self._holders), self._frozen, self._writers, waiting)

    @property
    def holders(self) -> tuple[str, ...]:
        """The names of the holders."""
        with self._lock:
            return tuple(self._holders)

    # The steps.

    def add(self, step: Step) -> None:
        """Let a step be taken after the others; before anybody suspends the machine."""
        self._steps.append(step)

    # Holders.

    def suspend(self, holder: str, deadline: int | None = None, *, frozen: bool = False) -> None:
        """Hold the machine suspended, by the deadline (ns), under a name that holds it once.

        Raises SuspendError; then it is as it was before, and this holder does not hold it.
        """
        if self._join(holder, deadline, frozen=frozen):
            self._pause(deadline)
        self.on_hold(holder, True)

    def _pause(self, deadline: int | None) -> None:
        try:
            for step in self._steps:
                self._taken.append(step)
                if not step.pause(deadline):
                    raise SuspendError(f"suspend: {step.name} did not stop in time")
        except BaseException:
            self._undo()
            raise
        with self._lock:
            self._phase = _Phase.SUSPENDED
            self._waiters.wake()

    def resume(self, holder: str) -> None:
        """End a hold; the machine runs on when it was the last."""
        self.on_hold(holder, False)  # first: once it is no holder, it may suspend again
        with self._lock:
            if holder not in self._holders:
                raise InternalError(f"resume: {holder} does not hold the suspension")
            if self._frozen == holder:
                self._frozen = None
            if len(self._holders) > 1:
                self._holders.remove(holder)
                self._waiters.wake()
                return
            self._phase = _Phase.CHANGING
        self._undo()

    @contextmanager
    def held(
        self, holder: str, deadline: int | None = None, *, frozen: bool = False
    ) -> Iterator[None]:
        """Keep the machine suspended for a ``with``."""
        self.suspend(holder, deadline, frozen=frozen)
        try:
            yield
        finally:
            self.resume(holder)

    @contextmanager
    def writing(self, holder: str, deadline: int | None = None) -> Iterator[None]:
        """Let a holder write guest memory for a ``with``; waits for the end of another's frozen hold.

        Raises SuspendError at the deadline.
        """
        self._wait(
            lambda: self._frozen in (None, holder),
            deadline,
            lambda: f"write: {self._frozen} keeps guest memory as it is",
            self._begin_write,
        )
        try:
            yield
        finally:
            with self._lock:
                self._writers -= 1
                self._waiters.wake()

    def _begin_write(self) -> None:
        self._writers += 1

    def _join(self, holder: str, deadline: int | None, *, frozen: bool) -> bool:
        """Become a holder; return whether the machine runs, and its steps are to be taken."""
        first: list[bool] = []

        def may() -> bool:
            if self._phase is _Phase.RUNNING:
                return True
            if self._phase is _Phase.CHANGING or holder in self._holders:
                return False
            return not frozen or (self._frozen is None and self._writers == 0)

        def join() -> None:
            first.append(self._phase is _Phase.RUNNING)
            self._holders.append(holder)
            if frozen:
                self._frozen = holder
            if first[0]:
                self._phase = _Phase.CHANGING

        self._wait(may, deadline, self._why_not, join)
        return first[0]

    def _why_not(self) -> str:
        return f"suspend: the suspension by {', '.join(self._holders)} did not end in time"

    def _wait(
        self,
        may: Callable[[], bool],
        deadline: int | None,
        why_not: Callable[[], str],
        then: Callable[[], None],
    ) -> None:
        """Wait until `may()` holds, and do `then()`, both under the lock."""
        changed: Event | None = None
        while True:
            with self._lock:
                if changed is not None:
                    self._waiters.leave(changed)
                if may():
                    then()
                    return
                changed = self._waiters.enter()
                reason = why_not()
            self._runtime.retain_only(reason, level=1)
            if not changed.wait(deadline):
                with self._lock:
                    self._waiters.leave(changed)
                raise SuspendError(reason)

    def _undo(self) -> None:
        """Undo the steps in reverse, each one even if another raises; then the machine runs."""
        with ExitStack() as stack:
            stack.callback(self._run)
            for step in self._taken:
                stack.callback(step.resume)

    def _run(self) -> None:
        with self._lock:
            self._taken.clear()
            self._holders.clear()
            self._frozen = None
            self._phase = _Phase.RUNNING
            self._waiters.wake()


class Holder:
    """One holder of a suspension, as an object with `suspend` and `resume`."""

    def __init__(self, suspension: Suspension, name: str, *, frozen: bool = False) -> None:
        self._suspension = suspension
        self._name = name
        self._frozen = frozen

    def suspend(self, deadline: int | None = None) -> None:
        """See `Suspension.suspend`."""
        self._suspension.suspend(self._name, deadline, frozen=self._frozen)

    def resume(self) -> None:
        """See `Suspension.resume`."""
        self._suspension.resume(self._name)
