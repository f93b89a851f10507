"""Models of what `hfsched.runtime.foreign` has: another program's sockets and eventfds.

A scenario makes them by methods of `ExploreRuntime` (`listener`, `connect`, `connection`, `eventfd`) and plays
the other program.  A descriptor is a number that stands for one of them: `ExploreRuntime.descriptor`
gives it out, `adopt_listener` and the like take it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.explore.thing import Thing
from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["XCondition", "XConnection", "XEventFd", "XListener"]


class _Foreign(Thing):
    """A thing that code under exploration holds by what stands for a descriptor."""

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self.closed = False

    def fileno(self) -> int:
        raise InternalError("an explored socket or eventfd has no descriptor: use Runtime.select")

    def close(self) -> None:
        """Close it."""
        if not self.closed:
            self.controller.point("close", self, write=True)
            self.note_closed()
            self.controller.pass_on(self)
            self.closed = True


class XEventFd(_Foreign):
    """See `hfsched.runtime.foreign.EventFd`; it never is full."""

    what = "eventfd"

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self._count = 0

    def ready(self) -> bool:
        """Return whether `select` would return it; no point."""
        return self._count > 0

    def signal(self) -> None:
        self.controller.point("signal", self, write=True)
        self.check_open("signal")
        self.controller.pass_on(self)
        self._count += 1

    def take(self) -> int:
        self.controller.point("take", self, write=True)
        self.check_open("take")
        if self._count:
            self.controller.take_over(self)
        self.controller.observe(self._count)
        taken, self._count = self._count, 0
        return taken

    def key(self) -> Hashable:
        return (self.closed, self._count)

    def peek(self) -> int:
        return self._count


class XCondition:
    """What `select` can wait for besides a thing itself: `thing` is what it looks at, for `owner`."""

    def __init__(self, owner: Thing, thing: Thing, ready: Callable[[], bool]) -> None:
        self.owner = owner
        self.thing = thing
        self.ready = ready

    def fileno(self) -> int:
        raise InternalError("an explored socket has no descriptor: use Runtime.select")


class XConnection(_Foreign):
    """See `hfsched.runtime.foreign.Connection`.

    `packets`, or else a stream; `capacity`: bytes that may be unread (a first packet may have more).
    There is `room` when any packet would be taken, as Linux says so only while much of its buffer is free.
    """

    what = "connection"
    peer: XConnection

    def __init__(
        self, runtime: ExploreRuntime, name: str, *, packets: bool, capacity: int, uid: int
    ) -> None:
        super().__init__(runtime, name)
        self.peer_uid = uid
        self._packets = packets
        self._capacity = capacity
        self._inbox: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._deaf = False  # it receives no more,
        self._mute = False  # it sends no more

    @property
    def room(self) -> XCondition:
        return XCondition(self, self.peer, lambda: self._gone() or self._writable())

    @property
    def hangup(self) -> XCondition:
        return XCondition(self, self.peer, lambda: self.peer.closed or (self._deaf and self._mute))

    def ready(self) -> bool:
        """Return whether there is something to receive, or the end; no point."""
        return bool(self._inbox) or self._deaf or self.peer._mute or self.peer.closed

    def _gone(self) -> bool:
        return self.peer.closed or self.peer._deaf or self._mute

    def _room(self) -> int:
        return self.peer._capacity - self.peer._unread()

    def _writable(self) -> bool:
        if not self._packets:
            return self._room() > 0
        return not self.peer._inbox

    def _unread(self) -> int:
        return sum(len(data) for data, _ in self._inbox)

    def send(self, data: bytes, fds: Sequence[int] = ()) -> int:
        if not data:
            raise ValueError("there must be data")
        self.controller.point("send", self.peer, write=True)
        self.check_open("send")
        room = self._room()
        self.controller.observe((self._gone(), room))
        if self._gone():
            self.controller.take_over(self)
            raise ChannelClosedError
        inbox = self.peer._inbox
        if self._packets:
            if len(data) > room and inbox:
                return 0
        else:
            data = data[: max(0, room)]
            if not data:
                return 0
        self.controller.pass_on(self.peer)
        if not self._packets and not fds and inbox:
            last, given = inbox.pop()
            inbox.append((last + data, given))
        else:
            inbox.append((data, tuple(fds)))
        return len(data)

    def recv(self, size: int, deadline: int | None = None, *, peek: bool = False) -> bytes | None:
        got = self._receive(size, deadline, peek=peek)
        return None if got is None else got[0]

    def recv_fds(
        self, size: int, count: int, deadline: int | None = None
    ) -> tuple[bytes, list[int]] | None:
        got = self._receive(size, deadline, peek=False)
        return None if got is None else (got[0], list(got[1][:count]))

    def _receive(
        self, size: int, deadline: int | None, *, peek: bool
    ) -> tuple[bytes, tuple[int, ...]] | None:
        self.controller.point(
            "recv",
            self,
            write=not peek,
            condition=lambda: self.ready() or self.closer is not None,
            deadline=deadline,
        )
        self.check_open("recv")
        ready = self.ready()
        if ready:
            self.controller.take_over(self)
        if not self._inbox:
            self.controller.observe(ready)
            return (b"", ()) if ready else None
        data, fds = self._inbox[0]
        self.controller.observe((data[:size], fds))
        if not peek:
            self._inbox.popleft()
            if not self._packets and data[size:]:
                self._inbox.appendleft((data[size:], ()))
        return data[:size], fds

    def unread(self) -> int:
        self.controller.point("unread", self)
        self.check_open("unread")
        self.controller.take_over(self)
        self.controller.observe(self._unread())
        return self._unread()

    def limit_unsent(self, size: int) -> None:
        """See `Connection`; the capacity is the scenario's."""

    def shutdown(self, *, receive: bool = False, send: bool = False) -> None:
        self.controller.point("close", self.peer, write=True, also=(self,))
        self.check_open("shutdown")
        self.controller.pass_on(self.peer)
        self._deaf |= receive  # what has come before can still be received, as from a real socket
        self._mute |= send

    def close(self) -> None:
        if not self.closed:
            self.controller.point("close", self.peer, write=True, also=(self,))
            self.note_closed()
            self.controller.pass_on(self.peer)
            self.cut()

    def cut(self) -> None:
        """Close without a point: the other program has died."""
        self.closed = True
        self._inbox.clear()

    def key(self) -> Hashable:
        return (self.closed, self._deaf, self._mute, tuple(self._inbox))


class XListener(_Foreign):
    """See `hfsched.runtime.foreign.Listener`."""

    what = "listener"

    def __init__(self, runtime: ExploreRuntime, name: str) -> None:
        super().__init__(runtime, name)
        self._waiting: deque[XConnection] = deque()

    def ready(self) -> bool:
        """Return whether a connection waits; no point."""
        return bool(self._waiting)

    def admit(self, connection: XConnection) -> None:
        """Let a connection wait; raises ConnectionRefusedError."""
        self.controller.point("connect", self, write=True)
        self.controller.observe(self.closed)
        if self.closed:
            self.controller.take_over(self)
            raise ConnectionRefusedError
        self.controller.pass_on(self)
        self._waiting.append(connection)

    def accept(self) -> XConnection | None:
        self.controller.point("accept", self, write=True)
        self.check_open("accept")
        self.controller.take_over(self)
        self.controller.observe(len(self._waiting))
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """See `Listener`; connections that wait are reset."""
        super().close()
        while self._waiting:
            self._waiting.popleft().close()

    def key(self) -> Hashable:
        return (self.closed, tuple(each.name for each in self._waiting))
