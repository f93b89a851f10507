"""Sockets and eventfds of other programs."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from hfsched.runtime.base import ChannelClosedError, Connection
from hfsched.runtime.threads import ThreadRuntime

from .times import later

KINDS = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET]
both = pytest.mark.parametrize("kind", KINDS, ids=["stream", "packets"])


@pytest.fixture
def pair(rt: ThreadRuntime, kind: socket.SocketKind) -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    connection = rt.adopt_connection("c", ours.detach())
    yield connection, theirs
    connection.close()
    theirs.close()


@both
def test_bytes_go_both_ways_and_end(
    rt: ThreadRuntime, pair: tuple[Connection, socket.socket], kind: socket.SocketKind
) -> None:
    connection, theirs = pair
    assert connection.recv(10, 0) is None
    assert rt.select([connection], 0) == []
    assert connection.send(b"abc") == 3
    assert theirs.recv(10) == b"abc"
    theirs.send(b"first")
    theirs.send(b"second")
    assert rt.select([connection, connection.room, connection.hangup]) == [
        connection,
        connection.room,
    ]
    assert connection.recv(1, peek=True) == b"f"
    assert connection.unread() >= 5
    if kind is socket.SOCK_STREAM:
        assert connection.recv(3) == b"fir"
        assert connection.recv(99) == b"stsecond"
    else:
        assert connection.recv(3) == b"fir"
        assert connection.recv(99) == b"second"
    theirs.shutdown(socket.SHUT_WR)
    assert connection.recv(9) == b""
    assert connection.send(b"still") == 5
    assert rt.select([connection.hangup], 0) == []
    theirs.close()
    assert rt.select([connection.hangup, connection.room]) == [connection.hangup, connection.room]
    with pytest.raises(ChannelClosedError):
        connection.send(b"x")


@both
def test_without_room_nothing_waits(
    rt: ThreadRuntime, pair: tuple[Connection, socket.socket]
) -> None:
    connection, theirs = pair
    connection.limit_unsent(1 << 14)
    sent = 0
    while (count := connection.send(b"x" * 1000)) > 0:
        sent += count
    assert rt.select([connection.room], 0) == []
    theirs.setblocking(False)
    while sent:
        sent -= len(theirs.recv(1000))
    assert rt.select([connection.room]) == [connection.room]
    assert connection.send(b"y") == 1


@both
def test_descriptors_go_along_or_are_closed(
    pair: tuple[Connection, socket.socket], descriptors: Callable[[], int]
) -> None:
    connection, theirs = pair
    reading, writing = os.pipe()
    assert connection.send(b"take", [writing]) == 4
    _, fds, _, _ = socket.recv_fds(theirs, 10, 2)
    os.write(fds[0], b"through")
    assert os.read(reading, 9) == b"through"
    os.close(fds[0])
    before = descriptors()
    for _ in range(2):
        socket.send_fds(theirs, [b"these"], [reading, writing])
    got = connection.recv_fds(5, 2)
    assert got is not None
    assert got[0] == b"these"
    assert not any(map(os.get_inheritable, got[1]))
    for fd in got[1]:
        os.close(fd)
    assert connection.recv(5) == b"these"
    assert descriptors() == before
    socket.send_fds(theirs, [b"these"], [reading, writing])
    with pytest.raises(OSError, match="Too many open files"):
        connection.recv_fds(5, 1)
    assert descriptors() == before
    assert connection.recv_fds(5, 1, 0) is None
    os.close(reading)
    os.close(writing)


@both
def test_a_shutdown_ends_a_recv(checked: ThreadRuntime, kind: socket.SocketKind) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    connection = checked.adopt_connection("c", ours.detach())
    got: list[bytes | None] = []
    asleep = threading.Event()

    def receive() -> None:
        asleep.set()
        got.append(connection.recv(9))

    task = checked.spawn("receiver", receive)
    asleep.wait()
    connection.shutdown(receive=True)
    assert task.join(later(checked))
    assert got == [b""]
    connection.shutdown(receive=True, send=True)
    assert theirs.recv(1) == b""
    theirs.close()
    connection.shutdown(send=True)  # harmless
    connection.close()
    connection.close()


@both
def test_what_came_before_a_shutdown_can_be_received(
    checked: ThreadRuntime, kind: socket.SocketKind
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    connection = checked.adopt_connection("c", ours.detach())
    theirs.send(b"before")
    connection.shutdown(receive=True)
    assert connection.recv(9) == b"before"
    assert connection.recv(9) == b""
    with pytest.raises(BrokenPipeError):
        theirs.send(b"after")
    theirs.close()
    connection.close()


@pytest.mark.parametrize("waits", [True, False])
def test_a_descriptors_flags_do_not_matter(checked: ThreadRuntime, waits: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(waits)
    connection = checked.adopt_connection("c", ours.detach())
    assert connection.recv(9, checked.now() + 100_000) is None
    got: list[bytes | None] = []
    task = checked.spawn("receiver", lambda: got.append(connection.recv(9)))
    theirs.send(b"abc")
    assert task.join(later(checked))
    assert got == [b"abc"]
    assert os.get_blocking(connection.fileno()) == waits
    connection.close()
    theirs.close()


def test_last_words_are_heard_though_something_was_left_unread(rt: ThreadRuntime) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = rt.adopt_connection("c", ours.detach())
    connection.send(b"never read")
    theirs.send(b"last")
    theirs.close()
    assert connection.recv(9) == b"last"
    assert connection.recv(9) == b""
    connection.close()


@pytest.mark.parametrize(("data", "fds"), [(b"", 0), (b"x", 33)])
def test_what_cannot_be_sent(rt: ThreadRuntime, data: bytes, fds: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = rt.adopt_connection("c", ours.detach())
    with pytest.raises(ValueError, match=r"^there must be data, and at most 32 descriptors$"):
        connection.send(data, [0] * fds)
    connection.close()
    theirs.close()


@both
def test_a_listener(rt: ThreadRuntime, kind: socket.SocketKind) -> None:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind("")  # the kernel makes a name
    sock.listen()
    name = sock.getsockname()
    listener = rt.adopt_listener("l", sock.detach())
    assert listener.accept() is None
    assert rt.select([listener], 0) == []
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.connect(name)
        assert rt.select([listener]) == [listener]
        connection = listener.accept()
        assert connection is not None
        assert connection.peer_uid == os.geteuid()
        client.send(b"hello")
        assert connection.recv(9) == b"hello"
        connection.close()
    listener.close()
    listener.close()


@pytest.mark.parametrize("flags", [os.EFD_NONBLOCK, 0, os.EFD_SEMAPHORE])
def test_an_eventfd(rt: ThreadRuntime, flags: int) -> None:
    fd = os.eventfd(0, flags)
    other = os.dup(fd)
    eventfd = rt.adopt_eventfd("e", fd)
    assert eventfd.take() == 0
    assert rt.select([eventfd], 0) == []
    os.eventfd_write(other, 2)
    assert rt.select([eventfd]) == [eventfd]
    assert eventfd.take() == (1 if flags == os.EFD_SEMAPHORE else 2)
    if flags == os.EFD_SEMAPHORE:
        assert eventfd.take() == 1
    assert eventfd.take() == 0
    eventfd.signal()
    assert os.eventfd_read(other) == 1
    os.eventfd_write(other, (1 << 64) - 2)
    eventfd.signal()  # it is full: signalled already
    assert rt.select([eventfd]) == [eventfd]
    eventfd.close()
    eventfd.close()
    os.close(other)
