"""One client of a machine's control socket: its requests, their replies, and the events between them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hfsched.control import commands, events
from hfsched.control.commands import Answer, CommandError, EventsSubscribe, Refused, Subscribed
from hfsched.control.events import Ended, Hub, Lost, Subscription
from hfsched.control.guest_handlers import Copying
from hfsched.control.guest_messages import CopyBegin, CopyRequest
from hfsched.control.handlers import CommandMachine, carry_out
from hfsched.control.listener import offer
from hfsched.control.snapshot_messages import SnapshotConfirm, SnapshotTake
from hfsched.control.snapshot_turn import FILES, SnapshotTurn
from hfsched.errors import HfschedError
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.protocol.messages import TEXT_MAX
from hfsched.text import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.runtime.base import Connection, Event, Runtime

__all__ = ["CommandSession", "Place"]

_NS, _NS_PER_MS = 1_000_000_000, 1_000_000


class Place(Protocol):
    """A client's place in the server."""

    def begin(self) -> bool:
        """Note that a request is being received; False: the client has lost its place, and gets no answer."""

    def rest(self) -> None:
        """Note that the request has been answered."""

    def keep(self) -> None:
        """Keep the place until the client leaves; raises CommandError."""


class _SilentError(Exception):
    """A client's first request has not come in time."""


class CommandSession:
    """One client: its requests are answered in order, between the events that it subscribed to."""

    def __init__(
        self,
        runtime: Runtime,
        machine: CommandMachine,
        hub: Hub,
        closing: Event,
        connection: Connection,
        place: Place,
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._hub = hub
        self._closing = closing
        self._connection = connection
        self._place = place
        self._asked = False  # it has made a request
        self._subscription: Subscription | None = None
        self._snapshot = SnapshotTurn(runtime, machine, connection, closing)
        self._copying = Copying(machine, [connection.hangup, closing])

    def serve(self, patience: int) -> None:
        """Serve the client to its end, or until no first request has come for `patience` ns."""
        first_by = self._runtime.now() + patience
        try:
            while self._turn(None if self._asked else first_by):
                pass
        except _SilentError:
            text = f"no request within {patience / _NS:g} s"
            offer(self._connection, commands.encode(Refused(code="silent", text=text)))
        finally:
            self._snapshot.leave()
            self._copying.close()
            if self._subscription is not None:
                self._subscription.close()

    def _turn(self, deadline: int | None) -> bool:
        """Answer one request, or send the events there are; False: there will be no more."""
        subscription = self._subscription
        filled = [] if subscription is None else [subscription.filled]
        ready = self._runtime.select([self._connection, self._closing, *filled], deadline)
        if self._closing in ready:
            self._send_end()
            return False
        if self._connection in ready and not self._receive():
            return False
        if subscription is not None:
            left = subscription.take()
            while left and self._send(events.encode(left[0])):
                del left[0]
            if left and self._closing.is_set():
                self._send_end(left)
            return not left
        if not ready:
            raise _SilentError
        return True

    def _receive(self) -> bool:
        if not self._place.begin():  # first: what has left the socket must not count as idle
            return False
        try:
            got = self._connection.recv_fds(commands.REQUEST_MAX + 1, FILES, self._runtime.now())
        except OSError:
            return False
        if got is None:
            self._place.rest()
            return True
        data, files = got
        try:
            if not data:
                return False
            self._asked = True
            answer = self._answer(data, files)
        finally:
            if files:
                self._machine.snapshots.files.close(files)
        sent = self._send(commands.encode(answer))
        self._place.rest()
        return sent

    def _answer(self, data: bytes, files: Sequence[int]) -> Answer:
        try:
            request = commands.decode_request(data)
            match request:
                case EventsSubscribe():
                    return self._subscribe()
                case SnapshotTake():
                    return self._snapshot.take(request, files)
                case SnapshotConfirm():
                    return self._snapshot.confirm(request)
            deadline = self._runtime.now() + request.within_ms * _NS_PER_MS
            if isinstance(request, CopyRequest):
                return self._copy(request, deadline)
            return carry_out(self._machine, request, deadline)
        except CommandError as exc:
            return Refused(code=exc.code, text=one_line(str(exc), TEXT_MAX))
        except HfschedError as exc:
            return Refused(text=one_line(str(exc), TEXT_MAX))
        except OSError as exc:  # main lacks descriptors or memory for a moment
            return Refused(text=one_line(f"{self._machine.name}: {exc.strerror or exc}", TEXT_MAX))

    def _subscribe(self) -> Answer:
        if self._subscription is not None:
            raise HfschedError("this connection has subscribed already")
        self._place.keep()
        self._subscription = self._hub.subscribe()
        return Subscribed()

    def _copy(self, request: CopyRequest, deadline: int) -> Answer:
        if isinstance(request, CopyBegin):
            self._place.keep()
        return self._copying.serve(request, deadline)

    def _send_end(self, left: Sequence[events.Event] = ()) -> None:
        """Send what is left as far as the socket has space, and `Ended`; where it has none, `Lost` comes later."""
        if self._subscription is None:
            text = f"machine {self._machine.name} is about to end"
            offer(self._connection, commands.encode(Refused(code="ending", text=text)))
            return
        lost = 0
        for event in (*left, *self._subscription.take(), Ended()):
            if lost and offer(self._connection, events.encode(Lost(count=lost))):
                lost = 0
            if lost or not offer(self._connection, events.encode(event)):
                lost += 1

    def _send(self, packet: bytes) -> bool:
        """Send a packet; wait for a subscriber to read until the server closes.  False: not sent."""
        try:
            while not self._connection.send(packet):
                if self._subscription is None or self._closing.is_set():
                    return False
                self._runtime.select([self._connection.room, self._closing])
        except (OSError, ChannelClosedError):
            return False
        return True
