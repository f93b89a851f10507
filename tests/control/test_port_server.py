"""The server of host ports, told from a socket: first words, full mailboxes, ends."""

from __future__ import annotations

import json
import os
import socket
import struct
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from hfsched.control import wire
from hfsched.control.port_server import SILENT_MAX
from hfsched.errors import UserError
from hfsched.mailbox.ports import PAYLOAD_MAX
from hfsched.scheduler.endpoint import Endpoint

from . import guests
from .harness import WITHIN, Harness, runtime_directory, server_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hfsched.runtime.base import Task
    from hfsched.scheduler.outbox import Sent

HELLO = wire.Hello("alpha", 1, None).encode()
QUICK = 50_000_000  # ns


@pytest.fixture(autouse=True)
def xdg() -> Iterator[Path]:
    with runtime_directory() as path:
        yield path


def heard(sock: socket.socket) -> bytes:
    """Return the next packet; the server may have left something of ours unread."""
    try:
        return sock.recv(wire.PACKET_MAX)
    except ConnectionResetError:
        return sock.recv(wire.PACKET_MAX)


def answer(sock: socket.socket) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(heard(sock))
    return value


# First words.


def test_a_hello_is_welcomed_and_messages_go_both_ways() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(HELLO) as sock:
        assert answer(sock) == {
            "ok": True,
            "machine": "demo",
            "vm": "alpha",
            "host_port": 1 << 32,
            "payload_max": PAYLOAD_MAX,
        }
        sock.send(wire.DATA + b"hello")
        assert heard(sock) == wire.DATA + b"hello"


def test_what_a_snapshot_keeps_comes_when_it_is_released() -> None:
    with (
        Harness("demo", {"alpha": "echo"}) as harness,
        harness.call(wire.Hello("alpha", 1, 7).encode()) as sock,
    ):
        assert answer(sock)["host_port"] == 7
        for number in range(3):  # the reader waits for the first, or has just looked
            harness.machine.ports.hold()
            sock.send(wire.DATA + b"%d" % number)
            harness.until(lambda: harness.machine.ports.waiting() == 1)
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(100)
            sock.settimeout(WITHIN)
            harness.machine.ports.release()
            assert heard(sock) == wire.DATA + b"%d" % number


def test_a_question_is_answered_and_ends() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness:
        for vm, has in (("alpha", True), ("beta", False)):
            with harness.call(wire.Ask(vm).encode()) as sock:
                assert answer(sock) == {"ok": True, "machine": "demo", "has": has, "vms": ["alpha"]}
                assert heard(sock) == b""


@pytest.mark.parametrize(
    ("first", "code"),
    [
        (b"\x00\xffgarbage", "bad-hello"),
        (b"[" * 30_000, "bad-hello"),
        (b'{"v": 7, "vm": "alpha", "port": 1}', "version"),
        (wire.Hello("omega", 1, None).encode(), "no-vm"),
        (wire.Hello("alpha", "smc", None).encode(), "no-port"),
        (wire.Hello("alpha", "", None).encode(), "bad-hello"),
    ],
)
def test_a_bad_hello_is_refused_and_the_next_client_is_served(first: bytes, code: str) -> None:
    with Harness("demo", {"alpha": "echo"}) as harness:
        with harness.call(first) as sock:
            refusal = answer(sock)
            assert refusal["code"] == code
            assert refusal["error"]
            assert heard(sock) == b""
        with harness.call(HELLO) as sock:
            assert answer(sock)["ok"]


def test_an_unknown_vm_is_answered_with_those_there_are() -> None:
    with (
        Harness("demo", {"alpha": "echo", "beta": "echo"}) as harness,
        harness.call(wire.Hello("omega\n", 1, None).encode()) as sock,
    ):
        assert answer(sock)["error"] == "no VM 'omega\\n' in machine demo: it has alpha, beta"


def test_a_silent_client_gets_an_error_and_is_closed() -> None:
    with Harness("demo", {"alpha": "echo"}, patience=QUICK) as harness, harness.call() as sock:
        assert answer(sock) == {"code": "silent", "error": "no hello within 0.05 s"}
        assert heard(sock) == b""


def test_a_silent_client_delays_no_other() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(), harness.call(HELLO) as sock:
        assert answer(sock)["ok"]


