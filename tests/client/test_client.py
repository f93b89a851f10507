"""The public client that blocks, against real machines of script guests."""

from __future__ import annotations

import asyncio
import os
import re
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from control import guests
from control.harness import (
    REPOSITORY,
    WITHIN,
    Harness,
)

import hfsched
from hfsched.client import ConnectionClosed, RefusedError, connect
from hfsched.control import wire
from hfsched.errors import HfschedError, UserError

from .clients import fill

# Reading.


def test_a_program_that_does_not_read_finds_out_why_it_was_disconnected() -> None:
    with (
        Harness("demo", {"alpha": "flood"}) as harness,
        hfsched.connect("alpha", unread_limit=0.05) as deaf,
    ):
        deaf.send(b"go")
        harness.until(lambda: harness.server.clients() == 0)
        with pytest.raises(hfsched.ConnectionClosed, match=r"recv\(\) says why in the end"):
            deaf.send(b"more")
        messages = list(deaf)
        assert 0 < len(messages) < guests.FLOOD
        assert deaf.reason is not None
        assert deaf.reason.startswith("nothing was read for 0.05 s")
        with pytest.raises(hfsched.ConnectionClosed, match="nothing was read for"):
            deaf.recv()


@pytest.mark.parametrize("limit", [0.0, -1.0, 86_401.0, float("nan")])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(UserError, match=r"unread_limit .*: 0\.001 to 86400 seconds"):
        connect("alpha", unread_limit=limit)


def test_a_message_that_is_a_text() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha") as alpha:
        with pytest.raises(
            TypeError, match=r'^a message is bytes, not str: write b"..." or .encode'
        ):
            alpha.send("version")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^a message is bytes, not int$"):
            alpha.send(7)  # type: ignore[arg-type]
        alpha.send(bytearray(b"version"))
        assert alpha.recv(timeout=WITHIN) == b"version"

        async def wrong() -> None:
            async with await hfsched.connect_async("alpha") as other:
                await other.send("version")  # type: ignore[arg-type]

        with pytest.raises(TypeError, match=r"^a message is bytes, not str"):
            asyncio.run(wrong())


# Finding a VM.


def test_a_message_goes_to_the_vm_and_back() -> None:
    with Harness("demo", {"alpha": "echo"}), hfsched.connect("alpha", port=1) as alpha:
        alpha.send(b"hello")
        assert alpha.recv(timeout=WITHIN) == b"hello"
        assert (alpha.machine, alpha.vm, alpha.port) == ("demo", "alpha", 1)
        assert (alpha.host_port, alpha.payload_max) == (1 << 32, 4080)


def test_three_clients_at_once_each_hear_their_own() -> None:
    with Harness("demo", {"alpha": "echo"}):
        heard: dict[int, list[bytes]] = {}

        def talk(number: int) -> None:
            with connect("alpha", timeout=WITHIN) as alpha:
                heard[number] = []
                for turn in range(100):
                    alpha.send(b"%d.%d" % (number, turn), timeout=WITHIN)
                    heard[number].append(alpha.recv(timeout=WITHIN))

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WITHIN)
        assert heard == {n: [b"%d.%d" % (n, turn) for turn in range(100)] for n in range(3)}


def test_two_machines_with_one_vm_name_do_not_meet() -> None:
    with Harness("one", {"alpha": "echo"}) as one, Harness("two", {"alpha": "echo"}) as two:
        with pytest.raises(UserError, match="name one: one/alpha, two/alpha"):
            connect("alpha")
        with connect("one/alpha") as first, connect("alpha", machine="two") as second:
            first.send(b"to one")
            assert first.recv(timeout=WITHIN) == b"to one"
            assert second.machine == "two"
        with connect("alpha", machine=str(two.socket)) as by_path:
            assert by_path.machine == "two"
        with connect(f"{one.socket}/alpha") as by_path:
            assert by_path.machine == "one"
        assert [harness.machine.summary()[0].from_host for harness in (one, two)] == [1, 0]


def test_an_unknown_vm_is_answered_with_the_machines_there_are() -> None:
    with Harness("one", {"alpha": "echo"}), Harness("two", {"alpha": "echo"}):
        with pytest.raises(
            UserError, match=r"no machine has a VM 'omega': running: .*one/alpha, two/alpha$"
        ):
            connect("omega")
        with pytest.raises(UserError, match=r"no machine 'six': running: .*one, two"):
            connect("alpha", machine="six")
        with pytest.raises(UserError, match=r": did you mean 'alpha'\?$"):
            connect("alhpa")
        with pytest.raises(UserError, match=r"it has alpha: did you mean 'alpha'\?$"):
            connect("one/alhpa")
        with pytest.raises(UserError, match=r": did you mean 'one'\?$"):
            connect("alpha", machine="onne")
        with pytest.raises(UserError, match=r"^'one' is a machine: name a VM of it: one/alpha$"):
            connect("one")
        with pytest.raises(RefusedError, match="no VM 'omega' in machine one") as caught:
            connect("one/omega")
        assert caught.value.code == "no-vm"
        with pytest.raises(UserError, match="name the machine once"):
            connect("one/alpha", machine="two")


