"""A stream's socket: it moves bytes between them, and waits for what the stream waits for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.vhost.devices.vsock.packet import Shutdown
from hfsched.vhost.devices.vsock.stream import State, Stream

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Waitable
    from hfsched.vhost.device import DeviceHost

__all__ = ["Link"]

_PART = 1 << 16  # bytes that are sent at once


class Link:
    """It owns the connection.  `changed(link)` is called when the socket has become ready: then `update` it."""

    def __init__(
        self,
        host: DeviceHost,
        connection: Connection,
        stream: Stream,
        changed: Callable[[Link], None],
    ) -> None:
        self.stream = stream
        self.closed = False
        self._host = host
        self._connection = connection
        self._changed = changed
        self._watched: dict[str, Waitable] = {}
        self._ended = Shutdown(0)  # the directions of the socket that were shut down
        self._ready = {
            "bytes": (connection, self._has_bytes),
            "room": (connection.room, lambda: changed(self)),
            "hangup": (connection.hangup, self._hung_up),
        }

    def pull(self, size: int) -> bytes | None:
        """See `hfsched.vhost.devices.vsock.stream.Pull`."""
        if self.closed:
            return b""
        try:
            return self._connection.recv(size, self._host.runtime.now())
        except OSError:
            return b""

    def update(self) -> None:
        """Give the host what it has room for, and wait for what is to come next."""
        if self.closed:
            return
        stream = self.stream
        self._flush()
        if (stream.state is State.ENDED and not stream.to_host) or stream.host_is_gone:
            self.close()
            return
        if not stream.to_host and stream.guest_ends & Shutdown.SEND:
            self._shut_down(Shutdown.SEND)
        if stream.guest_ends & Shutdown.RECEIVE:
            self._shut_down(Shutdown.RECEIVE)
        ended = stream.host_ends & Shutdown.RECEIVE
        self._watch("bytes", wanted=stream.reads_host and not stream.readable)
        self._watch("room", wanted=bool(stream.to_host))
        self._watch("hangup", wanted=not stream.reads_host and not ended)

    def _flush(self) -> None:
        stream = self.stream
        while stream.to_host:
            try:
                sent = self._connection.send(bytes(memoryview(stream.to_host)[:_PART]))
            except (ChannelClosedError, OSError):
                stream.host_gone()
                return
            if not sent:
                return
            stream.host_took(sent)

    def _shut_down(self, end: Shutdown) -> None:
        if not self._ended & end:
            self._ended |= end
            self._connection.shutdown(receive=end is Shutdown.RECEIVE, send=end is Shutdown.SEND)

    def _watch(self, name: str, *, wanted: bool) -> None:
        if wanted == (name in self._watched):
            return
        source, ready = self._ready[name]
        if wanted:
            self._watched[name] = source
            self._host.watch(source, ready)
        else:
            self._host.unwatch(self._watched.pop(name))

    def _has_bytes(self) -> None:
        if not self.closed:
            self.stream.readable = True
            self._changed(self)

    def _hung_up(self) -> None:
        if not self.closed:
            self.stream.host_gone()
            self._changed(self)

    def close(self) -> None:
        """Close the connection; the second call does nothing."""
        if not self.closed:
            self.closed = True
            for source in self._watched.values():
                self._host.unwatch(source)
            self._watched.clear()
            self._connection.close()
