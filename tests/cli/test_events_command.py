"""`hfsched events`: the events of a running machine, as a user reads them."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from progress import QUIET, Quiet
from test_swap_command import can_swap, say

import hfsched as package
from hfsched.client import connect

if TYPE_CHECKING:
    from conftest import Process, Start

# Answers a message when the next one comes.
LATE = """
from hfsched.programs.library import GuestMailbox, log, swap_ports

def main(cpu):
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from log("up")
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.wait()
        yield from mailbox.release()
        yield from mailbox.send(sender, swap_ports(data))
"""

DYING = '''
from hfsched.programs.library import GuestMailbox, log


def main(cpu):
    """End at the first message."""
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from log("up")
    yield from mailbox.wait()
'''


# Answers a message with far more than a queue and a socket hold, then says "done".
LAVISH = """
from hfsched.programs.library import GuestMailbox, log, swap_ports

def main(cpu):
    mailbox = GuestMailbox(cpu)
    yield from mailbox.map()
    yield from log("up")
    while True:
        sender, data = yield from mailbox.wait()
        yield from mailbox.release()
        for _ in range(200 if data[16:] == b"flood" else 1):
            yield from mailbox.send(sender, swap_ports(data) + bytes(1000))
"""


def objects(process: Process) -> list[dict[str, Any]]:
    return [json.loads(line) for line in process.out.splitlines()]


@pytest.fixture
def place(runtime_directory: Path) -> Path:
    """The directory of the machine's sockets."""
    return runtime_directory / "hfsched" / "demo"


@pytest.fixture
def echo(run: Start, place: Path) -> Start:
    """Start a machine, and wait until its control socket is there, which no output reports."""

    def start(*arguments: str) -> Process:
        guests = () if "--guest" in arguments else ("--guest", "a=guests.py:echo")
        machine = run(*guests, "--name", "demo", "--linger", "60", *arguments)
        machine.until(r"up")
        quiet = Quiet()
        while not answers(place / "control"):
            assert quiet.left > 0
            select.select([], [], [], 0.01)
        return machine

    return start


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        return sock.connect_ex(str(path)) == 0


def test_a_machine_without_swap_has_events_until_it_ends(echo: Start, hfsched: Start) -> None:
    machine = echo()
    events = hfsched("events", "demo")
    events.until('"started"')
    assert machine.wait() == 0
    assert events.wait() == 0
    assert events.err == ""
    version = package.__version__
    assert objects(events) == [
        {"event": "started", "machine": "demo", "version": version, "vms": ["a"]},
        {"event": "ended"},
    ]


def test_a_client_that_connects_and_a_vm_that_ends(
    echo: Start, hfsched: Start, place: Path
) -> None:
    Path("dying.py").write_text(DYING)
    machine = echo("--guest", "a=guests.py:echo", "--guest", "b=dying.py:main")
    events = hfsched("events", str(place / "control"))
    events.until('"started"')
    with connect("a", 5, str(place / "ports"), local=9):
        events.until('"connected"')
    events.until('"disconnected"')
    machine.type("@b go\n")
    events.until('"aborted"')
    assert machine.wait() == 1
    assert events.wait() == 0
    reason = "the guest function returned"
    assert objects(events)[1:] == [
        {"event": "connected", "client": 1, "vm": "a", "port": 5, "host_port": 9},
        {"event": "disconnected", "client": 1, "vm": "a", "port": 5, "reason": ""},
        {"event": "aborted", "vm": "b", "reason": reason},
        {"event": "ended"},
    ]


def test_a_program_that_never_reads_loses_its_connection_and_the_vm_goes_on(
    echo: Start, hfsched: Start, place: Path
) -> None:
    Path("lavish.py").write_text(LAVISH)
    machine = echo("--guest", "a=lavish.py:main", "--unread-limit", "50ms")
    events = hfsched("events", str(place / "control"))
    events.until('"started"')
    with connect("a", 1, str(place / "ports"), local=9) as deaf:
        deaf.send(b"flood")
        events.until('"disconnected"')
        with connect("a", 1, str(place / "ports")) as other:
            other.send(b"x")
            assert other.recv(timeout=QUIET) == b"x" + bytes(1000)
    assert machine.wait() == 3
    notice = "client 1 of vm a: disconnected: nothing read for 0.05 s"
    assert f"hfsched: {notice}\n" in machine.err
    assert re.search(
        r"error: vm a: \d+ messages to host programs dropped: they had disconnected", machine.err
    )
    assert events.wait() == 0
    gone = objects(events)[2]
    assert (gone["event"], gone["client"]) == ("disconnected", 1)
    assert gone["reason"].startswith("nothing was read for 0.05 s, and messages waited: ")


