"""Streams with any guest and any host: bounds, credit, and each byte once and in order."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from vsock_guest import Wire, packet

from hfsched.vhost.devices.vsock.packet import HEADER_SIZE, MASK, Op
from hfsched.vhost.devices.vsock.stream import State


@given(seed=st.integers(0, 1 << 32), hostile=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_guest_raises_anything_or_exceeds_a_bound(seed: int, hostile: bool) -> None:
    """Random packets, with random moves of the hosts between them; credit is checked at every packet."""
    drawn = random.Random(seed)
    wire = Wire(limit=3, buffer=256)
    peer: dict[tuple[int, int], tuple[int, int]] = {}  # {buffer, forwarded} as last told
    sent: dict[tuple[int, int], int] = {}
    for _ in range(200):
        match drawn.randrange(6):
            case 0 | 1 | 2:
                told = (drawn.choice([0, 10, 500, MASK]), drawn.choice([0, 5, 100, MASK]))
                made = packet(
                    drawn.choice([*Op, 0, 8]) if hostile else drawn.choice([1, 1, 4, 5, 5, 6, 7]),
                    drawn.randrange(3),
                    drawn.choice([80, 1 << 30, (1 << 30) + 1]),
                    b"x" * drawn.randrange(100),
                    flags=drawn.randrange(8),
                    buffer=told[0],
                    forwarded=told[1],
                    kind=drawn.choice([1, 1, 1, 1, 2]),
                )
                if not wire.streams.blocked:
                    stream = wire.send(made, payload=drawn.random() < 0.95)
                    key = (made[0].source_port, made[0].target_port)
                    if stream is not None:
                        peer[key] = told
                        if stream.state is State.ASKED:
                            sent[key] = 0
                            stream.accept() if drawn.random() < 0.8 else stream.abort()
                            wire.streams.changed(stream)
            case 3 if (asked := wire.streams.ask(drawn.randrange(3))) is not None:
                sent[asked.guest_port, asked.host_port] = 0
                peer[asked.guest_port, asked.host_port] = (0, 0)
            case 4:
                for stream in wire.streams:
                    match drawn.randrange(4):
                        case 0:
                            wire.says(
                                stream, b"y" * drawn.randrange(300), ends=drawn.random() < 0.1
                            )
                        case 1:
                            wire.took(stream, drawn.randrange(300))
                        case 2 if drawn.random() < 0.2:
                            stream.host_gone()
                            wire.streams.changed(stream)
            case _:
                for _ in range(drawn.randrange(5)):
                    taken = wire.take(HEADER_SIZE + drawn.choice([1, 7, 4096]))
                    if taken is None:
                        break
                    header, data = taken
                    key = (header.target_port, header.source_port)
                    if data:
                        sent[key] += len(data)
                        buffer, forwarded = peer[key]
                        assert (sent[key] - forwarded) & MASK <= buffer
        assert len(wire.streams) <= 3
        for stream in wire.streams:
            assert len(stream.to_host) <= 256 + len(b"OK 1073741824\n")


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=60, deadline=None)
def test_every_byte_arrives_once_and_in_order_both_ways(seed: int) -> None:
    """A guest that keeps to the rules, with buffers of any size; both sides end at the end."""
    drawn = random.Random(seed)
    wire = Wire(buffer=drawn.choice([1, 16, 300]))
    guest_buffer = drawn.choice([1, 9, 400])
    stream = wire.open(buffer=guest_buffer)
    up, down = drawn.randbytes(drawn.randrange(2000)), drawn.randbytes(drawn.randrange(2000))
    to_send, at_host, at_guest, read = up, b"", b"", 0
    room, forwarded, guest_ended, host_ended, ended = wire.streams._buffer, 0, False, False, False
    wire.says(stream, down, ends=True)
    for _ in range(100_000):
        match drawn.randrange(5):
            case 0:
                free = room - ((len(up) - len(to_send) - forwarded) & MASK)
                part = to_send[: min(free, drawn.randrange(400))]
                to_send = to_send[len(part) :]
                if part:
                    wire.send(packet(Op.RW, data=part, buffer=guest_buffer, forwarded=read))
                elif not to_send and not guest_ended:
                    guest_ended = True
                    end = packet(Op.SHUTDOWN, flags=2, buffer=guest_buffer, forwarded=read)
                    wire.send(end)
            case 1 if at_guest[read:]:
                read = min(len(at_guest), read + drawn.randrange(1, 400))
                wire.send(packet(Op.CREDIT_UPDATE, buffer=guest_buffer, forwarded=read))
            case 2:
                at_host += wire.took(stream, drawn.randrange(400))
            case 3 if guest_ended and host_ended and not ended:
                ended = True
                wire.send(packet(Op.SHUTDOWN, flags=3, buffer=guest_buffer, forwarded=read))
            case _:
                taken = wire.take(HEADER_SIZE + drawn.randrange(1, 500))
                if taken is None:
                    continue
                header, data = taken
                forwarded, at_guest = header.forwarded, at_guest + data
                host_ended |= bool(header.op == Op.SHUTDOWN and header.flags & 2)
                if header.op == Op.RST:
                    break
    assert ended
    assert (at_host, at_guest) == (up, down)
    assert not len(wire.streams)
