"""Host programs that have connected, until they have said to which port of the guest."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.vhost.devices.vsock.greeting import LINE_MAX, Greeting

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Listener
    from hfsched.vhost.device import DeviceHost

__all__ = ["CALLERS_MAX", "Callers"]

CALLERS_MAX = 64  # with one more, the one that has said nothing for longest is hung up on


class Callers:
    """It owns the listener and what connects there.

    `asked(connection, port)` takes over a connection whose program has said its port; False: it is hung up on.
    """

    def __init__(self, listener: Listener, asked: Callable[[Connection, int], bool]) -> None:
        self._listener = listener
        self._asked = asked
        self._greetings: dict[Connection, Greeting] = {}
        self._host: DeviceHost | None = None
        self._accepts = False  # the listener is watched

    def accept(self, host: DeviceHost) -> None:
        """Accept from now on, or again: no descriptor was left, and one is by now."""
        self._host = host
        if not self._accepts:
            self._accepts = True
            host.watch(self._listener, lambda: self._accept(host))

    def _accept(self, host: DeviceHost) -> None:
        try:
            connection = self._listener.accept()
        except OSError as exc:
            host.notice(f"a connection to the guest: {exc.strerror}")
            host.unwatch(self._listener)
            self._accepts = False
            return
        if connection is None:
            return
        if len(self._greetings) >= CALLERS_MAX:
            self._hang_up(host, next(iter(self._greetings)))
        self._greetings[connection] = Greeting()
        host.watch(connection, lambda: self._listen(host, connection))

    def _listen(self, host: DeviceHost, connection: Connection) -> None:
        """Take what a host program says first, and no more than that."""
        greeting = self._greetings.get(connection)
        if greeting is None:
            return
        now = host.runtime.now()
        try:
            data = connection.recv(LINE_MAX, now, peek=True)
            if data is None:
                return
            taken = greeting.take(data)
            if taken:
                connection.recv(taken, now)
        except (ChannelClosedError, OSError):
            greeting.failed = True
        if greeting.failed:
            self._hang_up(host, connection)
        elif greeting.port is not None:
            del self._greetings[connection]
            host.unwatch(connection)
            if not self._asked(connection, greeting.port):
                connection.close()

    def _hang_up(self, host: DeviceHost, connection: Connection) -> None:
        del self._greetings[connection]
        host.unwatch(connection)
        connection.close()
        self.accept(host)

    def hang_up(self) -> None:
        """Close all connections, and accept no more."""
        if self._host is None:
            return
        for connection in self._greetings:
            self._host.unwatch(connection)
            connection.close()
        self._greetings.clear()
        self._host.unwatch(self._listener)
        self._host, self._accepts = None, False

    def close(self) -> None:
        """Close the listener."""
        self._listener.close()
