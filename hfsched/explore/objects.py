"""Events, cells, shared values and channels of the exploring runtime; see `thing`, and `lock` for locks."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from hfsched.errors import InternalError
from hfsched.explore.canonical import ATOMS, encode
from hfsched.explore.lock import UnguardedChangeError, XLock
from hfsched.explore.misuse import handed_over
from hfsched.explore.thing import Thing
from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Group

__all__ = ["Thing", "UnguardedChangeError", "XCell", "XEnd", "XEvent", "XLock", "XShared"]

T = TypeVar("T")


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
        if self._flag:  # else the deadline has passed, which orders nothing
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
        same = self._value == expected
        if same:
            self.controller.pass_on(self)
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
        if self.ready():
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