@pytest.mark.parametrize("limit", ["0s", "0", "5ms", "soon", "25h"])
def test_a_limit_that_is_none_is_misuse(hfsched: Start, limit: str) -> None:
    refused = hfsched("run", "guests.py:echo", "--unread-limit", limit)
    assert refused.wait() == 2
    hint = "a time such as 500ms, 30s or 2m, 10ms to 24h"
    assert refused.err == f"hfsched: error: --unread-limit {limit!r}: {hint}\n"


def test_an_answer_to_a_host_program_that_has_gone_is_status_3(
    echo: Start, hfsched: Start, place: Path
) -> None:
    Path("late.py").write_text(LATE)
    machine = echo("--guest", "a=late.py:main")
    events = hfsched("events", str(place / "control"))
    events.until('"started"')
    with connect("a", 1, str(place / "ports")) as end:
        end.send(b"x")
    events.until('"disconnected"')
    machine.type("now\n")
    assert machine.wait() == 3
    assert machine.err.count("dropped") + machine.err.count("discarded") == 1
    assert "error: vm a: 1 message to host programs dropped: they had disconnected" in machine.err
    assert events.wait() == 0


def test_ctrl_c_ends_it_with_status_0(echo: Start, hfsched: Start) -> None:
    machine = echo()
    events = hfsched("events", "demo")
    events.until('"started"')
    events.interrupt(signal.SIGINT)
    assert events.wait() == 0
    assert [each["event"] for each in objects(events)] == ["started"]
    assert machine.wait() == 0


def test_a_machine_that_is_killed(echo: Start, hfsched: Start, place: Path) -> None:
    machine = echo()
    events = hfsched("events", "demo")
    events.until('"started"')
    machine.interrupt(signal.SIGKILL)
    assert machine.wait() == -signal.SIGKILL
    assert events.wait() == 1
    path = place / "control"
    why = "the machine has ended without the event `ended`: its process was killed"
    assert events.err == f"hfsched: error: {path}: {why}\n"
    again = hfsched("events", "demo")
    assert again.wait() == 1
    assert again.err.startswith("hfsched: error: no machine 'demo': ")  # others may run


def test_a_machine_that_is_not_there(hfsched: Start) -> None:
    for name, text in (
        ("absent", "no machine 'absent': "),
        ("nowhere/s", "nowhere/s: there is no such socket\n"),
        (
            "./guests.py",
            "./guests.py: not a socket: name a machine, or the socket `control` in its directory\n",
        ),
    ):
        events = hfsched("events", name)
        assert events.wait() == 1
        assert events.out == ""
        assert events.err.startswith(f"hfsched: error: {text}")
        assert events.err.count("\n") == 1


def test_a_reader_that_leaves(echo: Start, hfsched: Start) -> None:
    machine = echo()
    reader, writer = os.pipe()
    os.close(reader)
    events = hfsched("events", "demo", stdout=writer)
    os.close(writer)
    assert events.wait() == 1
    assert events.err == ""
    assert machine.wait() == 0


@can_swap
def test_swap_and_the_suspension_are_events(echo: Start, hfsched: Start, tmp_path: Path) -> None:
    pytest.importorskip("unicorn")
    guest = ("--engine", "unicorn", "--guest", "stress.bin", "--memory", "4MiB")
    machine = echo(*guest, "--swap-dir", str(tmp_path))
    events = hfsched("events", "demo")
    events.until('"ready"')
    say(hfsched, "enable", "stress")
    events.until('"pending"')
    say(hfsched, "out", "stress")
    events.until('"active"')
    say(hfsched, "disable", "stress")
    events.until('"event": "swap", "state": "ready"[^$]*"event": "swap", "state": "ready"')
    assert machine.wait() == 0
    assert events.wait() == 0
    seen = objects(events)
    holds = [each for each in seen if each["event"] in ("suspended", "resumed")]
    assert holds == [
        {"event": "suspended", "holder": "swap"},
        {"event": "resumed", "holder": "swap"},
    ]
    ended = [each for each in seen if each["event"] == "swap-moved"]
    assert [(each["move"], each["state"], each["error"]) for each in ended] == [
        ("enable", "pending", ""),
        ("out", "active", ""),
        ("disable", "ready", ""),
    ]
    staged, out, back = (each["pages"] for each in ended)
    assert staged >= out > 0
    assert staged >= back > 0
    moves = [each["state"] for each in seen if each["event"] == "swap"]
    assert [state for state in moves if "progress" not in state and state != "enabling"] == [
        "ready",
        "pending",
        "active",
        "ready",
    ]
