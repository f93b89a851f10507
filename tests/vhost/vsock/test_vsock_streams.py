"""Streams, without sockets: what a guest's packets do, and which packets it gets."""

from __future__ import annotations

import pytest
from vsock_guest import CID, Packet, Wire, decode, packet

from hfsched.vhost.devices.vsock.packet import MASK, STREAM, Header, Op, Shutdown
from hfsched.vhost.devices.vsock.stream import State
from hfsched.vhost.devices.vsock.streams import REPLIES_MAX


@pytest.fixture
def wire() -> Wire:
    return Wire()


# Beginning.


def test_a_guest_asks_and_the_host_accepts(wire: Wire) -> None:
    stream = wire.open()
    assert (stream.guest_port, stream.host_port) == (1000, 80)
    wire.send(packet(Op.RW, data=b"to the host"))
    assert stream.to_host == b"to the host"
    wire.says(stream, b"to the guest")
    header, data = wire.next()
    assert (header.op, data) == (Op.RW, b"to the guest")
    assert header == Header(2, CID, 80, 1000, 12, STREAM, Op.RW, 0, 1024, 0)
    assert wire.take() is None


def test_a_guest_asks_and_the_host_refuses(wire: Wire) -> None:
    stream = wire.send(packet(Op.REQUEST))
    assert stream is not None
    stream.abort()
    wire.streams.changed(stream)
    assert wire.ops() == [Op.RST]
    assert not len(wire.streams)


def test_the_host_asks_and_the_guest_accepts(wire: Wire) -> None:
    stream = wire.streams.ask(22)
    assert stream is not None
    header, _ = wire.next()
    assert (header.op, header.target_port) == (Op.REQUEST, 22)
    wire.says(stream, b"early")
    assert wire.take() is None
    wire.send(packet(Op.RESPONSE, 22, header.source_port))
    assert stream.to_host == b"OK %d\n" % header.source_port
    wire.says(stream, b"")
    assert wire.ops() == [Op.RW]
    assert wire.host.pulled[stream] == b"early"
    # The answer to the host program is none of the guest's bytes.
    wire.send(packet(Op.RW, 22, header.source_port, b"x" * 1024))
    wire.took(stream, 1 << 20)
    assert wire.take() == decode(
        Header(2, CID, header.source_port, 22, 0, STREAM, Op.CREDIT_UPDATE, 0, 1024, 1024).encode()
    )


def test_the_host_asks_and_the_guest_refuses(wire: Wire) -> None:
    stream = wire.streams.ask(22)
    assert stream is not None
    assert wire.ops() == [Op.REQUEST]
    wire.send(packet(Op.RST, 22, stream.host_port))
    assert stream.state is State.ENDED
    assert wire.ops() == []
    assert not len(wire.streams)


def test_host_ports_are_not_used_twice(wire: Wire) -> None:
    ports = {stream.host_port for _ in range(4) if (stream := wire.streams.ask(22))}
    assert len(ports) == 4
    assert wire.streams.ask(22) is None
    assert wire.send(packet(Op.REQUEST)) is None
    assert wire.ops() == [Op.RST] + 4 * [Op.REQUEST]


# Credit.


def test_the_guest_is_never_sent_more_than_it_has_room_for(wire: Wire) -> None:
    stream = wire.open(buffer=10)
    wire.says(stream, b"0123456789abcdefgh")
    header, data = wire.next()
    assert data == b"0123456789"
    assert wire.ops() == [Op.CREDIT_REQUEST]  # once
    wire.send(packet(Op.CREDIT_UPDATE, buffer=10, forwarded=0))
    assert wire.ops() == []
    wire.send(packet(Op.CREDIT_UPDATE, buffer=10, forwarded=3))
    header, data = wire.next()
    assert (header.op, data) == (Op.RW, b"abc")
    wire.send(packet(Op.CREDIT_UPDATE, buffer=4, forwarded=7))  # smaller than what is on its way
    assert wire.ops() == [Op.CREDIT_REQUEST]
    wire.send(packet(Op.CREDIT_UPDATE, buffer=4, forwarded=12))
    assert wire.ops() == [Op.RW, Op.CREDIT_REQUEST]
    assert wire.host.pulled[stream] == b"0123456789abcdef"


