"""The socket device with real sockets, served to a front-end whose driver speaks packets."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from driver import RefusedByDeviceError
from vsock_bed import BUFFERS, EVENT, PORT, RX, TX, Bed, exactly
from vsock_guest import CID, decode, packet

from hfsched.errors import UserError
from hfsched.vhost.devices.vsock import Vsock
from hfsched.vhost.devices.vsock.callers import CALLERS_MAX
from hfsched.vhost.devices.vsock.packet import Op, Shutdown
from hfsched.vhost.devices.vsock.streams import REPLIES_MAX
from hfsched.vhost.protocol.numbers import Feature


@pytest.fixture(params=[-1, int(Feature.VERSION_1 | Feature.EVENT_IDX)], ids=["flags", "event_idx"])
def bed(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bed]:
    with ExitStack() as stack:
        yield Bed(stack, tmp_path, request.param)


def test_its_configuration(bed: Bed) -> None:
    assert bed.front.config(0, 8) == struct.pack("<Q", CID)
    for cid in (0, 2, 0xFFFF_FFFF, 1 << 40):
        with pytest.raises(UserError):
            Vsock(cid, lambda _port: None)


def test_a_guest_connects_to_the_host(bed: Bed) -> None:
    host = bed.open()
    bed.send(packet(Op.RW, data=b"hello"))
    assert exactly(host, 5) == b"hello"
    host.sendall(b"x" * 10000)
    found = b""
    while len(found) < 10000:
        header, data = bed.next()
        assert header.op == Op.RW
        found += data
    assert found == b"x" * 10000
    host.shutdown(socket.SHUT_WR)
    header, _ = bed.next()
    assert (header.op, header.flags) == (Op.SHUTDOWN, Shutdown.SEND)
    bed.send(packet(Op.RW, data=b"last"))
    bed.send(packet(Op.SHUTDOWN, flags=Shutdown.BOTH))
    assert exactly(host, 4) == b"last"
    assert host.recv(1) == b""
    assert bed.next()[0].op == Op.RST


def test_nobody_listens_at_the_port(bed: Bed) -> None:
    bed.send(packet(Op.REQUEST))
    assert bed.next()[0].op == Op.RST


def test_a_guest_ends_its_direction_alone(bed: Bed) -> None:
    host = bed.open()
    bed.send(packet(Op.RW, data=b"question"))
    bed.send(packet(Op.SHUTDOWN, flags=Shutdown.SEND))
    assert exactly(host, 8) == b"question"
    assert host.recv(1) == b""
    host.sendall(b"answer")
    assert bed.next()[1] == b"answer"
    host.close()
    header, _ = bed.next()
    if header.flags == Shutdown.SEND:  # its end was seen before it was seen to be gone
        header, _ = bed.next()
    assert (header.op, header.flags) == (Op.SHUTDOWN, Shutdown.BOTH)


@pytest.mark.parametrize("says", [b"CONNECT 22\nfirst", b"connect 22\r\nfirst"])
def test_a_host_program_connects_to_the_guest(bed: Bed, says: bytes) -> None:
    host = bed.call(says)
    header, _ = bed.next()
    assert (header.op, header.target_port) == (Op.REQUEST, 22)
    assert bed.nothing_comes()
    bed.send(packet(Op.RESPONSE, 22, header.source_port))
    assert exactly(host, 14) == b"OK %d\n" % header.source_port
    assert bed.next()[1] == b"first"
    bed.send(packet(Op.RW, 22, header.source_port, b"answer"))
    assert exactly(host, 6) == b"answer"


def test_a_greeting_in_pieces(bed: Bed) -> None:
    host = bed.call(b"CONN")
    bed.front.on_device(lambda: None)
    host.sendall(b"ECT 2")
    bed.front.on_device(lambda: None)
    host.sendall(b"2\n")
    assert bed.next()[0].target_port == 22


@pytest.mark.parametrize(
    "says", [b"HELLO\n", b"CONNECT x\n", b"CONNECT 4294967295\n", b"CONNECT 22" + b" " * 40, b"\n"]
)
def test_a_host_program_that_says_something_else_is_hung_up_on(bed: Bed, says: bytes) -> None:
    with pytest.raises(ConnectionError) if len(says) > 32 else ExitStack():
        assert bed.call(says).recv(1) == b""
    assert bed.nothing_comes()


def test_a_guest_that_refuses(bed: Bed) -> None:
    host = bed.call(b"CONNECT 22\n")
    header, _ = bed.next()
    bed.send(packet(Op.RST, 22, header.source_port))
    assert host.recv(1) == b""


def test_a_host_program_that_does_not_wait_for_the_guest(bed: Bed) -> None:
    host = bed.call(b"CONNECT 22\n")
    assert bed.next()[0].op == Op.REQUEST
    host.close()
    assert bed.next()[0].op == Op.RST


def test_host_programs_that_say_nothing_do_not_keep_others_out(bed: Bed) -> None:
    silent = [bed.call(b"") for _ in range(CALLERS_MAX + 8)]
    bed.call(b"CONNECT 22\n")
    assert bed.next()[0].op == Op.REQUEST
    assert silent[0].recv(1) == b""


def test_it_waits_for_buffers_of_the_guest_and_sleeps_meanwhile(bed: Bed) -> None:
    host = bed.open()
    data = os.urandom(BUFFERS * 4096 * 2)
    sender = threading.Thread(target=host.sendall, args=(data,))
    sender.start()
    found = b""
    read = 0
    while len(found) < BUFFERS * 4000:  # as many as there are, none is given again
        parts = [decode(part) for _, part in bed.front.wait(RX)]
        found += b"".join(part for _, part in parts)
    bed.front.on_device(lambda: None)
    before = bed.front.task.processor_time() or 0
    assert not bed.front.task.join(time.monotonic_ns() + 200_000_000)
    assert (bed.front.task.processor_time() or 0) - before < 50_000_000
    bed.fill(BUFFERS)
    while len(found) < len(data):
        header, part = bed.next()
        found += part
        if header.op == Op.CREDIT_REQUEST or len(found) - read > 1 << 14:
            read = len(found)
            bed.send(packet(Op.CREDIT_UPDATE, forwarded=read))
    sender.join()
    assert found == data


def test_a_host_program_that_does_not_read(bed: Bed) -> None:
    """The guest has credit for what the socket takes, and for a buffer more; all of it arrives."""
    host = bed.open()
    data = os.urandom(4 << 20)
    sent = forwarded = 0
    buffer = 1 << 18
    while True:
        part = data[sent : sent + min(8000, buffer - (sent - forwarded))]
        if part:
            bed.send(packet(Op.RW, data=part))
            sent += len(part)
        elif bed.nothing_comes():
            break
        while not bed.nothing_comes():
            forwarded = bed.next()[0].forwarded
    assert buffer < sent < len(data)
    assert exactly(host, sent) == data[:sent]
    assert bed.next()[0].forwarded > forwarded
    bed.send(packet(Op.RW, data=b"more"))
    assert exactly(host, 4) == b"more"


def test_a_hostile_guest_is_answered_or_dropped(bed: Bed) -> None:
    host = bed.open()
    bed.front.request(b"short", index=TX)
    bed.front.request(room=100, index=TX)
    header, _ = packet(Op.RW, size=4000)
    bed.front.request(header.encode(), index=TX)
    assert bed.next()[0].op == Op.RST
    assert host.recv(1) == b""
    # It takes no packets while its answers have no room.
    queue = bed.front.queues[TX]
    added = 0
    while queue.free:
        queue.add(packet(99)[0].encode())
        added += 1
        queue.kick(always=True)
        bed.front.on_device(lambda: None)
        queue.take()
    assert added == BUFFERS + REPLIES_MAX + queue.size
    for _ in range(added):
        assert bed.next()[0].op == Op.RST
    assert bed.nothing_comes()
    queue.take()
    assert queue.free == queue.size


# Suspension.


def test_connections_end_when_it_is_suspended_and_the_guest_is_told(bed: Bed) -> None:
    host, caller = bed.open(), bed.call(b"")
    bed.send(packet(Op.RW, data=b"written"))
    bed.front.suspend()
    assert exactly(host, 7) == b"written"
    assert host.recv(1) == b""
    assert caller.recv(1) == b""
    waiting = bed.call(b"CONNECT 22\n")
    event = bed.front.queues[EVENT]
    event.add(room=4)
    bed.front.resume()
    assert bed.front.wait(EVENT)[0][1] == struct.pack("<I", 0)
    bed.front.queues[RX].kick(always=True)
    assert bed.next()[0].op == Op.RST
    header, _ = bed.next()
    assert (header.op, header.target_port) == (Op.REQUEST, 22)
    bed.send(packet(Op.RESPONSE, 22, header.source_port))
    assert exactly(waiting, 3) == b"OK "


def test_a_driver_that_had_no_connections_is_told_too(bed: Bed) -> None:
    bed.front.suspend()
    bed.front.queues[EVENT].add(room=4)
    bed.front.resume()
    assert bed.front.wait(EVENT)[0][1] == struct.pack("<I", 0)


def test_a_driver_that_goes_on_with_a_fresh_device_is_told(bed: Bed, tmp_path: Path) -> None:
    """As after the end of a device's process: of connections nobody else knows any more."""
    front = Bed(bed.stack, tmp_path / "other", start=False).front
    front.negotiate()
    front.set_memory()
    for _ in range(3):
        front.queues[TX].add(b"of before")
    front.queues[TX].base = 3
    front.queues[EVENT].add(room=4)
    front.resume()
    assert front.wait(EVENT)[0][1] == struct.pack("<I", 0)


