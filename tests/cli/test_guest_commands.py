"""`hfsched kvp` and `hfsched guest`: a guest's utility services, as a user sees them."""

from __future__ import annotations

import json
import signal
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from progress import Quiet
from test_suspend_command import begin, refused, say

from hfsched.vcpu.kvm import device
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from conftest import Process, Start

ENGINES = {
    "script": "utility",
    "unicorn": "aarch64/utility.bin",
    "kvm": f"{device.MACHINE}/utility.bin",
}


@pytest.fixture(params=[*ENGINES])
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if name == "unicorn":
        pytest.importorskip("unicorn")
    if name == "kvm" and (why_not := device.problem()):
        pytest.skip(f"engine kvm: {why_not}")
    if name != "script" and ENGINES[name] not in bundled_images():
        pytest.skip("script/guests was not run")
    return name


def start(run: Start, engine: str = "script", *arguments: str) -> Process:
    """Start the machine `demo` with the guest `u`, which has registered its services."""
    demo = begin(run, "--engine", engine, "--guest", f"u={ENGINES[engine]}", *arguments)
    heard(demo, "state", "ready 6")
    return demo


def heard(demo: Process, command: str, answer: str) -> None:
    """Say a command to the guest again and again, until it answers that."""
    quiet = Quiet()
    while True:
        before = len(demo.out)
        demo.type(f"{command}\n")
        demo.until(rf"(?s)\A.{{{before}}}.*\n")
        if answer in demo.out[before:]:
            return
        assert quiet.left > 0, demo.out
        time.sleep(0.01)


def said(demo: Process, command: str) -> str:
    """Return the guest's answer to a command."""
    before = len(demo.out)
    demo.type(f"{command}\n")
    return demo.until(rf"(?s)\A.{{{before}}}(?:\[?u\]?:? ?)?([^\n]*)\n")[1].decode()


def test_a_guest_does_what_it_is_asked_for(run: Start, hfsched: Start, engine: str) -> None:
    demo = start(run, engine)
    assert say(hfsched, "kvp", "list", "u") == "os\n"
    assert say(hfsched, "kvp", "set", "demo/u", "role", "db 1") == ""
    assert say(hfsched, "kvp", "get", "u", "role") == "db 1\n"
    assert json.loads(say(hfsched, "kvp", "list", "u", "--json")) == {"keys": ["os", "role"]}
    found = json.loads(say(hfsched, "kvp", "get", "u", "role", "--json"))
    assert found == {"key": "role", "value": "db 1"}
    assert say(hfsched, "kvp", "delete", "u", "role") == ""
    assert refused(hfsched, "kvp", "get", "u", "role") == (1, "vm u: get role: not found\n")
    assert say(hfsched, "kvp", "get", "--host", "u", "machine") == "demo\n"
    assert say(hfsched, "kvp", "set", "--host", "u", "lease", "7") == ""
    assert said(demo, "get lease") == "ok 7"
    assert " answers after " in say(hfsched, "guest", "u", "ping")
    assert json.loads(say(hfsched, "guest", "u", "ping", "--json"))["ns"] > 0
    data = bytes(range(256)) * 20
    Path("notes").write_bytes(data)
    out = say(hfsched, "guest", "demo/u", "copy", "notes")
    assert out == f"notes is copied, {len(data)} bytes\n"
    assert said(demo, "files") == f"notes {len(data)} {zlib.crc32(data):x}"
    assert say(hfsched, "guest", "u", "shutdown") == "u shuts down\n"
    demo.until("utility: down")
    status, line = refused(hfsched, "guest", "u", "ping")
    assert (status, line) == (1, "vm u: its guest offers no heartbeat\n")
    assert demo.wait() == 0


def test_a_hibernation_and_a_suspension_are_told(run: Start, hfsched: Start, engine: str) -> None:
    demo = start(run, engine)
    assert said(demo, "hibernate half 50") == "armed"
    status, line = refused(hfsched, "kvp", "get", "u", "os")
    assert (status, line) == (1, "vm u: get os: the guest has hibernated\n")
    assert say(hfsched, "kvp", "get", "u", "os") == "utility\n"  # when it is back
    say(hfsched, "suspend", "demo")
    status, line = refused(hfsched, "guest", "u", "ping", "--within", "50ms")
    assert status == 1
    assert line == "vm u: ping: timed out: the machine is suspended by user\n"
    say(hfsched, "resume", "demo")
    heard(demo, "state", "ready 6 frozen 0 stale 1")
    assert demo.wait() == 0