def test_a_guest_that_sends_more_than_there_is_room_for_is_cut_off(wire: Wire) -> None:
    stream = wire.open()
    wire.send(packet(Op.RW, data=b"x" * 1000))
    wire.took(stream, 500)
    wire.send(packet(Op.RW, data=b"x" * 524))
    assert stream.state is State.OPEN
    wire.send(packet(Op.RW, data=b"x"))
    assert wire.ops() == [Op.RST]
    assert not len(wire.streams)


def test_the_guest_learns_what_the_host_has_taken(wire: Wire) -> None:
    stream = wire.open()
    wire.send(packet(Op.RW, data=b"x" * 1024))
    wire.took(stream, 255)
    assert wire.ops() == []
    wire.took(stream, 1)
    header, _ = wire.next()
    assert (header.op, header.buffer, header.forwarded) == (Op.CREDIT_UPDATE, 1024, 256)
    wire.send(packet(Op.CREDIT_REQUEST))
    assert wire.ops() == [Op.CREDIT_UPDATE]


def test_counters_go_round_at_2_to_the_32(wire: Wire) -> None:
    stream = wire.open(buffer=8)
    stream._sent = MASK - 2
    wire.says(stream, b"abcdefgh")
    wire.send(packet(Op.CREDIT_UPDATE, buffer=8, forwarded=MASK - 4))
    _, data = wire.next()
    assert data == b"abcdef"
    wire.send(packet(Op.CREDIT_UPDATE, buffer=8, forwarded=3))
    assert wire.ops() == [Op.RW]
    assert wire.host.pulled[stream] == b"abcdefgh"


# Ending.


def test_the_guest_ends_its_direction_then_the_host_its_own(wire: Wire) -> None:
    stream = wire.open()
    wire.send(packet(Op.RW, data=b"last"))
    wire.send(packet(Op.SHUTDOWN, flags=Shutdown.SEND))
    assert stream.guest_ends == Shutdown.SEND
    wire.says(stream, b"answer", ends=True)
    header, data = wire.next()
    assert data == b"answer"
    header, _ = wire.next()
    assert (header.op, header.flags) == (Op.SHUTDOWN, Shutdown.SEND)
    assert wire.took(stream, 10) == b"last"
    wire.send(packet(Op.SHUTDOWN, flags=Shutdown.BOTH))
    assert wire.ops() == [Op.RST]
    assert not len(wire.streams)


def test_the_end_of_both_directions_is_answered_when_the_host_has_all(wire: Wire) -> None:
    stream = wire.open()
    wire.send(packet(Op.RW, data=b"x" * 100))
    wire.send(packet(Op.SHUTDOWN, flags=Shutdown.BOTH))
    wire.says(stream, b"not wanted")
    assert wire.ops() == []
    wire.took(stream, 99)
    assert wire.ops() == []
    wire.took(stream, 1)
    assert wire.ops() == [Op.RST]


def test_what_the_guest_sent_before_its_rst_goes_to_the_host(wire: Wire) -> None:
    stream = wire.open()
    wire.send(packet(Op.RW, data=b"all of it"))
    wire.send(packet(Op.RST))
    assert stream.state is State.ENDED
    assert len(wire.streams) == 1
    assert wire.took(stream, 100) == b"all of it"
    assert not len(wire.streams)
    assert wire.ops() == []