def test_a_host_port_in_use_is_refused_and_free_again_afterwards() -> None:
    hello = wire.Hello("alpha", 1, 77).encode()
    with Harness("demo", {"alpha": "echo"}) as harness:
        with harness.call(hello) as first:
            assert answer(first)["host_port"] == 77
            with harness.call(hello) as second:
                assert answer(second)["code"] == "port-in-use"
        harness.until(lambda: harness.server.clients() == 0)
        with harness.call(hello) as third:
            assert answer(third)["host_port"] == 77


def test_of_too_many_clients_the_last_is_refused() -> None:
    with Harness("demo", {"alpha": "echo"}, clients_max=2) as harness:
        with harness.call(HELLO) as first, harness.call(HELLO) as second:
            assert answer(first)["ok"]
            assert answer(second)["ok"]
            with harness.call(HELLO) as third:
                assert answer(third)["code"] == "too-many"
        harness.until(lambda: harness.server.clients() == 0)
        with harness.call(HELLO) as fourth:
            assert answer(fourth)["ok"]


def test_silent_clients_keep_nobody_out() -> None:
    with Harness("demo", {"alpha": "echo"}, clients_max=2, patience=600 * 10**9) as harness:
        silent = [harness.call() for _ in range(SILENT_MAX + 2)]
        connected = [harness.call(HELLO) for _ in range(2)]
        assert all(answer(sock)["ok"] for sock in connected)
        for sock in silent[:2]:
            assert answer(sock) == {
                "code": "too-many",
                "error": "this place was needed before a hello had come",
            }
            assert heard(sock) == b""
        for sock in (*silent, *connected):
            sock.close()


def test_a_question_is_answered_also_when_no_more_can_connect() -> None:
    """The commands of `hfsched swap` ask it to find the machine."""
    with Harness("demo", {"alpha": "echo"}, clients_max=2) as harness:
        clients = [harness.call(HELLO) for _ in range(2)]
        assert all(answer(sock)["ok"] for sock in clients)
        with harness.call(wire.Ask("alpha").encode()) as asking:
            assert answer(asking)["ok"]
        for sock in clients:
            sock.send(wire.DATA + b"x")
            assert heard(sock) == wire.DATA + b"x"
            sock.close()


