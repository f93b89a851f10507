"""What the public client gets when a connection, a VM or a machine ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from control.harness import (
    REPOSITORY,
    WITHIN,
    Harness,
    server_threads,
)

from hfsched.client import Connection, ConnectionClosed, RefusedError, connect
from hfsched.control import wire

from .clients import fill, in_turn


def test_everything_sent_before_closing_is_delivered() -> None:
    with Harness("demo", {"alpha": "sink"}) as harness:
        with connect("alpha") as alpha:
            sent = fill(alpha)
        harness.open("alpha")
        harness.until(lambda: harness.server.clients() == 0)
        assert harness.machine.summary()[0].from_host == len(sent)


def test_after_shutdown_the_answers_still_come() -> None:
    with Harness("demo", {"alpha": "gated"}) as harness, connect("alpha") as alpha:
        for message in in_turn(20):
            alpha.send(message)
        alpha.shutdown()
        harness.open("alpha")
        assert [alpha.recv(timeout=WITHIN) for _ in range(20)] == in_turn(20)
        with pytest.raises(ConnectionClosed, match="takes no more"):
            alpha.send(b"x")


def test_a_killed_client_loses_what_it_did_not_read_and_nothing_that_it_sent() -> None:
    program = """
import hfsched, sys
alpha = hfsched.connect("demo/alpha")
for number in range(20):
    alpha.send(b"%d" % number)
print("sent", flush=True)
alpha.recv()
"""
    with Harness("demo", {"alpha": "gated"}) as harness:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == b"sent\n"
            child.send_signal(signal.SIGKILL)
        with connect("alpha") as other:
            other.send(b"after it")
            harness.open("alpha")
            assert other.recv(timeout=WITHIN) == b"after it"
            harness.until(lambda: harness.machine.summary()[0].from_host == 21)
            harness.until(lambda: harness.server.clients() == 1)


def test_a_vms_last_words_come_before_the_reason_of_its_end() -> None:
    with Harness("demo", {"alpha": "dying"}), connect("alpha") as alpha:
        alpha.send(b"adieu")
        assert list(alpha) == [b"adieu"] * 3
        assert alpha.reason == "vm alpha has ended: the guest function returned"
        for attempt in (alpha.recv, lambda: alpha.send(b"x")):
            with pytest.raises(ConnectionClosed, match="the guest function returned"):
                attempt()
        with pytest.raises(RefusedError, match="the guest function returned"):
            connect("alpha")


def test_when_the_machine_stops_a_waiting_client_is_told() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, connect("alpha") as alpha:
        heard: list[Exception] = []

        def wait() -> None:
            try:
                alpha.recv()
            except ConnectionClosed as exc:
                heard.append(exc)

        waiting = threading.Thread(target=wait)
        waiting.start()
        harness.stop()
        waiting.join(WITHIN)
        assert "stops" in str(heard[0])


def test_a_machine_that_vanishes_is_an_end_too(xdg: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock,
    ):
        listener.bind(str(xdg / "s"))
        listener.listen()
        sock.connect(str(xdg / "s"))
        server = listener.accept()[0]
        sock.setblocking(False)
        alpha = Connection(sock, wire.Welcome("demo", "alpha", 1, 4080), 1)
        alpha.send(b"unread: so the kernel says reset first")
        server.send(wire.DATA + b"last")
        server.close()
        assert alpha.recv(timeout=WITHIN) == b"last"
        with pytest.raises(ConnectionClosed, match="ended without a reason"):
            alpha.recv(timeout=WITHIN)


def test_closing_ends_a_call_in_another_thread_and_then_frees_the_descriptor() -> None:
    with Harness("demo", {"alpha": "echo"}):
        alpha = connect("alpha")
        ended = threading.Event()

        def wait() -> None:
            with pytest.raises(ConnectionClosed, match="closed by this program"):
                alpha.recv()
            ended.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        alpha.close()
        assert ended.wait(WITHIN)
        assert alpha.fileno() == -1
        with pytest.raises(ConnectionClosed, match="closed by this program"):
            alpha.send(b"x")
        alpha.close()


def test_a_hundred_clients_leave_no_descriptor_and_no_thread(
    descriptors: Callable[[], int],
) -> None:
    with Harness("demo", {"alpha": "echo"}) as harness:
        with connect("alpha") as alpha:
            alpha.send(b"warm")
            alpha.recv(timeout=WITHIN)
        harness.until(lambda: harness.server.clients() == 0)
        before = (descriptors(), len(server_threads()))
        for number in range(100):
            with connect("demo/alpha") as alpha:
                alpha.send(b"x")
                if number % 2:
                    alpha.recv(timeout=WITHIN)
        harness.until(lambda: harness.server.clients() == 0)
        assert (descriptors(), len(server_threads())) == before
        harness.stop()
        assert server_threads() == []
