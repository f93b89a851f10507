"""Locks, events, cells, shared values and channels of the exploring runtime.

Every operation first calls `Controller.point`, at which other tasks may run; what follows is atomic
up to the task's next operation.  Releasing a lock is no separate point: no task observes whether it
came before or after the releasing task's next operation.

`key` of a thing is its state, hashable; it is computed only for strategies that compare states.
`peek` is its value for display.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from hfsched.errors import InternalError
from hfsched.explore.task import History
from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Task

__all__ = [
    "LockDigests",
    "UnguardedChangeError",
    "XCell",
    "XEnd",
    "XEvent",
    "XLock",
    "XShared",
    "plain",
]

T = TypeVar("T")
# Of a lock: the digest it has seen, whether the guarded state still has that digest, and its marks.
LockDigests = tuple[int | None, bool, dict[int, History] | None]


class UnguardedChangeError(Exception):
    """Guarded state changed while no task held its lock."""


class Thing:
    """The object of an operation."""

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        self.runtime = runtime
        self.controller = runtime.controller
        self.name = name
        self.clock: dict[int, int] = {}  # vector clock, for the race detector
        self.unordered = False  # it orders no accesses to shared values
        self.private = False  # only one task uses it: `user`, after its first use
        self.user: Task | None = None
        self.exclusive: tuple[str, Callable[[], bool]] | None = None  # see `declare_exclusive`
        table = self.controller.table
        table.things.append(self)
        table.note_created(name, self.controller.current)

    def key(self) -> Hashable:
        """Return the state."""
        return None

    def peek(self) -> object:
        """Return the value, without a point; None for a thing that has none."""
        return None


class XLock(Thing):
    """A lock; `state` returns everything that it guards."""

    def __init__(
        self, runtime: ExploreRuntime, name: str, state: Callable[[], object] | None
    ) -> None:
        super().__init__(runtime, name)
        self.owner: Task | None = None
        self._state = state
        self._seen: int | None = None  # the digest of the state at the last release
        self.marks: dict[int, History] | None = None  # see `declare_retry`: tasks' histories

    def _free(self) -> bool:
        return self.owner is None

    def __enter__(self) -> None:
        controller = self.controller
        if self.marks is not None and controller.stateful and controller.current is not None:
            task = controller.current
            self.marks[task.index] = (task.history, task.kept)
        controller.point("lock", self, write=True, condition=self._free)
        self.owner = controller.current
        if controller.stateful and self._state is not None:
            now = hash(self._state())
            if self._seen is not None and self._seen != now:
                raise UnguardedChangeError(
                    f"state guarded by {self.name} changed while no task held it"
                )
            controller.observe(now)
        if controller.races is not None:
            controller.races.acquire(self)

    def __exit__(self, *exc: object) -> None:
        controller = self.controller
        if controller.stopping:
            return
        if self.owner is not None:
            self.owner.entered = False
        self.owner = None
        self.note_state()
        if controller.races is not None:
            controller.races.release(self)

    def note_state(self) -> None:
        """Record the digest of the guarded state that the next owner must find."""
        if self.controller.stateful and self._state is not None:
            self._seen = hash(self._state())

    acquire = __enter__
    release = __exit__

    def known(self) -> LockDigests:
        """Return the argument for `recall`."""
        same = self.owner is None and self._state is not None and self._seen == hash(self._state())
        return self._seen, same, None if self.marks is None else dict(self.marks)

    def recall(self, known: LockDigests) -> None:
        """See `hfsched.explore.digests.recall`."""
        self._seen, same, marks = known
        if same:  # an object that hashes by identity differs in each execution
            self.note_state()
        self.marks = None if marks is None else dict(marks)

    def key(self) -> Hashable:
        return (None if self.owner is None else self.owner.index, self._seen)


class XEvent(Thing):
    """An event."""

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self._flag = False
        self.retry: XLock | None = None  # see `ExploreRuntime.declare_retry`

    def ready(self) -> bool:
        """Return whether `select` would return it; no point."""
        return self._flag

    def fileno(self) -> int:
        raise InternalError("an explored event has no descriptor: use Runtime.select")

    def set(self) -> None:
        self.controller.point("set", self, write=True)
        self.controller.pass_on(self)
        self._flag = True

    def become_set(self) -> None:
        """Set the event without a point, as part of the current step."""
        self.controller.touched.append((self.name, True))
        self.controller.pass_on(self)
        self._flag = True

    def clear(self) -> None:
        self.controller.point("clear", self, write=True)
        self._flag = False

    def is_set(self) -> bool:
        self.controller.point("is_set", self)
        self.controller.observe(self._flag)
        return self._flag

    def wait(self, deadline: int | None = None) -> bool:
        if self.retry is not None:
            self.runtime.start_again(self.retry)
        self.controller.point("wait", self, condition=self.ready, deadline=deadline)
        self.controller.take_over(self)
        self.controller.observe(self._flag)
        if self._flag and self.retry is not None:
            self.runtime.start_again(self.retry)
        return self._flag

    def close(self) -> None:
        if not self.controller.stopping:
            table = self.controller.table
            table.things.remove(self)
            table.note_created(self.name, self.controller.current)

    def key(self) -> Hashable:
        return self._flag

    def peek(self) -> bool:
        return self._flag


class XCell(Thing, Generic[T]):
    """A cell; every operation is a point, and orders accesses to shared values."""

    def __init__(self, runtime: ExploreRuntime, name: str, value: T) -> None:
        super().__init__(runtime, name)
        self._value = value

    def get(self) -> T:
        self.controller.point("get", self)
        self.controller.take_over(self)
        self.controller.observe(plain(self._value))
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
        self.controller.observe(plain(old))
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
        return plain(self._value)

    def peek(self) -> T:
        return self._value


class XShared(Thing, Generic[T]):
    """A plain value: no point, and every access is checked for races."""

    def __init__(self, runtime: ExploreRuntime, name: str, value: T) -> None:
        super().__init__(runtime, name)
        self._value = value

    @property
    def value(self) -> T:
        if self.controller.races is not None:
            self.controller.races.read(self)
        self.controller.observe(plain(self._value))
        return self._value

    @value.setter
    def value(self, value: T) -> None:
        if self.controller.races is not None:
            self.controller.races.write(self)
        self._value = value

    def key(self) -> Hashable:
        return plain(self._value)

    def peek(self) -> T:
        return self._value


class XEnd(Thing):
    """One end of a channel; `inbox` holds the messages that the other end has sent."""

    peer: XEnd

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self.inbox: deque[tuple[bytes, list[int]]] = deque()
        self.closed = False

    def ready(self) -> bool:
        """Return whether there is a message or the end of file to read; no point."""
        return bool(self.inbox) or self.peer.closed

    def fileno(self) -> int:
        raise InternalError("an explored channel has no descriptor: use Runtime.select")

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        self.controller.point("send", self.peer, write=True)
        self.controller.observe(self.peer.closed)
        if self.peer.closed:
            raise ChannelClosedError
        self.controller.pass_on(self.peer)
        self.peer.inbox.append((data, list(fds)))

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        self.controller.point("recv", self, write=True, condition=self.ready, deadline=deadline)
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
        self.controller.point("close", self.peer, write=True, also=(self,))
        self.close_silently()

    def close_silently(self) -> None:
        """Close without a point, because its process has ended."""
        self.closed = True
        self.inbox.clear()  # no task can read it any more

    def key(self) -> Hashable:
        return (self.closed, tuple((data, *fds) for data, fds in self.inbox))


_PLAIN = frozenset((int, str, bytes, float, bool, type(None)))


def plain(value: Any) -> Hashable:
    """Return a hashable that is equal for equal values in every run.

    An object of another type needs a method `key` that returns its state.  Raises InternalError.
    """
    if type(value) in _PLAIN or isinstance(value, Enum | int):
        return value  # type: ignore[no-any-return]
    if isinstance(value, tuple | list):
        return tuple(map(plain, value))
    key = getattr(value, "key", None)
    if callable(key):
        return (type(value).__name__, key())
    if isinstance(value, Struct):
        names = value.__struct_fields__
    elif is_dataclass(value):
        names = tuple(field.name for field in fields(value))
    else:
        raise InternalError(f"a {type(value).__name__} has no state key: give it a method key")
    return (type(value).__name__, *(plain(getattr(value, name)) for name in names))
