"""Asks a back-end over a connection, and waits for its replies, not for ever."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.vhost.frontend.wire import (
    BackendError,
    BackendRefusalError,
    encode_request,
    parse_backend_request,
    parse_reply_header,
)
from hfsched.vhost.protocol.messages import encode_header, encode_number
from hfsched.vhost.protocol.numbers import FDS_MAX, HEADER_SIZE, BackendRequestId, RequestId

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Event, Runtime, Waitable

__all__ = ["REPLY_WITHIN", "Client", "Reply"]

REPLY_WITHIN = 5_000_000_000  # ns, for each request


class Reply:
    """A reply's bytes, and its descriptors, which are the caller's."""

    def __init__(self, payload: bytes, fds: list[int]) -> None:
        self.payload = payload
        self.fds = fds


class Client:
    """The connection to a back-end, which it owns.  One task uses it; all raises BackendError.

    `acks`: requests without a reply are acknowledged.  `requests` is what the back-end asks on; what is asked there is served
    also while a reply is awaited, for the back-end may wait for that one first.  `closing` ends every wait.
    """

    def __init__(
        self,
        runtime: Runtime,
        connection: Connection,
        closing: Event,
        close: Callable[[int], None] = os.close,
    ) -> None:
        self._runtime = runtime
        self._closing = closing
        self._close = close
        self.connection = connection
        self.acks = False
        self.within = REPLY_WITHIN
        self.requests: BackendRequests | None = None

    def tell(self, request: RequestId, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        """Have something done; with `acks` it is done when this returns."""
        deadline = self._runtime.now() + self.within
        self._send(request, payload, fds, deadline, ack=self.acks)
        if self.acks:
            answer = int.from_bytes(self._receive(request, (8,), 0, deadline).payload, "little")
            if answer:
                raise BackendRefusalError(f"{request.name}: it is refused ({answer})")

    def ask(
        self,
        request: RequestId,
        payload: bytes = b"",
        sizes: tuple[int, ...] = (8,),
        fds: int = 0,
        given: Sequence[int] = (),
    ) -> Reply:
        """Return the reply to a request that comes with descriptors: of a size of these, with `fds` of them."""
        deadline = self._runtime.now() + self.within
        self._send(request, payload, given, deadline, ack=False)
        return self._receive(request, sizes, fds, deadline)

    def _send(
        self,
        request: RequestId,
        payload: bytes,
        fds: Sequence[int],
        deadline: int,
        *,
        ack: bool,
    ) -> None:
        data = encode_request(request, payload, ack=ack)
        while data:
            try:
                sent = self.connection.send(data, fds)
            except (ChannelClosedError, OSError):
                raise BackendError("it has closed the connection", gone=True) from None
            data, fds = data[sent:], fds if not sent else ()
            if not sent:
                self._wait(self.connection.room, deadline, f"{request.name}: it reads nothing")

    def _receive(
        self, request: RequestId, sizes: tuple[int, ...], fds: int, deadline: int
    ) -> Reply:
        found: list[int] = []
        try:
            header = self._read(HEADER_SIZE, request, deadline, found)
            size = parse_reply_header(header, request, sizes)
            payload = self._read(size, request, deadline, found)
            if len(found) != fds:
                raise BackendError(
                    f"{request.name}: a reply with {len(found)} descriptors, not {fds}"
                )
        except BaseException:
            self.drop(found)
            raise
        return Reply(payload, found)

    def _read(self, size: int, request: RequestId, deadline: int, fds: list[int]) -> bytes:
        data = b""
        while len(data) < size:
            self._wait(self.connection, deadline, f"{request.name}: no answer")
            try:
                got = self.connection.recv_fds(
                    size - len(data), FDS_MAX - len(fds), self._runtime.now()
                )
            except OSError as exc:
                raise BackendError(f"{request.name}: {exc.strerror}") from None
            if got is None:
                continue
            fds += got[1]
            if not got[0]:
                raise BackendError("it has closed the connection", gone=True)
            data += got[0]
        return data

    def _wait(self, waitable: Waitable, deadline: int, why: str) -> None:
        while True:
            wanted = [self._closing, waitable]
            if self.requests is not None:
                wanted.append(self.requests.connection)
            ready = self._runtime.select(wanted, deadline)
            if self._closing in ready:
                raise BackendError("the device is closed")
            if self.requests is not None and self.requests.connection in ready:
                self.requests.serve()
            if waitable in ready:
                return
            if not ready or self._runtime.now() >= deadline:
                raise BackendError(f"{why} within {self.within // 10**9} s")

    def read_all(self, connection: Connection, most: int) -> bytes:
        """Return what comes on another connection to its end; at most so many bytes, and within the time of a reply."""
        deadline, found = self._runtime.now() + self.within, bytearray()
        while len(found) <= most:
            self._wait(connection, deadline, "its state does not end")
            try:
                data = connection.recv(1 << 16, self._runtime.now())
            except OSError as exc:
                raise BackendError(f"its state: {exc.strerror}") from None
            if data == b"":
                return bytes(found)
            found += data or b""
        raise BackendError(f"its state is of more than {most} bytes")

    def write_all(self, connection: Connection, data: bytes) -> None:
        """Write bytes to another connection, and end it, within the time of a reply."""
        deadline, left = self._runtime.now() + self.within, memoryview(data)
        while left:
            try:
                sent = connection.send(bytes(left[: 1 << 16]))
            except (ChannelClosedError, OSError):
                raise BackendError("it does not read its state") from None
            left = left[sent:]
            if not sent:
                self._wait(connection.room, deadline, "it does not read its state")
        connection.shutdown(send=True)

    def unasked(self) -> None:
        """Raise what it means that the connection is ready although nothing was asked."""
        try:
            data = self.connection.recv(1, self._runtime.now())
        except OSError as exc:
            raise BackendError(f"{exc.strerror}", gone=True) from None
        if data is None:
            return
        raise BackendError(
            "it speaks unasked" if data else "it has closed the connection", gone=not data
        )

    def drop(self, fds: Sequence[int]) -> None:
        """Close descriptors."""
        for fd in fds:
            with suppress(OSError):
                self._close(fd)

    def close(self) -> None:
        """Close the connection, and that of the back-end's requests."""
        self.connection.close()
        if self.requests is not None:
            self.requests.connection.close()
            self.requests = None


class BackendRequests:
    """What a back-end asks, on a connection of its own, which `Client.close` closes.

    Only a change of the configuration means something: then `config_changed` is set.  A back-end that closes it asks no more.
    """

    def __init__(self, runtime: Runtime, connection: Connection) -> None:
        self._runtime = runtime
        self._data = b""
        self.connection = connection
        self.config_changed = False

    def serve(self) -> None:
        """Take what has come; does not wait.  Raises BackendError."""
        try:
            data = self.connection.recv(1 << 12, self._runtime.now())
        except OSError:
            data = b""
        if data is None:
            return
        if not data:
            raise BackendError("it has closed the connection of its requests", gone=True)
        self._data += data
        while (found := parse_backend_request(self._data)) is not None:
            request, answered, size = found
            self._data = self._data[size:]
            known = request == BackendRequestId.CONFIG_CHANGE_MSG
            self.config_changed = self.config_changed or known
            if answered:
                self._answer(request, int(not known))

    def _answer(self, request: int, value: int) -> None:
        reply = encode_header(request, 8) + encode_number(value)
        try:
            sent = self.connection.send(reply)
        except (ChannelClosedError, OSError):
            raise BackendError("it has closed the connection of its requests", gone=True) from None
        if sent != len(reply):
            raise BackendError("it does not read the answers to its requests")