@pytest.mark.parametrize("which", ["reader", "writer"])
def test_a_client_for_which_there_is_no_thread_is_refused_and_the_next_one_is_served(
    monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    with Harness("demo", {"alpha": "echo"}, clients_max=1, silent_max=0) as harness:
        spawn = harness.runtime.spawn

        def none_left(name: str, fn: Callable[[], None]) -> Task:
            if name.endswith(which):
                raise UserError("no thread")
            return spawn(name, fn)

        monkeypatch.setattr(harness.runtime, "spawn", none_left)
        with harness.call(HELLO) as sock:
            first = answer(sock)
            if which == "reader":
                assert first == {"code": "too-many", "error": "no thread"}
            else:
                assert first["ok"]
                assert heard(sock) == wire.CLOSING + b"no thread"
            assert heard(sock) == b""
        monkeypatch.undo()
        harness.until(lambda: harness.server.clients() == 0)
        with harness.call(HELLO) as sock:
            assert answer(sock)["ok"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("door_open", [False, True])
def test_another_user_is_refused(xdg: Path, *, door_open: bool) -> None:
    """By the directory's mode; and where that has been opened, by its credentials."""
    go, told = os.pipe(), os.pipe()
    child = os.fork()  # before there are threads
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            where = os.read(go[0], 200)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(WITHIN)
                sock.connect(where)
                os.write(told[1], sock.recv(wire.ANSWER_MAX))
        except OSError as exc:
            os.write(told[1], type(exc).__name__.encode())
        finally:
            os._exit(0)
    try:
        with Harness("demo", {"alpha": "echo"}) as harness:
            if door_open:
                for path in (xdg, xdg / "hfsched", harness.directory.path):
                    path.chmod(0o755)
                harness.socket.chmod(0o666)
            os.write(go[1], bytes(harness.socket))
            said = os.read(told[0], wire.ANSWER_MAX)
    finally:
        os.waitpid(child, 0)
        for end in (*go, *told):
            os.close(end)
    if door_open:
        refusal = json.loads(said)
        assert refusal["code"] == "peer"
        assert "65534" in refusal["error"]
    else:
        assert said == b"PermissionError"


# Messages.


def test_an_empty_message_is_a_message() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        sock.send(wire.DATA)
        assert heard(sock) == wire.DATA


def test_the_longest_message_passes_and_a_longer_one_is_refused_alone() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(HELLO) as sock:
        limit = answer(sock)["payload_max"]
        sock.send(wire.DATA + bytes(limit + 1))
        assert heard(sock) == wire.REFUSED + b"a message of more than 4080 bytes"
        sock.send(wire.DATA + bytes(limit))
        assert heard(sock) == wire.DATA + bytes(limit)


def test_a_packet_of_an_unknown_type_is_refused_alone() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        sock.send(b"Zzz")
        assert heard(sock)[:1] == wire.REFUSED
        sock.send(wire.DATA + b"on")
        assert heard(sock) == wire.DATA + b"on"


def test_a_vm_without_framing_has_one_port_and_the_whole_mailbox() -> None:
    with Harness("demo", {"alpha": "sink"}, raw=True) as harness, harness.call(HELLO) as sock:
        harness.open("alpha")
        welcome = answer(sock)
        assert (welcome["host_port"], welcome["payload_max"]) == (-1, 4096)
        sock.send(wire.DATA + bytes(4096))
        harness.until(lambda: harness.machine.summary()[0].from_host == 1)
        with harness.call(HELLO) as second:
            assert answer(second)["code"] == "port-in-use"


def test_descriptors_sent_along_are_not_kept() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        read_end, write_end = os.pipe()
        socket.send_fds(sock, [wire.DATA + b"take this"], [write_end])
        assert heard(sock) == wire.DATA + b"take this"
        os.close(write_end)
        assert os.read(read_end, 1) == b"", "the other end is still open"
        os.close(read_end)


# Waiting.


def test_what_was_sent_is_pending_until_the_vm_has_accepted_it() -> None:
    with Harness("demo", {"alpha": "sink"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        assert not harness.server.pending()
        for _ in range(5):
            sock.send(wire.DATA + b"x")
        assert harness.server.pending()
        harness.until(
            lambda: harness.machine.summary()[0].from_host == 1
        )  # the mailbox is full now
        assert harness.server.pending()
        harness.open("alpha")
        harness.until(lambda: not harness.server.pending())
        assert harness.machine.summary()[0].from_host == 5


def test_a_refused_message_is_not_pending_for_ever() -> None:
    with Harness("demo", {"alpha": "sink"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        sock.send(wire.DATA + bytes(5000))
        harness.until(lambda: not harness.server.pending())
        assert harness.machine.summary()[0].from_host == 0


def test_what_a_client_sent_before_it_left_is_delivered() -> None:
    with Harness("demo", {"alpha": "gated"}) as harness:
        with harness.call(HELLO) as sock:
            answer(sock)
            for number in range(30):
                sock.send(wire.DATA + bytes([number]))
        harness.open("alpha")  # its answers have no reader, and delay no client
        harness.until(lambda: harness.server.clients() == 0)
        harness.until(harness.machine.quiet)
        summary = harness.machine.summary()[0]
        assert summary.from_host == 30
        assert summary.to_host == 30


def test_a_client_that_leaves_with_answers_unread_loses_none_of_its_messages() -> None:
    """The kernel says "connection reset" first in that case, and only then what was sent."""
    with Harness("demo", {"alpha": "echo", "beta": "gated"}) as harness:
        with harness.call(wire.Hello("beta", 1, None).encode()) as sock:
            for number in range(30):
                sock.send(wire.DATA + bytes([number]))
            # The welcome has been sent by now, and stays unread.
            harness.until(lambda: harness.machine.summary()[1].from_host == 1)
            harness.open("beta")
        harness.until(lambda: harness.server.clients() == 0)
        assert harness.machine.summary()[1].from_host == 30


def test_after_its_end_of_file_a_client_still_receives() -> None:
    with Harness("demo", {"alpha": "gated"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        for number in range(10):
            sock.send(wire.DATA + bytes([number]))
        sock.shutdown(socket.SHUT_WR)
        harness.open("alpha")
        assert [heard(sock) for _ in range(10)] == [wire.DATA + bytes([n]) for n in range(10)]


def test_a_slow_client_delays_its_guest_and_no_other() -> None:
    with (
        Harness("demo", {"alpha": "flood", "beta": "echo"}) as harness,
        harness.call(HELLO) as slow,
        harness.call(wire.Hello("beta", 1, None).encode()) as brisk,
    ):
        answer(slow)
        answer(brisk)
        slow.send(wire.DATA + b"go")
        for number in range(100):
            brisk.send(wire.DATA + bytes([number]))
            assert heard(brisk) == wire.DATA + bytes([number])
        assert harness.machine.summary()[0].to_host < guests.FLOOD, "nothing held the guest"
        for number in range(guests.FLOOD):
            assert heard(slow) == wire.DATA + struct.pack("<I", number) * 200


def test_a_client_that_leaves_frees_the_guest_that_wrote_to_it() -> None:
    with Harness("demo", {"alpha": "flood"}) as harness:
        with harness.call(HELLO) as slow:
            answer(slow)
            slow.send(wire.DATA + b"go")
            assert heard(slow)
        harness.until(lambda: harness.machine.summary()[0].to_host == guests.FLOOD)
        harness.until(lambda: harness.server.clients() == 0)
        assert harness.machine.summary()[0].discarded + harness.server.discarded("alpha") > 0


# Clients that do not read.


def unread(milliseconds: int) -> bytes:
    return wire.Hello("alpha", 1, None, milliseconds).encode()


def test_a_client_that_never_reads_is_closed_with_the_reason_and_the_others_go_on() -> None:
    notices: list[str] = []
    ends: list[tuple[int, str | None]] = []
    with Harness(
        "demo",
        {"alpha": "flood"},
        on_notice=notices.append,
        on_client=lambda client, _vm, _port, _host, reason: ends.append((client, reason)),
    ) as harness:
        with harness.call(unread(50)) as deaf, harness.call(HELLO) as brisk:
            answer(brisk)
            deaf.send(wire.DATA + b"go")
            harness.until(lambda: harness.server.clients() == 1)
            brisk.send(wire.DATA + b"go")
            for number in range(guests.FLOOD):
                assert heard(brisk) == wire.DATA + struct.pack("<I", number) * 200
            assert answer(deaf)["ok"]
            read = 0
            while (packet := heard(deaf))[:1] == wire.DATA:
                assert packet == wire.DATA + struct.pack("<I", read) * 200
                read += 1
            reason = "nothing was read for 0.05 s, and messages waited: read them, or ask for a longer time"
            assert packet == wire.CLOSING + reason.encode()
            assert heard(deaf) == b""
            with pytest.raises(BrokenPipeError):
                deaf.send(wire.DATA + b"more")
        lost = harness.machine.summary()[0].discarded + harness.server.discarded("alpha")
        assert read + lost == guests.FLOOD, "a message is not accounted for"
        assert notices == ["client 1 of vm alpha: disconnected: nothing read for 0.05 s"]
        assert (1, reason) in ends


def test_the_deadline_is_the_servers_unless_the_client_says_another() -> None:
    with (
        Harness("demo", {"alpha": "flood"}, unread_limit=QUICK) as harness,
        harness.call(unread(600_000)) as patient,
    ):
        answer(patient)
        patient.send(wire.DATA + b"go")
        with harness.call(HELLO) as deaf:
            answer(deaf)
            # The guest is waiting for the first one, and gets to the second one when that reads.
            deaf.send(wire.DATA + b"go")
            for number in range(guests.FLOOD):
                assert heard(patient) == wire.DATA + struct.pack("<I", number) * 200
            harness.until(lambda: harness.server.clients() == 1)
            while heard(deaf)[:1] == wire.DATA:
                pass
        patient.send(wire.DATA + b"again")
        assert heard(patient)[:1] == wire.DATA


def test_a_client_that_only_sends_garbage_and_never_reads_is_closed_too() -> None:
    """It is the reader that waits then, with the refusals."""
    with Harness("demo", {"alpha": "echo"}) as harness, harness.call(unread(50)) as sock:
        with suppress(OSError):
            while True:
                sock.send(b"Zzz")
        harness.until(lambda: harness.server.clients() == 0)
        assert not harness.server.pending()


# Ends.


def test_a_vms_last_messages_come_before_the_reason_of_its_end() -> None:
    with Harness("demo", {"alpha": "dying"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        sock.send(wire.DATA + b"last")
        assert [heard(sock) for _ in range(3)] == [wire.DATA + b"last"] * 3
        reason = b"vm alpha has ended: the guest function returned"
        assert heard(sock) == wire.CLOSING + reason
        assert heard(sock) == b""
        with harness.call(HELLO) as late:
            assert answer(late)["code"] == "vm-ended"


def test_messages_for_a_vm_that_ended_are_not_pending() -> None:
    with Harness("demo", {"alpha": "dying"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        with suppress(ConnectionError):  # it ends at the first one
            for _ in range(20):
                sock.send(wire.DATA + b"x")
        harness.until(lambda: not harness.server.pending())
        said = [heard(sock) for _ in range(5)]
        assert said[3].startswith(wire.CLOSING + b"vm alpha has ended")
        assert said[4] == b""


def test_a_dead_vm_takes_no_more_and_a_slow_client_still_gets_all_its_last_messages() -> None:
    with Harness("demo", {"alpha": "drowning"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        with suppress(ConnectionError):  # which comes, though no client reads
            while sock.send(wire.DATA + b"x"):
                pass
        harness.until(lambda: "alpha" in harness.machine.aborts)
        harness.until(lambda: not harness.server.pending())
        for number in range(guests.LAST_MESSAGES):
            assert heard(sock) == wire.DATA + bytes([number]) * 4080
        assert heard(sock)[:1] == wire.CLOSING
        assert heard(sock) == b""


def test_a_client_that_does_not_read_holds_up_no_closing() -> None:
    with Harness("demo", {"alpha": "drowning"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        sock.send(wire.DATA + b"x")
        harness.until(lambda: "alpha" in harness.machine.aborts)
        harness.stop()
        assert server_threads() == []
        assert heard(sock) == wire.DATA + bytes(4080)


def test_when_the_machine_stops_every_client_gets_the_reason() -> None:
    with Harness("demo", {"alpha": "echo", "beta": "gated", "gamma": "flood"}) as harness:
        idle, stuck, slow, dumb = (
            harness.call(wire.Hello(vm, 1, None).encode())
            for vm in ("alpha", "beta", "gamma", "beta")
        )
        for sock in (idle, stuck, slow, dumb):
            answer(sock)
        for _ in range(8):
            stuck.send(wire.DATA + b"x")  # they are not taken
        slow.send(wire.DATA + b"go")
        assert heard(slow)  # the first of many, and reads no more
        harness.stop()
        for sock in (idle, stuck, dumb):
            assert heard(sock)[:1] in (wire.CLOSING, wire.DATA)
        for sock in (idle, stuck, slow, dumb):
            while heard(sock):
                pass
            sock.close()
        assert server_threads() == []


def test_closing_the_server_alone_is_prompt_and_leaves_the_machine_running() -> None:
    with Harness("demo", {"alpha": "echo"}) as harness:
        with harness.call(HELLO) as sock, harness.call() as silent:
            answer(sock)
            with harness.call(wire.Ask("alpha").encode()) as later:
                assert answer(later)["ok"]  # so the silent one was let in
            assert harness.server.close() == []
            assert heard(sock) == wire.CLOSING + b"machine demo stops"
            assert heard(sock) == b""
            assert answer(silent)["code"] == "stopping"
        assert harness.server.close() == []
        assert server_threads() == []
        endpoint = harness.machine.endpoint("alpha", 1)
        endpoint.send(b"still there")
        port_message = endpoint.recv(harness.runtime.now() + int(WITHIN * 1e9))
        assert port_message is not None
        assert port_message.payload == b"still there"


def test_a_sender_stuck_at_a_full_mailbox_is_named_and_ends_with_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sends = threading.Semaphore(0)
    send = Endpoint.send

    def announced(self: Endpoint, payload: bytes, deadline: int | None = None) -> Sent:
        sends.release()
        return send(self, payload, deadline)

    monkeypatch.setattr(Endpoint, "send", announced)
    with Harness("demo", {"alpha": "gated"}) as harness, harness.call(HELLO) as sock:
        answer(sock)
        for _ in range(3):
            sock.send(wire.DATA + b"x")
        for _ in range(2):  # the second one finds the mailbox full
            assert sends.acquire(timeout=WITHIN)
        assert harness.server.close(harness.runtime.now() + QUICK) == ["ports.1.reader"]
        harness.stop()
        assert server_threads() == []
