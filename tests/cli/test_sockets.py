"""The two kinds of sockets of a machine, and what the wrong one, a wrong path or a wrong name is answered with."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from progress import Quiet

from hfsched.client import connect
from hfsched.control.wire import RefusedError
from hfsched.errors import UserError

if TYPE_CHECKING:
    from conftest import Process, Start

MANIFEST = """
name = "two"
[[vm]]
name = "alpha"
image = "guests.py:echo"
ports = { smc = 7, text = 1 }
"""


@pytest.fixture
def two(run: Start) -> Process:
    """Start a machine with a VM whose ports have names, and a socket ./c.sock of its own."""
    Path("two.toml").write_text(MANIFEST)
    machine = run("two.toml", "--socket", "c.sock", "--linger", "60")
    machine.type("hello\n")
    machine.until("alpha: hello")
    return machine


def until_served(hfsched: Start) -> None:
    """Wait until the control socket, which comes last, answers."""
    quiet = Quiet()
    while True:
        status = hfsched("swap", "status", "./c.sock")
        status.wait()
        if "has no swap" in status.err:
            return
        assert quiet.left, status.err


def test_the_wrong_one_of_two_sockets(
    two: Process, hfsched: Start, runtime_directory: Path
) -> None:
    until_served(hfsched)
    control = Path("c.sock").absolute()
    with pytest.raises(RefusedError, match=rf"^{re.escape(str(control))}: a control socket, for "):
        connect("alpha", machine=str(control))
    ports = runtime_directory / "hfsched" / "two" / "ports"
    status = hfsched("swap", "status", str(ports))
    assert status.wait() == 1
    assert status.err == (
        f"hfsched: error: {ports}: the socket of a machine's ports:"
        " commands go to the socket `control` beside it\n"
    )
    of_all = hfsched("swap", "status", str(ports.parent))
    assert of_all.wait() == 1
    assert "has no swap" in of_all.err
    events = hfsched("events", "two")
    for name, number in (("smc", 7), ("text", 1)):
        with connect("alpha", name, machine=str(ports)) as alpha:
            alpha.send(b"by name")
            assert alpha.recv(timeout=60) == b"by name"
            events.until(f'"connected", "client": \\d+, "vm": "alpha", "port": {number},')
    with pytest.raises(
        RefusedError, match=r"^vm alpha has no port 'scm': there are text = 1, smc = 7 .*'smc'\?$"
    ) as caught:
        connect("alpha", "scm", machine=str(ports))
    assert caught.value.code == "no-port"
    assert two.wait() == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "events c.sock",
            "no machine 'c.sock': running: two: for the socket of that name write ./c.sock",
        ),
        (
            "swap status c.sock",
            (
                "no machine has a VM 'c.sock': running: two/alpha:"
                " for the socket of that name write ./c.sock"
            ),
        ),
        ("swap enable ./d.sock", "./d.sock: there is no such socket"),
        ("swap enable ../d.sock", "../d.sock: there is no such socket"),
        ("events ./d.sock", "./d.sock: there is no such socket"),
        ("swap status two", "'two' is a machine: name a VM of it: two/alpha"),
        (
            "swap status alhpa",
            "no machine has a VM 'alhpa': running: two/alpha: did you mean 'alpha'?",
        ),
        ("swap status tow/alpha", "no machine 'tow': running: two: did you mean 'two'?"),
        ("events tow", "no machine 'tow': running: two: did you mean 'two'?"),
    ],
)
def test_a_wrong_path_or_name(two: Process, hfsched: Start, words: str, message: str) -> None:
    until_served(hfsched)
    wrong = hfsched(*words.split())
    assert wrong.wait() == 1
    assert wrong.err == f"hfsched: error: {message}\n"
    assert two.wait() == 0


def test_a_machine_that_a_program_names_by_a_socket_without_a_slash(
    two: Process, hfsched: Start, runtime_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    until_served(hfsched)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime_directory))
    with pytest.raises(UserError, match=r"for the socket of that name write \./c\.sock$"):
        connect("alpha", machine="c.sock")
    assert two.wait() == 0


@pytest.mark.parametrize("interrupted", [False, True])
def test_what_host_programs_sent_and_no_vm_took_is_counted_for_each(
    run: Start, runtime_directory: Path, *, interrupted: bool
) -> None:
    machine = run(
        *("a=guests.py:unmapped", "b=guests.py:echo"),
        *("--name", "left", "--to", "b", "--linger", "0.1", "--json"),
    )
    machine.type("ready\n")
    machine.until('"text": "ready"')
    ports = str(runtime_directory / "hfsched" / "left" / "ports")
    quiet = Quiet()
    while not Path(ports).exists():
        assert quiet.left, machine.err
    with connect("a", machine=ports) as full, connect("b", machine=ports) as empty:
        sent = 0
        with suppress(BlockingIOError):
            for _ in range(1000):
                full.send(b"more", block=False)
                sent += 1
        empty.send(b"taken")
        assert empty.recv(timeout=60) == b"taken"
        if interrupted:
            machine.interrupt()
        assert machine.wait() == (130 if interrupted else 3)
    why = " to vm a: the run was interrupted" if interrupted else ": vm a has not mapped RX"
    assert f"host programs: {sent} messages undelivered{why}" in machine.err
    assert f"host programs: {sent} messages undelivered{why}" in machine.out
    assert sent > 10
