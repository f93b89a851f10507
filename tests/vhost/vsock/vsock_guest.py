"""A guest's side of the packets, for tests; and a host's side that is no socket."""

from __future__ import annotations

from dataclasses import dataclass, field

from hfsched.vhost.devices.vsock.packet import HEADER_SIZE, HOST_CID, STREAM, Header, Op
from hfsched.vhost.devices.vsock.stream import State, Stream
from hfsched.vhost.devices.vsock.streams import Streams

__all__ = ["CID", "FakeHost", "Packet", "Wire", "decode", "packet"]

CID = 3
Packet = tuple[Header, bytes]


def packet(
    op: int,
    guest_port: int = 1000,
    host_port: int = 80,
    data: bytes = b"",
    *,
    flags: int = 0,
    buffer: int = 1 << 16,
    forwarded: int = 0,
    source_cid: int = CID,
    target_cid: int = HOST_CID,
    kind: int = STREAM,
    size: int | None = None,
) -> Packet:
    """Return a packet of the guest."""
    size = len(data) if size is None else size
    ports = (guest_port, host_port)
    header = Header(source_cid, target_cid, *ports, size, kind, op, flags, buffer, forwarded)
    return header, data


def decode(data: bytes) -> Packet:
    """Return a packet to the guest; its bytes are as many as it says."""
    header, payload = Header.decode(data[:HEADER_SIZE]), data[HEADER_SIZE:]
    assert header.size == len(payload)
    assert header.op in (*Op,)
    return header, payload


@dataclass
class FakeHost:
    """What hosts have to say, by stream: bytes, and whether they end then."""

    says: dict[Stream, bytes] = field(default_factory=dict)
    ended: set[Stream] = field(default_factory=set)
    pulled: dict[Stream, bytes] = field(default_factory=dict)

    def pull(self, stream: Stream, size: int) -> bytes | None:
        assert size > 0
        data, self.says[stream] = (
            self.says.get(stream, b"")[:size],
            self.says.get(stream, b"")[size:],
        )
        if data:
            self.pulled[stream] = self.pulled.get(stream, b"") + data
            return data
        return b"" if stream in self.ended else None


ROOM = HEADER_SIZE + 4096


class Wire:
    """Streams, and what has gone to the guest."""

    def __init__(self, *, limit: int = 4, buffer: int = 1024) -> None:
        self.streams = Streams(CID, limit=limit, buffer=buffer)
        self.host = FakeHost()

    def send(self, sent: Packet, *, payload: bool = True) -> Stream | None:
        header, data = sent
        return self.streams.receive(header, lambda: data if payload else None)

    def take(self, room: int = ROOM) -> Packet | None:
        found = self.streams.take(room, self.host.pull)
        assert found is None or len(found) <= room
        return None if found is None else decode(found)

    def next(self) -> Packet:
        found = self.take()
        assert found is not None
        return found

    def ops(self) -> list[int]:
        found = []
        while (taken := self.take()) is not None:
            found.append(taken[0].op)
        return found

    def open(self, guest_port: int = 1000, host_port: int = 80, buffer: int = 1 << 16) -> Stream:
        """Open a stream that the guest asks for."""
        stream = self.send(packet(Op.REQUEST, guest_port, host_port, buffer=buffer))
        assert stream is not None
        assert stream.state is State.ASKED
        stream.accept()
        self.streams.changed(stream)
        assert self.ops() == [Op.RESPONSE]
        return stream

    def says(self, stream: Stream, data: bytes, *, ends: bool = False) -> None:
        self.host.says[stream] = self.host.says.get(stream, b"") + data
        if ends:
            self.host.ended.add(stream)
        stream.readable = True
        self.streams.changed(stream)

    def took(self, stream: Stream, size: int) -> bytes:
        found = bytes(stream.to_host[:size])
        stream.host_took(len(found))
        self.streams.changed(stream)
        return found