def test_what_the_host_sent_before_it_went_goes_to_the_guest(wire: Wire) -> None:
    stream = wire.open(buffer=4)
    wire.says(stream, b"12345678", ends=True)
    wire.send(packet(Op.RW, data=b"for nobody", buffer=4))
    stream.host_gone()
    wire.streams.changed(stream)
    found = [wire.next() for _ in range(3)]
    assert [each[0].op for each in found] == [Op.RW, Op.SHUTDOWN, Op.CREDIT_REQUEST]
    assert found[1][0].flags == Shutdown.RECEIVE
    wire.send(packet(Op.RW, data=b"for nobody", buffer=4, forwarded=4))
    assert not stream.to_host
    header, data = wire.next()
    assert data == b"5678"
    wire.send(packet(Op.CREDIT_UPDATE, buffer=4, forwarded=8))
    header, _ = wire.next()
    assert (header.op, header.flags) == (Op.SHUTDOWN, Shutdown.BOTH)
    wire.send(packet(Op.RST))
    assert not len(wire.streams)


def test_a_guest_that_receives_no_more_is_told_when_the_host_is_gone(wire: Wire) -> None:
    stream = wire.open(buffer=5)
    wire.says(stream, b"never all received", ends=True)
    stream.host_gone()
    wire.streams.changed(stream)
    assert wire.ops() == [Op.RW, Op.SHUTDOWN, Op.CREDIT_REQUEST]
    wire.send(packet(Op.SHUTDOWN, flags=Shutdown.RECEIVE))
    header, _ = wire.next()
    assert (header.op, header.flags) == (Op.SHUTDOWN, Shutdown.BOTH)


def test_streams_of_which_the_host_is_gone_make_room_for_new_ones(wire: Wire) -> None:
    streams = [wire.open(1000 + at) for at in range(4)]
    wire.says(streams[2], b"", ends=True)
    streams[2].host_gone()
    wire.streams.changed(streams[2])
    wire.ops()
    assert wire.send(packet(Op.REQUEST, 2000)) is not None
    header, _ = wire.next()
    assert (header.op, header.target_port) == (Op.RST, 1002)


# What is wrong.


@pytest.mark.parametrize(
    "wrong",
    [
        packet(Op.RW, data=b"x"),
        packet(Op.RESPONSE),
        packet(Op.SHUTDOWN, flags=3),
        packet(0),
        packet(99),
        packet(Op.REQUEST, target_cid=7),
        packet(Op.REQUEST, kind=2),
        packet(Op.REQUEST, kind=77),
    ],
)
def test_what_belongs_to_no_stream_is_answered_by_rst(wire: Wire, wrong: Packet) -> None:
    assert wire.send(wrong) is None
    header, _ = wire.next()
    sent = wrong[0]
    assert header == Header(sent.target_cid, CID, 80, 1000, 0, sent.type, Op.RST)
    assert wire.take() is None


@pytest.mark.parametrize(
    "wrong", [packet(Op.RST), packet(Op.REQUEST, source_cid=4), packet(Op.RST, kind=9)]
)
def test_what_cannot_be_answered_is_dropped(wire: Wire, wrong: Packet) -> None:
    assert wire.send(wrong) is None
    assert wire.take() is None


@pytest.mark.parametrize("op", [0, Op.REQUEST, Op.RESPONSE, 99])
def test_what_a_stream_does_not_expect_ends_it(wire: Wire, op: int) -> None:
    stream = wire.open()
    wire.send(packet(op))
    assert stream.state is State.ENDED
    assert wire.ops() == [Op.RST]


def test_a_packet_without_the_bytes_that_it_says_ends_its_stream(wire: Wire) -> None:
    wire.open()
    wire.send(packet(Op.RW, size=10), payload=False)
    assert wire.ops() == [Op.RST]


def test_answers_are_bounded(wire: Wire) -> None:
    for _ in range(REPLIES_MAX):
        assert not wire.streams.blocked
        wire.send(packet(99))
    assert wire.streams.blocked
    wire.send(packet(99))
    assert len(wire.ops()) == REPLIES_MAX


def test_saved_streams_are_told_to_have_ended_where_they_are_restored(wire: Wire) -> None:
    wire.open(1000)
    wire.open(1001)
    other = Wire()
    other.streams.restore([(guest, host) for guest, host in wire.streams.save()])
    found = [other.next() for _ in range(2)]
    assert [(each.op, each.target_port) for each, _ in found] == [(Op.RST, 1000), (Op.RST, 1001)]
    assert not len(other.streams)
