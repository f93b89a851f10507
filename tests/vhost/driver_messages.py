"""A front-end's messages and their answers: a part of `driver.FrontEnd`."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from hfsched.vhost.protocol import messages as wire
from hfsched.vhost.protocol.numbers import HeaderFlag, ProtocolFeature, RequestId

__all__ = ["Messenger", "RefusedByDeviceError"]

_ANSWERED = {
    RequestId.GET_FEATURES,
    RequestId.GET_PROTOCOL_FEATURES,
    RequestId.GET_QUEUE_NUM,
    RequestId.GET_VRING_BASE,
    RequestId.GET_CONFIG,
    RequestId.GET_INFLIGHT_FD,
    RequestId.GET_MAX_MEM_SLOTS,
    RequestId.SET_LOG_BASE,
    RequestId.SET_DEVICE_STATE_FD,
    RequestId.CHECK_DEVICE_STATE,
}


class RefusedByDeviceError(Exception):
    """A request that was answered with a failure."""


class Messenger:
    """Asks a device, over a socket; `protocol` is what was acknowledged of the protocol's features."""

    def __init__(self, connected: socket.socket, notices: list[str]) -> None:
        self._socket = connected
        self.notices = notices  # what the session has said
        self.protocol = 0

    def ask(
        self, request: RequestId, payload: bytes = b"", fds: Sequence[int] = ()
    ) -> tuple[bytes, list[int]]:
        """Send a message; return the payload and the descriptors of its answer.

        Raises RefusedByDeviceError for an acknowledgement that is not 0, ConnectionError when the device ends the connection.
        """
        acks = bool(self.protocol & ProtocolFeature.REPLY_ACK)
        flags = HeaderFlag.NEED_REPLY if acks else HeaderFlag(0)
        header = wire.encode_header(request, len(payload), flags)
        socket.send_fds(self._socket, [header + payload], list(fds))
        if request not in _ANSWERED and not acks:
            return b"", []
        answer, found = self._receive(request)
        if request not in _ANSWERED and int.from_bytes(answer, "little"):
            raise RefusedByDeviceError(f"{request.name}: {self.notices[-1:]}")
        return answer, found

    def _receive(self, request: RequestId) -> tuple[bytes, list[int]]:
        head, fds, _, _ = socket.recv_fds(self._socket, 12, 4)
        head += self._exactly(12 - len(head))
        number, flags, size = struct.unpack("<III", head)
        assert (number, flags & 7) == (request, 5), (request, number, flags)
        return self._exactly(size), fds

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            data = self._socket.recv(size - len(found))
            if not data:
                raise ConnectionError(f"the device has ended the connection: {self.notices}")
            found += data
        return found

    def number(self, request: RequestId, payload: bytes = b"") -> int:
        """Send a message that is answered by a u64."""
        return int.from_bytes(self.ask(request, payload)[0], "little")
