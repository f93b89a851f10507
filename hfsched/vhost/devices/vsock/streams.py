"""All streams of a guest, by their ports: where its packets go, and which packet it gets next.

Invariants: at most `limit` streams, `REPLIES_MAX` answers to packets that belong to none.  `_due` has, in turn, the streams that
may have a packet: one that had none, for lack of credit for example, is there again when it has `changed`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from hfsched.vhost.devices.vsock.packet import HEADER_SIZE, HOST_CID, MASK, STREAM, Header, Op
from hfsched.vhost.devices.vsock.stream import Pull, State, Stream

__all__ = ["BUFFER", "REPLIES_MAX", "STREAMS_MAX", "Streams"]

STREAMS_MAX = 256
BUFFER = 1 << 18  # bytes of a stream
REPLIES_MAX = 64
_FIRST_PORT = 1 << 30  # of the host, for connections that it asks for


class Streams:
    """See the module's text.  Who changes a stream by its own methods says so by `changed`."""

    def __init__(self, guest_cid: int, *, limit: int = STREAMS_MAX, buffer: int = BUFFER) -> None:
        self._guest_cid = guest_cid
        self._limit = limit
        self._buffer = buffer
        self._streams: dict[tuple[int, int], Stream] = {}
        self._due: dict[tuple[int, int], Stream] = {}
        self._replies: deque[bytes] = deque()
        self._port = _FIRST_PORT

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    # The host.

    @property
    def full(self) -> bool:
        """Whether there is no room for one stream more."""
        return len(self._streams) >= self._limit

    def ask(self, guest_port: int) -> Stream | None:
        """Ask the guest for a connection to a port; None: there are too many."""
        if self.full and not self._evict():
            return None
        while (guest_port, self._port) in self._streams:
            self._advance()
        stream = self._add(guest_port, self._port)
        self._advance()
        stream.ask()
        self.changed(stream)
        return stream

    def _advance(self) -> None:
        self._port = self._port + 1 if self._port + 1 < MASK else _FIRST_PORT

    def _add(self, guest_port: int, host_port: int) -> Stream:
        stream = Stream(self._guest_cid, guest_port, host_port, self._buffer)
        self._streams[guest_port, host_port] = stream
        return stream

    def changed(self, stream: Stream) -> None:
        """See to what a stream has to send now."""
        key = (stream.guest_port, stream.host_port)
        if self._streams.get(key) is not stream:
            return
        if stream.is_due:
            self._due.setdefault(key, stream)
        elif stream.state is State.ENDED and not stream.to_host:
            self._remove(key)

    def _remove(self, key: tuple[int, int]) -> None:
        del self._streams[key]
        self._due.pop(key, None)

    def _evict(self) -> bool:
        """Make room: end the oldest one that only waits for the guest to notice that the host is gone."""
        for stream in self._streams.values():
            if stream.host_is_gone and len(self._replies) < REPLIES_MAX:
                stream.abort()
                packet = stream.take(0, _none)
                if packet is not None:
                    self._replies.append(packet)
                self._remove((stream.guest_port, stream.host_port))
                return True
        return False

    # The guest.

    @property
    def blocked(self) -> bool:
        """Whether no packet can be received before the guest has taken answers."""
        return len(self._replies) >= REPLIES_MAX

    def receive(self, header: Header, payload: Callable[[], bytes | None]) -> Stream | None:
        """Take a packet of the guest, when not `blocked`; return the stream that it was for.

        One that is `ASKED` for is the caller's to accept or to abort.
        """
        if header.source_cid != self._guest_cid:
            return None  # whom it is from cannot be answered
        key = (header.source_port, header.target_port)
        if header.target_cid != HOST_CID or header.type != STREAM:
            self._refuse(header)
            return None
        stream = self._streams.get(key)
        if stream is not None and stream.state is State.ENDED and stream.is_due:
            return None  # it will be told
        if stream is None or stream.state is State.ENDED:
            if header.op != Op.REQUEST or stream is not None or (self.full and not self._evict()):
                self._refuse(header)
                return None
            stream = self._add(*key)
            stream.learn(header)
            return stream
        stream.receive(header, payload)
        self.changed(stream)
        return stream

    def _refuse(self, header: Header) -> None:
        """Answer by RST what belongs to no stream, but an RST."""
        if header.op == Op.RST or self.blocked:
            return
        reply = Header(
            source_cid=header.target_cid,
            target_cid=header.source_cid,
            source_port=header.target_port,
            target_port=header.source_port,
            size=0,
            type=header.type,
            op=Op.RST,
        )
        self._replies.append(reply.encode())

    # What goes out.

    @property
    def is_due(self) -> bool:
        """Whether `take` may have a packet."""
        return bool(self._replies or self._due)

    def take(self, room: int, pull: Pull) -> bytes | None:
        """Return the next packet, of at most `room` bytes, which fit a header; None: there is none now."""
        if self._replies:
            return self._replies.popleft()
        while self._due:
            key, stream = next(iter(self._due.items()))
            del self._due[key]
            packet = stream.take(room - HEADER_SIZE, pull)
            if packet is not None:
                self.changed(stream)
                return packet
        return None

    # Its end.

    def abort(self) -> None:
        """End all streams."""
        for stream in self:
            stream.abort()
            self.changed(stream)

    def reset(self) -> None:
        """Have none."""
        self._streams.clear()
        self._due.clear()
        self._replies.clear()

    def save(self) -> list[list[int]]:
        """Return the ports of what the guest takes for a stream: the guest's, the host's."""
        return [list(key) for key in self._streams]

    def restore(self, ports: list[tuple[int, int]]) -> None:
        """Have the guest told that these have ended."""
        self.reset()
        for guest_port, host_port in ports[: self._limit]:
            stream = self._add(guest_port, host_port)
            stream.abort()
            self.changed(stream)


def _none(_stream: Stream, _size: int) -> None:
    return None
