"""One connection between a port of the guest and one of the host: what comes in, what goes out.

It knows no socket.  What the guest has sent waits in `to_host`, for `host_took`; what the host has to send is pulled, when there is
room for it in the guest, so nothing of it waits here.

Invariants: `to_host` has at most `buffer` bytes besides the greeting's answer.  What was sent and, by the guest's word, not forwarded is at most the guest's buffer
at the time of sending (`credit`).  The last packet of a stream is its RST, or the guest's.
What the guest sent before its RST still goes to the host.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntFlag

from hfsched.vhost.devices.vsock.greeting import answer
from hfsched.vhost.devices.vsock.packet import (
    HOST_CID,
    MASK,
    PACKET_MAX,
    STREAM,
    Header,
    Op,
    Shutdown,
)

__all__ = ["Pull", "State", "Stream"]

# Returns at most so many bytes of a stream's host; empty: the host has ended; None: there are none now.
Pull = Callable[["Stream", int], "bytes | None"]


class State(Enum):
    """What a stream waits for."""

    ASKED = "asked"  # by the guest, for the host's `accept` or `abort`
    ASKING = "asking"  # the guest, for its RESPONSE
    OPEN = "open"
    ENDED = "ended"  # for nothing; its RST may be due


class _Due(IntFlag):
    """Packets that are to be sent."""

    REQUEST = 1
    RESPONSE = 2
    RST = 4
    SHUTDOWN = 8
    CREDIT_UPDATE = 16
    CREDIT_REQUEST = 32


class Stream:
    """See the module's text.  `buffer` is how many bytes of the guest it takes at most."""

    def __init__(self, guest_cid: int, guest_port: int, host_port: int, buffer: int) -> None:
        self._guest_cid = guest_cid
        self.guest_port = guest_port
        self.host_port = host_port
        self.buffer = buffer
        self.state = State.ASKED
        self.to_host = bytearray()  # what the host is to take
        self._uncounted = 0  # of them, at the beginning: not the guest's
        self._received = self._forwarded = self._told = (
            0  # bytes of the guest; those it knows to be forwarded
        )
        self._sent = self._peer_buffer = self._peer_forwarded = 0
        self._due = _Due(0)
        self._credit_asked = False
        self.readable = False  # the host may have bytes, or its end
        self.guest_ends = Shutdown(0)
        self.host_ends = Shutdown(0)

    @property
    def credit(self) -> int:
        """How many bytes the guest has room for."""
        on_their_way = (self._sent - self._peer_forwarded) & MASK
        return max(0, self._peer_buffer - on_their_way)

    @property
    def room(self) -> int:
        """How many bytes the guest may send, as far as is known here: it may know of fewer."""
        return self.buffer - ((self._received - self._forwarded) & MASK)

    @property
    def reads_host(self) -> bool:
        """Whether what the host sends still goes to the guest."""
        ended = self.host_ends & Shutdown.SEND or self.guest_ends & Shutdown.RECEIVE
        return self.state is State.OPEN and not ended

    @property
    def host_is_gone(self) -> bool:
        """Whether it only waits for the guest to notice that."""
        return self.host_ends == Shutdown.BOTH

    @property
    def is_due(self) -> bool:
        """Whether `take` may have a packet."""
        return bool(self._due) or (self.readable and self.reads_host)

    # The host.

    def ask(self) -> None:
        """Ask the guest for the connection."""
        self.state = State.ASKING
        self._due = _Due.REQUEST

    def accept(self) -> None:
        """Accept what the guest has asked for."""
        self.state = State.OPEN
        self._due |= _Due.RESPONSE
        self.readable = True

    def host_took(self, count: int) -> None:
        """Take away the first bytes of `to_host`: the host has them."""
        del self.to_host[:count]
        uncounted = min(self._uncounted, count)
        self._uncounted -= uncounted
        self._forwarded = (self._forwarded + count - uncounted) & MASK
        if self.state is not State.OPEN:
            return
        if (self._forwarded - self._told) & MASK >= self.buffer // 4:
            self._due |= _Due.CREDIT_UPDATE
        self._end_if_through()

    def host_gone(self) -> None:
        """Learn that the host takes nothing any more; what it has sent before is still pulled."""
        self.host_took(len(self.to_host))
        if self.state is not State.OPEN:
            self.abort()
        elif self.reads_host:
            self._end_host(Shutdown.RECEIVE)
            self.readable = True
        else:
            self._end_host(Shutdown.BOTH)

    def abort(self) -> None:
        """End it at once; what has not gone to the host is lost."""
        self.to_host.clear()
        if self.state is not State.ENDED:
            # Of a request that it has not seen the guest need not know.
            self._end(_Due(0) if self._due & _Due.REQUEST else _Due.RST)

    def _end(self, due: _Due) -> None:
        self._due = due
        self.state = State.ENDED
        self.readable = False

    def _end_host(self, ends: Shutdown) -> None:
        if ends & ~self.host_ends:
            self.host_ends |= ends
            self._due |= _Due.SHUTDOWN

    # The guest.

    def receive(self, header: Header, payload: Callable[[], bytes | None]) -> None:
        """Take a packet of the guest; `payload()` returns its bytes, or None if they are not there.

        One that is not allowed ends the stream.
        """
        if self.state is State.ENDED:
            return
        self.learn(header)
        match header.op:
            case Op.RST:
                self._end(_Due(0))
            case Op.RESPONSE if self.state is State.ASKING and not self._due & _Due.REQUEST:
                self.state = State.OPEN
                self.readable = True
                line = answer(self.host_port)
                self.to_host += line
                self._uncounted = len(line)
            case Op.RW if self.state is State.OPEN:
                self._take(header.size, payload)
            case Op.SHUTDOWN if self.state is State.OPEN:
                self.guest_ends |= Shutdown(header.flags & Shutdown.BOTH)
                if self.guest_ends & self.host_ends & Shutdown.RECEIVE:
                    self._end_host(Shutdown.BOTH)
                self._end_if_through()
            case Op.CREDIT_UPDATE if self.state is State.OPEN:
                pass
            case Op.CREDIT_REQUEST if self.state is State.OPEN:
                self._due |= _Due.CREDIT_UPDATE
            case _:
                self.abort()

    def learn(self, header: Header) -> None:
        """Take over what a packet says of the guest's buffer."""
        self._peer_buffer, self._peer_forwarded = header.buffer, header.forwarded

    def _take(self, size: int, payload: Callable[[], bytes | None]) -> None:
        if size > self.room or self.guest_ends & Shutdown.SEND:
            self.abort()
            return
        data = payload()
        if data is None:
            self.abort()
            return
        self._received = (self._received + size) & MASK
        self.to_host += data
        if self.host_ends & Shutdown.RECEIVE:
            self.host_took(len(self.to_host))

    def _end_if_through(self) -> None:
        """Answer the guest's end of both directions, when the host has all."""
        if self.guest_ends == Shutdown.BOTH and not self.to_host:
            self.abort()

    # What goes out.

    def take(self, room: int, pull: Pull) -> bytes | None:
        """Return the next packet, whose bytes besides the header are at most `room`; None: there is none now."""
        if self.state is State.ENDED:
            due, self._due = self._due, _Due(0)
            return self._packet(Op.RST) if due else None
        for due, op in ((_Due.REQUEST, Op.REQUEST), (_Due.RESPONSE, Op.RESPONSE)):
            if self._due & due:
                self._due &= ~due
                return self._packet(op)
        data = self._pull(room, pull) if self.readable and self.reads_host else b""
        if data:
            packet = self._packet(Op.RW, size=len(data)) + data
            self._sent = (self._sent + len(data)) & MASK
            return packet
        if self._due & _Due.SHUTDOWN:
            self._due &= ~_Due.SHUTDOWN
            return self._packet(Op.SHUTDOWN, flags=self.host_ends)
        if self._due & _Due.CREDIT_REQUEST:
            self._due &= ~_Due.CREDIT_REQUEST
            return self._packet(Op.CREDIT_REQUEST)
        return self._packet(Op.CREDIT_UPDATE) if self._due & _Due.CREDIT_UPDATE else None

    def _pull(self, room: int, pull: Pull) -> bytes:
        """Return bytes of the host for an RW packet, or none."""
        size = min(self.credit, room, PACKET_MAX)
        if not size:
            if not self.credit and not self._credit_asked:
                self._credit_asked = True
                self._due |= _Due.CREDIT_REQUEST
            return b""
        data = pull(self, size)
        if data:
            self._credit_asked = False
            return data
        self.readable = False
        if data is not None:
            self._end_host(Shutdown.SEND)
        return b""

    def _packet(self, op: Op, *, size: int = 0, flags: int = 0) -> bytes:
        self._told = self._forwarded
        self._due &= ~_Due.CREDIT_UPDATE
        return Header(
            source_cid=HOST_CID,
            target_cid=self._guest_cid,
            source_port=self.host_port,
            target_port=self.guest_port,
            size=size,
            type=STREAM,
            op=op,
            flags=flags,
            buffer=self.buffer,
            forwarded=self._forwarded,
        ).encode()
