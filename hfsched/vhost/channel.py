"""The connection to a front-end: whole messages, each with its descriptors."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.vhost.protocol.messages import (
    Body,
    Header,
    MessageError,
    encode_header,
    parse,
    parse_header,
)
from hfsched.vhost.protocol.numbers import FDS_MAX, HEADER_SIZE, HeaderFlag, RequestId

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Runtime

__all__ = ["BODY_WITHIN", "Channel", "Descriptors", "Message"]

BODY_WITHIN = (
    5_000_000_000  # ns between a header and the end of its payload, or for room for a reply
)


class Descriptors:
    """Descriptors that came with a message: who takes one owns it, the others are closed by `close`."""

    def __init__(self, fds: Sequence[int], close: Callable[[int], None] = os.close) -> None:
        self._fds = list(fds)
        self._close = close

    def __len__(self) -> int:
        return len(self._fds)

    def look(self) -> Sequence[int]:
        """Return them; they stay this object's."""
        return tuple(self._fds)

    def take(self) -> int:
        """Return the next one, the caller's from here on."""
        return self._fds.pop(0)

    def close(self) -> None:
        """Close what was not taken."""
        while self._fds:
            with suppress(OSError):
                self._close(self._fds.pop())


class Message:
    """A request of the front-end; close it."""

    def __init__(self, header: Header, request: RequestId, body: Body, fds: Descriptors) -> None:
        self.header = header
        self.request = request
        self.body = body
        self.fds = fds


class Channel:
    """Reads and writes messages on a connection, which it owns.

    A message that is none raises MessageError: what follows cannot be understood.  A peer that is gone raises ChannelClosedError.
    """

    def __init__(
        self, runtime: Runtime, connection: Connection, close: Callable[[int], None] = os.close
    ) -> None:
        self._runtime = runtime
        self._close = close
        self.connection = connection

    def receive(self) -> Message:
        """Return the next message, of which the first byte is there; waits for the rest of it."""
        deadline = self._runtime.now() + BODY_WITHIN
        data, fds = self._first(deadline)
        descriptors = Descriptors(fds, self._close)
        try:
            header = parse_header(data + self._rest(HEADER_SIZE - len(data), deadline))
            payload = self._rest(header.size, deadline)
            request, body = parse(header, payload, len(descriptors))
        except BaseException:
            descriptors.close()
            raise
        return Message(header, request, body, descriptors)

    def _first(self, deadline: int) -> tuple[bytes, list[int]]:
        try:
            got = self.connection.recv_fds(HEADER_SIZE, FDS_MAX, deadline)
        except OSError as exc:
            raise MessageError(f"a message's descriptors: {exc.strerror}") from None
        if got is None:
            raise MessageError("a message that does not come")
        if not got[0]:
            for fd in got[1]:
                self._close(fd)
            raise ChannelClosedError
        return got

    def _rest(self, size: int, deadline: int) -> bytes:
        found = b""
        while len(found) < size:
            data = self.connection.recv(size - len(found), deadline)
            if data is None:
                raise MessageError(f"a message that stops after {len(found)} of {size} bytes")
            if not data:
                raise ChannelClosedError
            found += data
        return found

    def reply(self, request: int, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Answer a request."""
        self._send(encode_header(request, len(payload)) + payload, fds)

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        deadline = self._runtime.now() + BODY_WITHIN
        while data:
            sent = self.connection.send(data, fds)
            if sent:
                data, fds = data[sent:], ()
            elif not self._runtime.select([self.connection.room], deadline):
                raise MessageError("a front-end that does not read its answers")

    def tell(self, request: int, payload: bytes = b"") -> bool:
        """Send a message of ours, whole, if there is room; return whether it was sent.  Of a backend-request connection."""
        data = encode_header(request, len(payload), HeaderFlag(0)) + payload
        try:
            sent = self.connection.send(data)
        except (ChannelClosedError, OSError):
            return True  # nobody listens any more
        if 0 < sent < len(data):
            raise MessageError("a front-end that takes half a message")
        return bool(sent)

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()
