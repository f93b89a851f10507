"""A host program's connection to one port of one VM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.abi.ffa import MAILBOX_SIZE
from hfsched.errors import UserError
from hfsched.mailbox.ports import PAYLOAD_MAX, RAW, Port, PortMessage, frame

if TYPE_CHECKING:
    from hfsched.runtime.base import Event
    from hfsched.scheduler.outbox import Outbox, Sent

__all__ = ["Endpoint"]


class Endpoint:
    """A connection between a host port of its own and port `remote` of a VM.

    It reads all that the VM sends to its host port.  Any thread may use it.
    """

    def __init__(self, outbox: Outbox, port: Port, remote: int) -> None:
        self._outbox = outbox
        self._port = port
        self.remote = remote
        self.payload_max = MAILBOX_SIZE if port.number == RAW else PAYLOAD_MAX

    @property
    def host_port(self) -> int:
        """The host port that the VM answers to (`RAW` without framing)."""
        return self._port.number

    @property
    def arrived(self) -> Event:
        """Set while there is something to receive, and when nothing will come any more."""
        return self._port.arrived

    @property
    def ended(self) -> bool:
        """Whether nothing will be received any more but what is queued."""
        return self._port.ended

    def _framed(self, payload: bytes) -> bytes:
        if len(payload) > self.payload_max:
            raise UserError(f"a message of {len(payload)} bytes: at most {self.payload_max}")
        if self._port.number == RAW:
            return payload
        return frame(self._port.number, self.remote, payload)

    def send(self, payload: bytes, deadline: int | None = None) -> Sent:
        """Send, and wait while the VM's mailbox is full, until the deadline (ns)."""
        return self._outbox.send(self._framed(payload), deadline)

    def try_send(self, payload: bytes) -> Sent:
        """Send if that needs no waiting."""
        return self._outbox.try_send(self._framed(payload))

    def recv(self, deadline: int | None = None) -> PortMessage | None:
        """Return the next message; None at the deadline, or when the machine stops."""
        return self._port.get(deadline)

    def close(self, *, given_up: bool = False) -> None:
        """Disconnect; messages that come later are discarded and counted.

        Those to a port below 2**32 wait for a program that opens it, unless it was `given_up`.
        """
        self._port.close(given_up=given_up)