def test_a_dead_machines_socket_is_passed_over(xdg: Path) -> None:
    with Harness("live", {"alpha": "echo"}):
        left = xdg / "hfsched" / "dead"
        left.mkdir(0o700)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(left / "ports"))
        with connect("alpha") as alpha:
            assert alpha.machine == "live"
        with pytest.raises(UserError, match="no machine 'dead': running: live"):
            connect("dead/alpha")


def test_a_machine_that_does_not_answer_is_passed_over_or_timed_out(xdg: Path) -> None:
    with Harness("live", {"alpha": "echo"}):
        (xdg / "hfsched" / "hung").mkdir(0o700)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as hung:
            hung.bind(str(xdg / "hfsched" / "hung" / "ports"))
            hung.listen()
            with pytest.raises(TimeoutError, match="does not answer"):
                connect("hung/alpha", timeout=0.05)
            with connect("alpha", timeout=0.6) as alpha:
                assert alpha.machine == "live"
            with pytest.raises(UserError, match="hung could not be asked"):
                connect("omega", timeout=0.6)


@pytest.mark.parametrize(
    ("machine", "port", "code"), [("demo", -1, "bad-hello"), ("demo", 1 << 64, "bad-hello")]
)
def test_a_port_that_is_no_u64_is_refused(machine: str, port: int, code: str) -> None:
    with Harness("demo", {"alpha": "echo"}), pytest.raises(RefusedError) as caught:
        connect("alpha", port, machine)
    assert caught.value.code == code


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_server_of_another_user_is_not_trusted(xdg: Path) -> None:
    """The kernel keeps the credentials of the process that called listen()."""
    xdg.chmod(0o777)
    ready, done = os.pipe(), os.pipe()
    child = os.fork()  # no thread runs yet
    if child == 0:
        try:
            os.setgid(65534)
            os.setuid(65534)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.bind(str(xdg / "trap"))
                sock.listen()
                os.write(ready[1], b"x")
                os.read(done[0], 1)
        finally:
            os._exit(0)
    try:
        os.read(ready[0], 1)
        with pytest.raises(RefusedError, match="the peer is user 65534, not user 0 or root"):
            connect("alpha", machine=str(xdg / "trap"))
    finally:
        os.write(done[1], b"x")
        os.waitpid(child, 0)
        for end in (*ready, *done):
            os.close(end)


def test_a_refusal_before_our_hello_was_read_is_heard(xdg: Path) -> None:
    """The kernel says "connection reset" first in that case, and only then what was said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(xdg / "full"))
        listener.listen()

        def refuse() -> None:
            with listener.accept()[0] as sock:
                sock.recv(1, socket.MSG_PEEK)
                sock.send(wire.error("too-many", "machine demo is full"))

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with pytest.raises(RefusedError, match="machine demo is full") as caught:
            connect("alpha", machine=str(xdg / "full"))
        refusing.join(WITHIN)
        assert caught.value.code == "too-many"


# Messages.


def test_an_empty_message_is_a_message() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha") as alpha:
        alpha.send(b"")
        assert alpha.recv(timeout=WITHIN) == b""


def test_a_message_that_is_too_long_is_refused_here_and_all_goes_on() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha") as alpha:
        with pytest.raises(UserError, match="4081 bytes: at most 4080"):
            alpha.send(bytes(4081))
        alpha.send(bytes(4080))
        assert alpha.recv(timeout=WITHIN) == bytes(4080)


def test_what_the_machine_refuses_is_said_once_and_all_goes_on() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha") as alpha:
        alpha.payload_max = 5000  # a client that believes otherwise
        alpha.send(bytes(4081))
        alpha.send(b"short")
        with pytest.raises(RefusedError, match="more than 4080 bytes"):
            alpha.recv(timeout=WITHIN)
        assert alpha.recv(timeout=WITHIN) == b"short"


def test_a_full_mailbox_is_felt_and_nothing_is_lost() -> None:
    with Harness("demo", {"alpha": "gated"}) as harness, connect("alpha") as alpha:
        harness.until(lambda: harness.server.clients() == 1)
        sent = fill(alpha)
        with pytest.raises(TimeoutError, match="not taken"):  # noqa: PT012
            while True:  # the machine may have taken one of them meanwhile
                alpha.send(b"one more", timeout=0.01)
                sent.append(b"one more")
        waiting = threading.Thread(target=alpha.send, args=(b"patient",))
        waiting.start()
        harness.open("alpha")
        assert [alpha.recv(timeout=WITHIN) for _ in sent] == sent
        assert alpha.recv(timeout=WITHIN) == b"patient"
        waiting.join(WITHIN)
        assert not waiting.is_alive()


def test_without_a_message_recv_does_not_wait_longer_than_told() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha") as alpha:
        with pytest.raises(BlockingIOError):
            alpha.recv(block=False)
        with pytest.raises(TimeoutError, match="no message"):
            alpha.recv(timeout=0)
        alpha.send(b"x")
        assert select.select([alpha], [], [], WITHIN)[0] == [alpha]
        assert alpha.recv(block=False) == b"x"


def test_a_named_host_port_hears_what_the_vm_sends_there() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha", local=9) as alpha:
        assert alpha.host_port == 9
        alpha.send(b"x")
        assert alpha.recv(timeout=WITHIN) == b"x"
        with pytest.raises(RefusedError, match="port 9 is in use"):
            connect("alpha", local=9)


def test_the_end_is_an_end_of_file_and_one_of_our_errors() -> None:
    assert issubclass(ConnectionClosed, EOFError)
    assert issubclass(ConnectionClosed, HfschedError)


def test_importing_is_cheap() -> None:
    program = """
