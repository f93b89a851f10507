"""Locks, events, cells, shared values and channels of the exploring runtime.

Every operation first calls `Controller.point`, at which other tasks may run; what follows is atomic
up to the task's next operation.  Releasing a lock is no separate point: no task observes whether it
came before or after the releasing task's next operation.

`key` of a thing is its state (see `hfsched.explore.canonical`); it is computed only for strategies that
compare states.
`peek` is its value for display.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from hfsched.errors import InternalError
from hfsched.explore.canonical import ATOMS, RefusedError, digest, encode
from hfsched.explore.deadlocks import find_cycle
from hfsched.explore.misuse import handed_over, used_after_close, wrongly_released
from hfsched.explore.places import Place, caller
from hfsched.explore.task import History
from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Group, Task

__all__ = [
    "LockDigests",
    "UnguardedChangeError",
    "XCell",
    "XEnd",
    "XEvent",
    "XLock",
    "XShared",
]

T = TypeVar("T")
# Of a lock: the digest of the guarded state at the last release, and its marks.
LockDigests = tuple[bytes | None, dict[int, History] | None]


class UnguardedChangeError(Exception):
    """Guarded state changed while no task held its lock."""


class Thing:
    """The object of an operation."""

    what = "thing"  # in messages

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        self.runtime = runtime
        self.controller = runtime.controller
        self.name = name
        self.clock: dict[int, int] = {}  # vector clock, for the race detector
        self.unordered = False  # it orders no accesses to shared values
        self.private = False  # only one task uses it: `user`, after its first use
        self.user: Task | None = None
        self.exclusive: tuple[str, Callable[[], bool]] | None = None  # see `declare_exclusive`
        self.closer: tuple[str, Place | None] | None = None  # who has closed it, and where
        table = self.controller.table
        table.things.append(self)
        table.note_created(name, self.controller.current)

    @property
    def place(self) -> str:
        """What it is and its name, for messages."""
        return f"{self.what} {self.name}"

    def note_closed(self) -> None:
        """Record that the current task closes it, for `check_open`."""
        task = self.controller.current
        self.closer = ("the scenario" if task is None else task.name, caller())

    def check_open(self, kind: str) -> None:
        """Fail if it was closed; for the operation `kind` of the current task."""
        task = self.controller.current
        if self.closer is not None and task is not None:
            self.controller.fail(used_after_close(task, kind, self, *self.closer))

    def key(self) -> Hashable:
        """Return the state."""
        return None

    def whole(self) -> object:
        """Return the state, computed anew."""
        return self.key()

    def plain_key(self) -> object:
        """Return the state as a value of built-in types; raises NoCanonicalFormError."""
        return encode(self.key(), self.place)

    def peek(self) -> object:
        """Return the value, without a point; None for a thing that has none."""
        return None


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
                controller.witness.note_value(self.owner, self._state(), self.place)
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
        try:
            return digest(state(), self.place)
        except RefusedError as exc:
            self.controller.fail(exc)

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
        return (None if self.owner is None else self.owner.index, self._seen)

    def whole(self) -> object:
        owner = None if self.owner is None else self.owner.index
        return (owner, None if self._state is None else self._state())

    def plain_key(self) -> object:
        return (None if self.owner is None else self.owner.index, self._seen)


class XEvent(Thing):
    """An event."""

    what = "event"

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self._flag = False
        self.retry: XLock | None = None  # see `ExploreRuntime.declare_retry`

    def ready(self) -> bool:
        """Return whether `select` would return it; no point."""
        return self._flag

    def _ends_wait(self) -> bool:
        return self._flag or self.closer is not None

    def fileno(self) -> int:
        raise InternalError("an explored event has no descriptor: use Runtime.select")

    def set(self) -> None:
        self.controller.point("set", self, write=True)
        self.check_open("set")
        self.controller.pass_on(self)
        self._flag = True

    def become_set(self) -> None:
        """Set the event without a point, as part of the current step."""
        self.controller.touched.append((self.name, True))
        self.controller.pass_on(self)
        self._flag = True

    def clear(self) -> None:
        self.controller.point("clear", self, write=True)
        self.check_open("clear")
        self._flag = False

    def is_set(self) -> bool:
        self.controller.point("is_set", self)
        self.check_open("is_set")
        if self._flag:
            self.controller.take_over(self)
        self.controller.observe(self._flag)
        return self._flag

    def wait(self, deadline: int | None = None) -> bool:
        if self.retry is not None:
            self.runtime.start_again(self.retry)
        self.controller.point("wait", self, condition=self._ends_wait, deadline=deadline)
        self.check_open("wait")
        self.controller.take_over(self)
        self.controller.observe(self._flag)
        if self._flag and self.retry is not None:
            self.runtime.start_again(self.retry)
        return self._flag

    def close(self) -> None:
        if not self.controller.stopping and self.closer is None:
            self.controller.touched.append((self.name, True))
            self.note_closed()
            table = self.controller.table
            table.things.remove(self)
            table.note_created(self.name, self.controller.current)

    def key(self) -> Hashable:
        return self._flag

    def plain_key(self) -> object:
        return self._flag

    def peek(self) -> bool:
        return self._flag


class XCell(Thing, Generic[T]):
    """A cell; every operation is a point, and orders accesses to shared values."""

    what = "cell"

    def __init__(self, runtime: ExploreRuntime, name: str, value: T) -> None:
        super().__init__(runtime, name)
        self._value = value

    def get(self) -> T:
        self.controller.point("get", self)
        self.controller.take_over(self)
        self.controller.observe(self._value, self.place)
        return self._value

    def set(self, value: T) -> None:
        self.controller.point("put", self, write=True)
        self.controller.pass_on(self)
        self._value = value

    def exchange(self, value: T) -> T:
        self.controller.point("exchange", self, write=True)
        self.controller.take_over(self)
        self.controller.pass_on(self)
        old, self._value = self._value, value
        self.controller.observe(old, self.place)
        return old

    def compare_and_set(self, expected: T, value: T) -> bool:
        self.controller.point("compare_and_set", self, write=True)
        self.controller.take_over(self)
        self.controller.pass_on(self)
        same = self._value == expected
        if same:
            self._value = value
        self.controller.observe(same)
        return same

    def key(self) -> Hashable:
        return self._value

    def plain_key(self) -> object:
        value = self._value
        return value if type(value) in ATOMS else (encode(value, self.place),)

    def peek(self) -> T:
        return self._value


class XShared(Thing, Generic[T]):
    """A plain value: no point, and every access is checked for races."""

    what = "shared value"

    def __init__(self, runtime: ExploreRuntime, name: str, value: T) -> None:
        super().__init__(runtime, name)
        self._value = value

    @property
    def value(self) -> T:
        if self.controller.races is not None:
            self.controller.races.read(self)
        self.controller.observe(self._value, self.place)
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        if self.controller.races is not None:
            self.controller.races.write(self)
        self._value = value

    def key(self) -> Hashable:
        return self._value

    def plain_key(self) -> object:
        value = self._value
        return value if type(value) in ATOMS else (encode(value, self.place),)

    def peek(self) -> T:
        return self._value


class XEnd(Thing):
    """One end of a channel; `inbox` holds the messages that the other end has sent."""

    what = "channel"

    peer: XEnd

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self.inbox: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False
        self.holder: Group | None = None  # the process that it was handed over to

    def ready(self) -> bool:
        """Return whether there is a message or the end of file to read; no point."""
        return bool(self.inbox) or self.peer.closed

    def _ends_wait(self) -> bool:
        return bool(self.inbox) or self.peer.closed or self.closer is not None

    def fileno(self) -> int:
        raise InternalError("an explored channel has no descriptor: use Runtime.select")

    def _check_held(self, kind: str) -> None:
        """Fail if this end was closed, or is another process's."""
        self.check_open(kind)
        task = self.controller.current
        if task is not None and self.holder is not None and task.group is not self.holder:
            self.controller.fail(handed_over(task, kind, self, self.holder.name))

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self.controller.point("send", self.peer, write=True)
        self._check_held("send")
        self.controller.observe(self.peer.closed)
        if self.peer.closed:
            self.controller.take_over(self)
            raise ChannelClosedError
        self.controller.pass_on(self.peer)
        self.peer.inbox.append((bytes(data), list(fds)))

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        self.controller.point(
            "recv", self, write=True, condition=self._ends_wait, deadline=deadline
        )
        self._check_held("recv")
        self.controller.take_over(self)
        if self.inbox:
            message = self.inbox.popleft()
            self.controller.observe((message[0], *message[1]))
            return message
        self.controller.observe(self.peer.closed)
        if self.peer.closed:
            raise ChannelClosedError
        return None

    def close(self) -> None:
        task = self.controller.current
        if task is not None and self.holder is not None and task.group is not self.holder:
            return  # this process's copy was closed when it was handed over
        self.controller.point("close", self.peer, write=True, also=(self,))
        if self.closer is None:
            self.note_closed()
        self.controller.pass_on(self.peer)
        self.close_silently()

    def close_silently(self) -> None:
        """Close without a point, because its process has ended."""
        self.closed = True
        self.inbox.clear()  # no task can read it any more

    def key(self) -> Hashable:
        return (self.closed, tuple((data, *fds) for data, fds in self.inbox))

    def plain_key(self) -> object:
        return self.key() if self.inbox else self.closed