def test_a_driver_that_begins_is_told_of_no_reset(bed: Bed) -> None:
    bed.open()
    bed.front.suspend()
    bed.front.reset()
    bed.front.resume()
    bed.front.queues[EVENT].add(room=4)
    bed.front.queues[EVENT].kick()
    bed.fill(BUFFERS)
    assert bed.nothing_comes()
    assert not bed.front.queues[EVENT].take()


def test_a_restored_device_tells_the_guest_what_has_ended(bed: Bed, tmp_path: Path) -> None:
    bed.open()
    bed.front.suspend()
    state = bed.front.save()
    other = Bed(bed.stack, tmp_path / "other", start=False)
    other.front.negotiate()
    with pytest.raises(RefusedByDeviceError):
        other.front.restore(state.replace(b"streams", b"streamz"))
    other.front.restore(state)
    other.front.set_memory()
    other.front.queues[EVENT].add(room=4)
    other.front.resume()
    assert other.front.wait(EVENT)[0][1] == struct.pack("<I", 0)
    other.fill(BUFFERS)
    header, _ = other.next()
    assert (header.op, header.target_port, header.source_port) == (Op.RST, 1000, PORT)


def test_what_a_stopped_rx_queue_could_not_take_comes_later(bed: Bed) -> None:
    host = bed.open()
    bed.front.stop(RX)
    host.sendall(b"late")
    bed.front.on_device(lambda: None)
    bed.front.start(RX)
    assert bed.next()[1] == b"late"


def test_nothing_is_left_open(tmp_path: Path, descriptors: Callable[[], int]) -> None:
    before = descriptors()
    with ExitStack() as stack:
        bed = Bed(stack, tmp_path)
        for port in range(20):
            host = bed.open() if not port else bed.call(b"CONNECT %d\n" % port)
            host.close()
    assert descriptors() <= before
