"""The hold of a suspension by command: a request takes it, and another one, from anybody, ends it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from hfsched.scheduler.suspension import SuspendError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.scheduler.suspension import Suspension

__all__ = ["HOLDER", "UserHold"]

HOLDER = "user"  # the holder's name


class UserHold:
    """Keeps a machine suspended from a `suspend` to the next `resume`, whatever becomes of who asked.

    Requests come from any task, in any order; one waits for the end of another.  Each names a state,
    so one that finds it there changes nothing.  `on_change` is called, on the task of a request, when
    that may have changed what `stands` returns; it must not block.
    """

    def __init__(
        self,
        runtime: Runtime,
        suspension: Suspension,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._runtime = runtime
        self._suspension = suspension
        self._on_change = on_change
        self._lock = runtime.lock("user-hold", state=self.key)
        self._held = False
        self._changing = False  # a request takes the hold, or ends it
        self._kept = 0  # see `keep`
        self._stood = False  # since the last `look`
        self._ended = runtime.event("user-hold.ended")  # a request

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return (self._held, self._changing, self._kept, self._stood)

    # Requests.

    def suspend(self, deadline: int | None = None) -> bool:
        """Suspend the machine by the deadline (ns); False: the user has suspended it already.

        Raises SuspendError, or what a step of the suspension raises; then the user does not hold it.
        """
        if not self._begin(True, deadline):
            return False
        held = False
        try:
            self._suspension.suspend(HOLDER, deadline)
            held = True
        finally:
            self._end(held)
        return True

    def resume(self, deadline: int | None = None) -> bool:
        """End the hold; False: there is none.  The machine runs unless another holds it.

        Raises SuspendError if another request does not end by the deadline (ns).
        """
        if not self._begin(False, deadline):
            return False
        try:
            self._suspension.resume(HOLDER)
        finally:
            self._end(False)
        return True

    # Other requests, in the course of which the machine is suspended for a while.

    def keep(self) -> None:
        """Let it stand until `let_go`, whether or not the machine is suspended; several may."""
        with self._lock:
            self._kept += 1
            self._stood = True

    def let_go(self) -> None:
        """End what `keep` began."""
        with self._lock:
            self._kept -= 1
        self._on_change()

    # For who decides by what the guests do: nothing, while it stands.

    def stands(self) -> bool:
        """Return whether the user holds the machine, is about to, is about to end that, or has it kept."""
        with self._lock:
            return self._held or self._changing or self._kept > 0

    def held(self) -> bool:
        """Return whether the user holds the machine: it has been suspended by command."""
        with self._lock:
            return self._held

    def look(self) -> tuple[bool, bool]:
        """Return {it stands, it stood at some time since the last look}; for one task."""
        with self._lock:
            stands = self._held or self._changing or self._kept > 0
            stood, self._stood = self._stood or stands, stands
            return stands, stood

    def peek(self) -> bool:
        """Return, without the lock, whether no request is under way and the user holds it: for oracles."""
        return self._held and not self._changing

    def _begin(self, wanted: bool, deadline: int | None) -> bool:  # noqa: FBT001
        """Begin to change whether it is held; False: it is as `wanted`."""
        while True:
            with self._lock:
                if not self._changing:
                    if self._held == wanted:
                        return False
                    self._changing = self._stood = True
                    return True
                self._ended.clear()
            self._runtime.retain_only(wanted, level=1)
            if not self._ended.wait(deadline):
                what = "suspend" if wanted else "resume"
                raise SuspendError(f"{what}: another request did not end in time")

    def _end(self, held: bool) -> None:  # noqa: FBT001
        with self._lock:
            self._held, self._changing = held, False
            self._ended.set()
        self._on_change()
