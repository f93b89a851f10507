"""Locks of the exploring runtime.

Releasing one is no separate point: no task observes whether it came before or after the releasing task's
next operation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hfsched.explore.canonical import RefusedError, digest
from hfsched.explore.deadlocks import find_cycle
from hfsched.explore.misuse import wrongly_released
from hfsched.explore.places import Place
from hfsched.explore.task import History
from hfsched.explore.thing import Thing

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Task

__all__ = ["LockDigests", "UnguardedChangeError", "XLock"]

# Of a lock: the digest of the guarded state at the last release, and its marks.
LockDigests = tuple[bytes | None, dict[int, History] | None]


class UnguardedChangeError(Exception):
    """Guarded state changed while no task held its lock."""


class XLock(Thing):
    """A lock; `state` returns everything that it guards."""

    what = "lock"

    def __init__(
        self, runtime: ExploreRuntime, name: str, state: Callable[[], object] | None
    ) -> None:
        super().__init__(runtime, name)
        self.owner: Task | None = None
        self.taken: Place | None = None  # where, by the owner
        self._state = state
        self._seen: bytes | None = None  # the digest of the state at the last release
        self.marks: dict[int, History] | None = None  # see `declare_retry`: tasks' histories

    @property
    def guarded(self) -> Callable[[], object] | None:
        """Returns what the lock guards; None if it guards nothing, or does not say."""
        return self._state

    def _free(self) -> bool:
        return self.owner is None

    def __enter__(self) -> None:
        controller = self.controller
        if self.marks is not None and controller.stateful and controller.current is not None:
            task = controller.current
            self.marks[task.index] = task.remember()
        if self.owner is not None and controller.current is not None:
            self._check_wait(controller.current)
        controller.point("lock", self, write=True, condition=self._free)
        self.owner = controller.current
        frame = sys._getframe(1)
        self.taken = (frame.f_code, frame.f_lineno)
        if self._state is not None and self.owner is not None:
            if controller.witness is not None:
                controller.witness.note_value(self.owner, self._now(self._state), self.place)
            if controller.stateful:
                self._look(self.owner, self._state)
        if controller.races is not None:
            controller.races.acquire(self)

    def __exit__(self, *exc: object) -> None:
        controller = self.controller
        if controller.stopping:
            return
        task = controller.current
        if self.owner is not task and task is not None:
            controller.fail(wrongly_released(task, self))
        if task is not None:
            task.entered = False
        self.owner = None
        self.note_state()
        if controller.races is not None:
            controller.races.release(self)

    def _look(self, owner: Task, state: Callable[[], object]) -> None:
        """Have the owner observe the guarded state, which must be as it was left."""
        now = self._digest(state)
        if self._seen is not None and self._seen != now:
            raise UnguardedChangeError(
                f"state guarded by {self.name} changed while no task held it"
            )
        owner.learn(now)

    def _check_wait(self, task: Task) -> None:
        """Fail if the task, which is about to wait for this lock, will wait for ever."""
        if self.controller.stopping:
            return
        task.kind, task.thing, task.also, task.deadline = "lock", self, (), None
        deadlock = find_cycle(task)
        if deadlock is not None:
            self.controller.fail(deadlock)

    def _digest(self, state: Callable[[], object]) -> bytes:
        now = self._now(state)
        try:
            with self.looking():  # what it returns may have methods of the program
                return digest(now, self.place)
        except RefusedError as exc:
            self.controller.fail(exc)

    def _now(self, state: Callable[[], object]) -> object:
        """Return the guarded state; what cannot be looked at ends the execution."""
        failure: Exception
        try:
            return self._evaluated(state)
        except RefusedError as exc:
            failure = exc
        except Exception as exc:  # noqa: BLE001 - of any type
            failure = RefusedError(f"lock {self.name}: its state= has raised {exc!r}")
        return self.controller.fail(failure)

    def evaluated(self) -> object:
        """Return the guarded state, None if there is none; raises what `state=` raises, and RefusedError for an operation."""
        return None if self._state is None else self._evaluated(self._state)

    def _evaluated(self, state: Callable[[], object]) -> object:
        with self.looking():
            return state()

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Let code of the program look at plain state: an operation in it raises RefusedError."""
        controller = self.controller
        task, outside = controller.current, controller.on_outside
        controller.current, controller.on_outside = None, self._refuse
        try:
            yield
        finally:
            controller.current, controller.on_outside = task, outside

    def _refuse(self, thing: Thing | None, *_: object) -> None:
        where = "" if thing is None else f" with {thing.place}"
        raise RefusedError(
            f"lock {self.name}: its state= does an operation{where}: it may look at plain state alone, and peek"
        )

    def note_state(self) -> None:
        """Record the digest of the guarded state that the next owner must find."""
        if self.controller.stateful and self._state is not None:
            self._seen = self._digest(self._state)

    acquire = __enter__
    release = __exit__

    def known(self) -> LockDigests:
        """Return the argument for `recall`."""
        return self._seen, None if self.marks is None else dict(self.marks)

    def recall(self, known: LockDigests) -> None:
        """See `hfsched.explore.digests.recall`."""
        self._seen, marks = known
        self.marks = None if marks is None else dict(marks)

    def key(self) -> Hashable:
        """See `Thing`."""
        return (None if self.owner is None else self.owner.index, self._seen)

    def whole(self) -> object:
        """See `Thing`."""
        owner = None if self.owner is None else self.owner.index
        return (owner, None if self._state is None else self._now(self._state))

    def plain_key(self) -> object:
        """See `Thing`."""
        return (None if self.owner is None else self.owner.index, self._seen)