def test_a_daemon_that_never_answers(run: Start, hfsched: Start) -> None:
    demo = start(run)
    assert said(demo, "mute 1") == "mute"
    status, line = refused(hfsched, "guest", "u", "ping", "--within", "50ms")
    assert (status, line) == (1, "vm u: ping: timed out\n")
    assert said(demo, "mute 1") == "mute"
    lost = hfsched("kvp", "get", "u", "os")
    heard(demo, "state", "mute 0")
    demo.interrupt()
    assert demo.wait() == 128 + signal.SIGINT
    assert "error" not in demo.err
    assert lost.wait() == 1
    assert lost.err == "hfsched: error: vm u: get os: the VM has ended\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_copy_whose_client_ends_is_cancelled_on_both_sides(
    run: Start, hfsched: Start, how: signal.Signals
) -> None:
    demo = start(run)
    Path("notes").write_bytes(bytes(100_000))
    assert said(demo, "mute 1") == "mute"
    client = hfsched(
        "guest", "u", "copy", "notes", "--within", "10m"
    )  # whose first step is not answered
    heard(demo, "state", "mute 0")
    Path("other").write_bytes(b"x")
    status, line = refused(hfsched, "guest", "u", "copy", "other")
    assert (status, line) == (1, "vm u: copy other: busy: another one is under way\n")
    client.interrupt(how)
    assert client.wait() == (130 if how is signal.SIGINT else -how)
    quiet = Quiet()
    while (copied := hfsched("guest", "u", "copy", "other")).wait():
        assert quiet.left > 0, copied.err
    assert said(demo, "files") == f"other 1 {zlib.crc32(b'x'):x}"
    assert demo.wait() == 0


def test_a_file_that_is_none_is_refused(run: Start, hfsched: Start) -> None:
    demo = start(run)
    Path("folder").mkdir()
    assert refused(hfsched, "guest", "u", "copy", "none")[1] == "none: No such file or directory\n"
    assert refused(hfsched, "guest", "u", "copy", "folder")[1] == "folder: not a regular file\n"
    assert said(demo, "files") == "no files"
    assert demo.wait() == 0


def test_a_value_of_bytes_comes_from_standard_input(run: Start, hfsched: Start) -> None:
    demo = start(run)
    setting = hfsched("kvp", "set", "u", "blob", "-")
    setting.type(b"\xff\0\x1b[2J")
    assert setting.wait() == 0, setting.err
    found = json.loads(say(hfsched, "kvp", "get", "u", "blob", "--json"))
    assert found == {"key": "blob", "base64": "/wAbWzJK"}
    getting = hfsched("kvp", "get", "u", "blob")
    assert getting.wait() == 0
    assert getting.raw == b"\xff\0\x1b[2J\n"
    assert demo.wait() == 0


def test_a_guest_without_services(run: Start, hfsched: Start) -> None:
    demo = begin(run, "--engine", "script", "--guest", "e=guests.py:echo", "--linger", "60")
    status, line = refused(hfsched, "kvp", "get", "e", "os")
    assert (status, line) == (1, "vm e: its guest offers no key-value exchange\n")
    assert refused(hfsched, "guest", "x", "ping")[1].startswith("no machine has a VM 'x'")
    Path("notes").touch()
    status, line = refused(hfsched, "guest", "e", "copy", "notes")
    assert (status, line) == (1, "vm e: its guest offers no file copy\n")
    assert demo.wait() == 0


MISUSE: list[tuple[str, Callable[[str], bool] | str]] = [
    ("kvp get u", "get needs a KEY"),
    ("kvp set u k", "set needs a VALUE"),
    ("kvp list u k", "'k' is one word too many for list"),
    (f"kvp get u {'k' * 513}", f"key '{'k' * 80}': 1 to 512 bytes"),
    (f"kvp set u k {'v' * 3537}", "a value of 3537 bytes or more: at most 3536"),
    ("guest u copy", "copy needs a FILE"),
    ("guest u ping x", "'x' is one word too many for ping"),
    ("guest u ping --reboot", "--reboot is for shutdown, not for ping"),
]


@pytest.mark.parametrize(("words", "text"), MISUSE)
def test_misuse(hfsched: Start, words: str, text: str) -> None:
    assert refused(hfsched, *words.split()) == (2, f"{text}\n")
