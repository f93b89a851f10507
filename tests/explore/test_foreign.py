"""Models of other programs' sockets and eventfds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from hfsched.errors import InternalError
from hfsched.explore.execution import Result, search
from hfsched.explore.foreign import XConnection
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.runtime.base import ChannelClosedError

Said = list[object]
Build = Callable[[ExploreRuntime, Said], None]


@dataclass(frozen=True)
class Case:
    """A scenario whose tasks note what they see; `wanted`: what must be seen, in any order."""

    build_tasks: Build
    wanted: tuple[object, ...]
    name: str = "case"

    def build(self, runtime: ExploreRuntime) -> World:
        said: Said = []
        self.build_tasks(runtime, said)

        def check() -> None:
            assert sorted(map(repr, said)) == sorted(map(repr, self.wanted)), said

        return World(check, final=lambda: tuple(map(repr, said)))


def explore(build: Build, *wanted: object) -> Result:
    result = search(Case(build, wanted), Exhaustive())
    assert result.failure is None, str(result.failure.failure)
    assert result.complete
    return result


def test_a_server_and_its_clients() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        listener = runtime.listener("door")

        def serve() -> None:
            for _ in range(2):
                runtime.select([listener])
                connection = listener.accept()
                assert connection is not None
                assert connection.peer_uid == 7
                data = connection.recv(99)
                assert data is not None
                connection.send(data[::-1])
                assert connection.recv(99) == b""
                connection.close()
            assert listener.accept() is None

        def call(text: bytes) -> None:
            connection = runtime.connect(text.decode(), listener, uid=7)
            connection.send(text)
            said.append(connection.recv(99))
            connection.close()

        runtime.spawn("server", serve)
        runtime.spawn("one", lambda: call(b"abc"))
        runtime.spawn("two", lambda: call(b"xyz"))

    assert explore(build, b"cba", b"zyx").executions > 1


def test_a_closed_listener_refuses_and_resets() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        listener = runtime.listener("door")

        def call() -> None:
            try:
                connection = runtime.connect("c", listener)
                said.append(connection.recv(9))
            except ConnectionRefusedError:
                said.append(b"")

        runtime.spawn("closer", listener.close)
        runtime.spawn("caller", call)

    explore(build, b"")


def test_packets_and_streams() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        for packets in (True, False):
            left, right = runtime.connection(f"p{packets}", packets=packets, capacity=5)

            def run(left: XConnection = left, right: XConnection = right) -> None:
                said.append((left.send(b"abc"), left.send(b"def"), left.send(b"gh")))
                said.append((right.unread(), right.recv(2, peek=True), right.recv(2)))
                said.append((right.recv(9, 0), right.recv(9, 0)))

            runtime.spawn(f"t{packets}", run)

    explore(
        build,
        (3, 0, 2),
        (5, b"ab", b"ab"),
        (b"gh", None),
        (3, 2, 0),
        (5, b"ab", b"ab"),
        (b"cde", None),
    )


def test_room_comes_and_a_peer_goes() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        left, right = runtime.connection("c", capacity=3)

        def send() -> None:
            left.send(b"abc")
            try:
                while not left.send(b"def"):
                    runtime.select([left.room])
                said.append("sent")
            except ChannelClosedError:
                said.append("sent")
            runtime.select([left.hangup])
            with pytest.raises(ChannelClosedError):
                left.send(b"x")
            said.append("gone")

        def receive() -> None:
            said.append(right.recv(9))
            right.close()

        runtime.spawn("sender", send)
        runtime.spawn("receiver", receive)

    explore(build, b"abc", "sent", "gone")


def test_shutdowns() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        left, right = runtime.connection("c")

        def receive() -> None:
            said.append(left.recv(9))

        def end() -> None:
            left.shutdown(receive=True)
            with pytest.raises(ChannelClosedError):
                right.send(b"x")
            left.send(b"still")
            left.shutdown(send=True)
            said.append((right.recv(9), right.recv(9)))

        runtime.spawn("receiver", receive)
        runtime.spawn("ender", end)

    explore(build, b"", (b"still", b""))


def test_what_came_before_a_shutdown_can_be_received() -> None:
    """As from a real socket, which tests/runtime/test_foreign.py compares."""

    def build(runtime: ExploreRuntime, said: Said) -> None:
        left, right = runtime.connection("c")

        def end() -> None:
            right.send(b"before")
            left.shutdown(receive=True)
            said.append((left.unread(), left.recv(9), left.recv(9)))

        runtime.spawn("ender", end)

    explore(build, (6, b"before", b""))


def test_a_sender_that_waits_for_room_sends_then() -> None:
    """Whatever the size of its packet: else it would try again and again."""

    def build(runtime: ExploreRuntime, said: Said) -> None:
        left, right = runtime.connection("c", capacity=5)

        def send() -> None:
            left.send(b"abc")
            while not left.send(b"def"):
                runtime.select([left.room])

        def receive() -> None:
            said.append((right.recv(9), right.recv(9)))

        runtime.spawn("sender", send)
        runtime.spawn("receiver", receive)

    explore(build, (b"abc", b"def"))


def test_eventfds_and_descriptors() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        left, right = runtime.connection("c")
        kick = runtime.eventfd("kick")

        def driver() -> None:
            left.send(b"take", [runtime.descriptor(kick)])
            for _ in range(2):
                kick.signal()

        def device() -> None:
            got = right.recv_fds(9, 1)
            assert got is not None
            adopted = runtime.adopt_eventfd("kick", got[1][0])
            with pytest.raises(OSError, match="is no XListener"):
                runtime.adopt_listener("l", got[1][0])
            count = 0
            while count < 2:
                runtime.select([adopted])
                count += adopted.take()
            said.append((got[0], count, adopted.take()))
            adopted.close()

        runtime.spawn("driver", driver)
        runtime.spawn("device", device)

    assert explore(build, (b"take", 2, 0)).executions > 1


def test_a_lost_kick_is_found() -> None:
    """A device that takes the kick after it has looked at the ring."""

    def build(runtime: ExploreRuntime, said: Said) -> None:
        kick, ring = runtime.eventfd("kick"), runtime.cell("ring", 0)

        def driver() -> None:
            ring.set(1)
            kick.signal()

        def device() -> None:
            runtime.select([kick])
            found = ring.get()
            kick.take()
            said.append(found)

        def early() -> None:
            kick.signal()

        runtime.spawn("driver", driver)
        runtime.spawn("early", early)
        runtime.spawn("device", device)

    result = search(Case(build, (1,)), Exhaustive())
    assert result.failure is not None


def test_there_are_no_real_descriptors() -> None:
    def build(runtime: ExploreRuntime, said: Said) -> None:
        left, _ = runtime.connection("c")
        for thing in (left, left.room, left.hangup, runtime.listener("l"), runtime.eventfd("e")):
            with pytest.raises(InternalError, match=r"use Runtime\.select"):
                thing.fileno()

    explore(build)