import sys, hfsched
assert "socket" not in sys.modules
hfsched.connect
print([name for name in ("asyncio", "msgspec", "dataclasses", "subprocess") if name in sys.modules])
"""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, check=True
    )
    assert out.stdout == b"[]\n"


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'disconnect'"):
        _ = hfsched.disconnect
    assert {"connect", "connect_async"} <= set(dir(hfsched))


def test_what_the_client_raises_is_exported() -> None:
    for name in ("ConnectionClosed", "RefusedError", "UserError"):
        assert name in hfsched.__all__
        assert issubclass(getattr(hfsched, name), hfsched.HfschedError)


def test_a_machine_by_a_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    dead = tmp_path / "dead"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left:
        left.bind(str(dead))
    name = "name a machine, or the socket `ports` in its directory"
    for path, why in (
        ("file", f"not a socket: {name}"),
        ("folder", f"not a socket: {name}"),
        ("dead", "no process listens there: the machine has ended"),
        ("absent", "there is no such socket"),
        ("away/ports", f"there is no such socket: there is no directory {tmp_path}/away"),
        ("file/ports", f"there is no such socket: there is no directory {tmp_path}/file"),
    ):
        with pytest.raises(UserError) as caught:
            connect("alpha", machine=str(tmp_path / path))
        assert type(caught.value) is UserError
        assert str(caught.value) == f"{tmp_path / path}: {why}"
    with (
        Harness("demo", {"alpha": "echo"}) as harness,
        connect("alpha", machine=str(harness.directory.path)) as alpha,
    ):
        alpha.send(b"by its directory")
        assert alpha.recv(timeout=WITHIN) == b"by its directory"


WRONG_TYPES: list[tuple[str, object, str]] = [
    ("vm", b"trusty", "vm=b'trusty': a VM's name, not bytes"),
    ("vm", Path("x"), "a VM's name, not PosixPath"),
    ("port", 1.0, "port=1.0: a number, or a name that the manifest has, not float"),
    ("port", True, "port=True: a number, or a name that the manifest has, not bool"),
    ("port", None, "port=None: a number, or a name that the manifest has, not NoneType"),
    ("machine", 7, "machine=7: a machine's name, or the path of its socket, not int"),
    ("timeout", "1", "timeout='1': a number of seconds, or None, not str"),
    ("local", "5", "local='5': a host port's number, or None, not str"),
    ("unread_limit", b"30s", "unread_limit=b'30s': seconds, or a time such as \"30s\", not bytes"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG_TYPES)
def test_an_argument_of_another_type(name: str, value: object, message: str) -> None:
    given: dict[str, Any] = {"vm": "alpha", name: value}
    with pytest.raises(TypeError, match=re.escape(message)):
        connect(**given)

    async def other() -> None:
        await hfsched.connect_async(**given)

    with pytest.raises(TypeError, match=re.escape(message)):
        asyncio.run(other())


def test_a_timeout_that_is_no_number() -> None:
    with Harness("demo", {"alpha": "echo"}), connect("alpha", unread_limit="30s") as alpha:
        with pytest.raises(TypeError, match=r"^timeout='1': a number of seconds, or None, not str"):
            alpha.recv(timeout="1")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^timeout='1': a number of seconds"):
            alpha.send(b"", timeout="1")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"^timeout=nan: a number of seconds"):
            alpha.recv(timeout=float("nan"))
    with pytest.raises(
        UserError, match=r"^unread_limit 'soon': 0\.001 to 86400 seconds, or a time"
    ):
        connect("alpha", unread_limit="soon")


def test_a_flood_is_numbered_without_a_gap() -> None:
    with Harness("demo", {"alpha": "flood"}), connect("alpha") as alpha:
        alpha.send(b"go")
        heard = [
            int.from_bytes(alpha.recv(timeout=WITHIN)[:4], "little") for _ in range(guests.FLOOD)
        ]
        assert heard == list(range(guests.FLOOD))
