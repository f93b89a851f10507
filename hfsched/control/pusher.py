"""Sends packets to a client of the host ports, and watches whether the client reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.runtime.base import Connection, Event, Runtime

__all__ = ["Pusher", "Timing"]


class Timing(NamedTuple):
    """How long a client is waited for, in ns: for its hello; while it reads nothing that waits for it."""

    hello: int
    unread: int


class Pusher:
    """Sends to one client; any task may.  `limit` is in ns, and may be changed between two packets.

    `give_up` is called when a packet has had no room for that long: the client reads nothing.  Any
    packet that finds room begins the time anew, so that a slow client is waited for.
    """

    def __init__(
        self,
        runtime: Runtime,
        connection: Connection,
        closing: Event,
        limit: int,
        give_up: Callable[[], None],
    ) -> None:
        self._runtime = runtime
        self._connection = connection
        self._closing = closing
        self.limit = limit
        self._give_up = give_up

    def push(self, packet: bytes) -> bool:
        """Send a packet, waiting for the client unless the server closes; False: not sent."""
        deadline = None
        late = False
        while True:
            closing = self._closing.is_set()
            try:
                if self._connection.send(packet):
                    return True
            except (OSError, ChannelClosedError):
                return False
            if late:
                self._give_up()
            if late or closing:
                return False
            if deadline is None:
                deadline = self._runtime.now() + self.limit
            # Room for one packet may be there before the socket is said to be writable: once more then.
            late = not self._runtime.select([self._connection.room, self._closing], deadline)
