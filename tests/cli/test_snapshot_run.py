"""`hfsched snapshot take`, `hibernate` and `run --restore`: a machine that goes on elsewhere, as a user sees it."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from progress import Quiet
from talk import TARGETS, UNICORN, Target
from test_environments import limited
from test_guest_commands import heard, said
from test_suspend_command import begin, refused, say
from test_swap_command import can_swap, until
from test_swap_command import machine as swapped
from test_swap_command import say as swap

from hfsched import ConnectionClosed, connect
from hfsched.client import Connection
from hfsched.memory import writeprotect
from hfsched.swap.core.pagemap import open_pagemap

if TYPE_CHECKING:
    from conftest import Process, Start

CHECK = "check 7\n"


@pytest.fixture(params=TARGETS, ids=str)
def target(request: pytest.FixtureRequest) -> Target:
    made: Target = request.param
    if why_not := made.why_not():
        pytest.skip(f"{made}: {why_not}")
    return made


@pytest.fixture
def unicorn() -> Target:
    if why_not := UNICORN.why_not():
        pytest.skip(f"{UNICORN}: {why_not}")
    return UNICORN


def started(run: Start, target: Target) -> Process:
    """Start the machine `demo`, whose guest has filled its memory."""
    made = run(
        *("--engine", target.engine, f"stress={target.image('stress')}", "--memory", "2MiB"),
        *("--name", "demo", "--linger", "60"),
    )
    made.until(r"^\[stress\] stress: up")
    made.type("fill 7\n")
    made.until(r"^stress: ok \d+$")
    return made


def checks(process: Process, ok: int = 1) -> None:
    """Have a guest check its memory; it is the `ok`-th answer."""
    process.type(CHECK)
    process.until(rf"(^stress: ok \d+$[^$]*){{{ok}}}")


def test_a_machine_goes_on_and_so_does_its_snapshot(
    run: Start, hfsched: Start, target: Target
) -> None:
    machine = started(run, target)
    lines = say(hfsched, "snapshot", "take", "demo", "monday").splitlines()
    assert lines[0].startswith("layer    monday, full: ")
    assert lines[1].startswith("machine  demo was suspended for ")
    assert say(hfsched, "snapshot", "verify", "monday").endswith(": whole\n")
    checks(machine, ok=2)
    taken = json.loads(say(hfsched, "snapshot", "take", "tuesday", "--codec", "zstd", "--json"))
    assert (taken["machine"], taken["on"]) == ("demo", None)
    assert machine.wait() == 0
    for name in ("monday", "tuesday"):  # that of the second is quite another process
        again = run("--restore", name, "--linger", "60")
        checks(again)
        assert again.wait() == 0
        assert "engine " + target.engine + ": the snapshot's" in again.err


def test_hibernation_and_return_and_once_more(run: Start, hfsched: Start, target: Target) -> None:
    machine = started(run, target)
    for number in range(3):
        text = say(hfsched, "hibernate", f"night{number}")
        assert f"it goes on with `hfsched run --restore night{number}`" in text
        assert machine.wait() == 4
        assert "error" not in machine.err
        machine = run("--restore", f"night{number}", "--linger", "60")
        checks(machine)
    assert machine.wait() == 0


def test_a_chain_of_incremental_ones(run: Start, hfsched: Start, target: Target) -> None:
    machine = started(run, target)
    take = ("snapshot", "take", "demo")
    first = hfsched(*take, "a0", "--incremental", "--json")
    assert first.wait() == 0
    assert "a0 is a full snapshot: there is no snapshot of this run since which" in first.err
    for number in range(1, 4):
        checks(machine, ok=number + 1)
        text = say(hfsched, *take, f"a{number}", "--incremental")
        if problem() is not None:
            continue
        assert text.startswith(f"layer    a{number}, on a{number - 1}: ")
        assert int(text.split()[4]) < 50  # of 512 pages
    assert machine.wait() == 0
    again = run("--restore", "a3", "--linger", "60")
    checks(again)
    text = say(hfsched, *take, "b", "--incremental")
    assert problem() is not None or text.startswith("layer    b, on a3: ")
    assert again.wait() == 0
    last = run("--restore", "b", "--linger", "60")
    checks(last)
    Path("elsewhere").mkdir()
    status, error = refused(hfsched, *take, "elsewhere/c", "--incremental")
    if problem() is None:
        assert (status, error) == (1, "elsewhere/b: no such directory: take a full one\n")
    assert last.wait() == 0


def test_a_vm_that_had_aborted_is_reported_again(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    machine = run(
        *("--engine", "unicorn", f"h={unicorn.image('hostile')}", f"e={unicorn.image('echo')}"),
        *("--name", "demo", "--linger", "60"),
    )
    machine.type("@h die\n")
    machine.until(r"error: vm h aborted: .*$", stream="err")
    say(hfsched, "hibernate", "night")
    assert machine.wait() == 4
    (text,) = [line for line in machine.err.splitlines() if "aborted" in line]
    again = run("--restore", "night", "--linger", "60", "--json")
    assert again.wait() == 1
    assert text in again.err.splitlines()
    reason = text.removeprefix("hfsched: error: vm h aborted: ")
    events = [json.loads(line) for line in again.out.splitlines()]
    assert {"event": "aborted", "vm": "h", "reason": reason} in events


def test_names_of_all_kinds(run: Start, hfsched: Start, unicorn: Target) -> None:
    machine = started(run, unicorn)
    odd = "a\tnight \u00fc"
    status, error = refused(hfsched, "snapshot", "take", "bad\udc80")
    assert (status, error) == (1, "bad\\udc80: the name of a snapshot must be UTF-8\n")
    say(hfsched, "hibernate", odd)
    assert machine.wait() == 4
    again = run("--restore", f"{odd}/", "--linger", "60")
    checks(again)
    text = say(hfsched, "snapshot", "take", "next", "--incremental")
    assert problem() is not None or text.startswith("layer    next, on a\\tnight \u00fc: ")
    assert again.wait() == 0
    Path(odd).rename("bad\udc80")
    last = run("--restore", "bad\udc80", "--linger", "60")
    checks(last)
    assert say(hfsched, "snapshot", "take", "full", "--incremental").startswith(
        "layer    full, full"
    )
    assert last.wait() == 0


def test_a_guest_is_frozen_for_it_and_thawed_here_and_there(
    run: Start, hfsched: Start, target: Target
) -> None:
    demo = begin(
        run, *("--engine", target.engine, f"u={target.image('utility')}", "--linger", "60")
    )
    heard(demo, "state", "ready 6 frozen 0")
    assert said(demo, "hibernate half 50") == "armed"
    assert refused(hfsched, "kvp", "get", "u", "os")[0] == 1
    heard(demo, "state", "ready 6 frozen 0 stale 1")
    say(hfsched, "snapshot", "take", "demo", "monday")
    heard(demo, "state", "ready 6 frozen 0 stale 1")
    assert demo.wait() == 0
    again = run("--restore", "monday", "--linger", "60")
    heard(again, "state", "ready 6 frozen 0 stale 1")
    assert say(hfsched, "kvp", "get", "u", "os") == "utility\n"
    assert again.wait() == 0


def test_a_guest_that_says_nothing_takes_no_other_ones_time(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    guests = [f"{name}={unicorn.image('utility')}" for name in ("a", "b", "c")]
    demo = begin(run, *("--engine", "unicorn", *guests, "--linger", "60"))
    for name in ("a", "b"):
        demo.type(f"@{name} mute 1\n")
        demo.until(rf"^{name}: mute$")
    take = hfsched("snapshot", "take", "demo", "monday", "--within", "3s")
    assert take.wait() == 0, take.err
    for name in ("a", "b"):
        assert f"monday: not frozen before: vm {name}: freeze: timed out" in take.err
    assert "vm c" not in take.err
    assert demo.wait() == 0


@pytest.mark.parametrize("how", ["cancel", "interrupt"])
def test_a_guest_that_says_nothing_is_not_waited_for_once_it_is_cancelled(
    run: Start, hfsched: Start, unicorn: Target, how: str
) -> None:
    guest = f"u={unicorn.image('utility')}"
    demo = begin(run, *("--engine", "unicorn", guest, "--linger", "60"))
    heard(demo, "state", "ready 6")
    assert said(demo, "mute 1") == "mute"
    take = hfsched("snapshot", "take", "demo", "monday", "--within", "4m")
    heard(demo, "state", "mute 0")  # it has been asked
    began = time.monotonic()
    if how == "cancel":
        assert say(hfsched, "snapshot", "cancel", "demo") == "snapshot monday is cancelled\n"
        assert take.wait() == 1
        assert take.err.endswith("monday: cancelled\n")
    else:
        take.interrupt()
        assert take.wait() == 130
    say(hfsched, "snapshot", "take", "demo", "tuesday", "--within", "30s")  # its turn
    assert time.monotonic() - began < 60  # of two minutes
    assert demo.wait() == 0


def test_what_cannot_be_written_is_named_as_the_user_did(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    guests = [f"{name}={unicorn.image('stress')}" for name in ("a", "b")]
    demo = run(
        *("--engine", "unicorn", *guests, "--memory", "2MiB", "--name", "demo", "--linger", "60"),
        **limited(resource.RLIMIT_FSIZE, 5 << 19),
    )
    for name in ("a", "b"):
        demo.type(f"@{name} fill 7\n")
        demo.until(rf"^{name}: ok \d+$")
    Path("deep").mkdir()
    for directory in ("deep/monday", f"{Path.cwd()}/monday", "deep/monday/"):
        status, error = refused(hfsched, "snapshot", "take", directory)
        text = f"{directory.rstrip('/')}/pages: cannot be written: File too large "
        assert (status, error) == (1, f"{text}(ulimit -f is 2560 KiB)\n")
        assert not list(Path("deep").iterdir())
    assert demo.wait() == 0


def problem() -> str | None:
    """Return why no snapshot is incremental here."""
    pagemap = open_pagemap()
    try:
        return writeprotect.problem(pagemap)
    finally:
        os.close(pagemap)


@can_swap
def test_memory_that_is_out_is_in_the_snapshot(run: Start, hfsched: Start, tmp_path: Path) -> None:
    machine = swapped(run, tmp_path)
    swap(hfsched, "enable", "stress")
    swap(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    say(hfsched, "hibernate", "night")
    assert machine.wait() == 4
    for arguments in ((), ("--swap-dir", str(tmp_path))):
        again = run("--restore", "night", "--linger", "60", *arguments)
        checks(again)
        if arguments:
            swap(hfsched, "enable", "stress")
            checks(again, ok=2)
        assert again.wait() == 0


@can_swap
def test_a_live_one_is_written_while_the_guest_runs(
    run: Start, hfsched: Start, tmp_path: Path
) -> None:
    machine = swapped(run, tmp_path)
    take = ("snapshot", "take", "stress", "--live")
    text = say(hfsched, *take, "monday")
    assert text.startswith("layer    monday, full: ")
    assert json.loads(swap(hfsched, "status", "stress", "--json"))["status"]["state"] == "ready"
    swap(hfsched, "enable", "stress")
    swap(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    text = say(hfsched, *take, "tuesday", "--incremental")
    assert problem() is not None or text.startswith("layer    tuesday, on monday: ")
    until(hfsched, "stress", "active")
    checks(machine, ok=2)
    assert machine.wait() == 0
    for name in ("monday", "tuesday"):
        again = run("--restore", name, "--linger", "60")
        checks(again)
        assert again.wait() == 0


def test_a_live_one_of_a_machine_that_cannot_swap_is_copied(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    machine = started(run, unicorn)
    taken = hfsched("snapshot", "take", "demo", "monday", "--live")
    assert taken.wait() == 0
    assert "monday: the machine is suspended while it is copied: it was started" in taken.err
    assert machine.wait() == 0


def test_a_client_is_told_and_what_it_had_sent_is_answered_once(
    run: Start, hfsched: Start, unicorn: Target
) -> None:
    machine = started(run, unicorn)
    ports = str(machine.directory / "hfsched" / "demo" / "ports")
    with connect("stress", machine=ports, local=7) as client:
        client.send(b"status")
        assert client.recv(timeout=60).startswith(b"sent ")
        client.send(b"status")  # answered here, or there, or not taken
        say(hfsched, "hibernate", "night")
        assert machine.wait() == 4
        answers, reason = drained(client)
    assert reason == "machine demo hibernates"
    again = run("--restore", "night", "--linger", "60")
    quiet = Quiet()
    while not Path(ports).exists():
        assert quiet.left > 0, again.err
    with connect("stress", machine=ports, local=7) as client:
        client.send(b"check 7")
        while b"ok" not in (answer := client.recv(timeout=60)):
            assert answer.startswith(b"sent ")
            answers += 1
    undelivered = "host programs: 1 message undelivered to vm stress: the machine has hibernated"
    assert answers + (undelivered in machine.err) == 1
    assert again.wait() == 0


def test_an_answer_to_a_line_comes_after_the_restore(
    run: Start, hfsched: Start, target: Target
) -> None:
    demo = begin(run, *("--engine", target.engine, f"g={target.image('trusty')}", "--linger", "60"))
    demo.type("sleep 1500\necho begun\n")
    demo.until("begun")
    say(hfsched, "hibernate", "night")
    assert demo.wait() == 4
    assert "slept" not in demo.out
    again = run("--restore", "night", "--linger", "60")
    again.until(r"^g: slept \d+ ms$")
    assert again.wait() == 0


def test_a_machine_that_the_user_had_suspended_is_suspended_again(
    run: Start, hfsched: Start, target: Target
) -> None:
    demo = begin(run, *("--engine", target.engine, f"g={target.image('trusty')}", "--linger", "60"))
    demo.type("sleep 300\necho begun\n")
    demo.until("begun")
    say(hfsched, "suspend", "demo")
    say(hfsched, "hibernate", "demo", "night")
    assert demo.wait() == 4
    again = run("--restore", "night", "--linger", "60")
    again.until(r"machine demo is suspended, as when it was saved: `hfsched resume demo`$", "err")
    again.type("echo later\n")
    time.sleep(0.5)  # the sleep of the guest would be over, were it not
    assert again.out == ""
    say(hfsched, "snapshot", "take", "demo", "again")
    assert say(hfsched, "suspend", "demo") == "machine demo was suspended already\n"
    say(hfsched, "resume", "demo")
    again.until(r"^g: slept \d+ ms$")
    assert again.wait() == 0
    assert "later" in again.out
    alone = run("--clone", "again", "--no-sockets", "--linger", "60")
    alone.until(r"^g: slept \d+ ms$")
    assert alone.wait() == 0
    assert "it was saved; --no-sockets: it is resumed" in alone.err
    assert (
        "`hfsched swap`" not in alone.err
    )  # nobody has asked for that: faults are served all the same


def drained(client: Connection) -> tuple[int, str]:
    """Return how many messages come before the end, and its reason."""
    count = 0
    try:
        while client.recv(timeout=60):
            count += 1
    except ConnectionClosed as exc:
        return count, str(exc)
    raise AssertionError("an empty message")


def test_an_interrupted_client_leaves_nothing(run: Start, hfsched: Start, unicorn: Target) -> None:
    machine = started(run, unicorn)
    machine.interrupt(signal.SIGSTOP)  # it does not answer
    client = hfsched("snapshot", "take", "demo", "never", "--within", "60s")
    quiet = Quiet()
    while not list(Path().glob(".hfsched-snapshot-*")):
        assert quiet.left > 0
    client.interrupt()
    assert client.wait() == 130
    assert not [*Path().glob(".hfsched*"), *Path().glob("never")]
    machine.interrupt(signal.SIGCONT)
    checks(machine, ok=2)
    assert machine.wait() == 0


def test_what_cannot_be_restored(run: Start, hfsched: Start, unicorn: Target) -> None:
    machine = started(run, unicorn)
    say(hfsched, "snapshot", "take", "whole")
    status, error = refused(hfsched, "snapshot", "take", "whole")
    assert (status, error) == (1, "whole: there is one already: choose another name\n")
    assert machine.wait() == 0
    for words, status, text in (
        (("none",), 1, "none: no such directory\n"),
        (
            ("whole", "trusty.bin"),
            2,
            "--restore and a guest: choose one: the snapshot has its guests\n",
        ),
        (
            ("whole", "--vcpus", "2"),
            2,
            "--vcpus: the snapshot has it: leave it out with --restore\n",
        ),
        (("whole", "--to", "none"), 2, "--to none: no such VM: there is stress\n"),
    ):
        assert refused(hfsched, "run", "--restore", *words) == (status, text)
    assert refused(hfsched, "run", "trusty.bin", "--clock", "host") == (
        2,
        "--clock needs --restore DIR or --clone DIR\n",
    )
    assert refused(hfsched, "run", "trusty.bin", "--eager") == (
        2,
        "--eager needs --restore DIR or --clone DIR\n",
    )
    shutil.copytree("whole", "cut")
    pages = Path("cut", "pages")
    data = bytearray(pages.read_bytes())
    pages.write_bytes(data[:-1])
    assert refused(hfsched, "run", "--restore", "cut") == (
        1,
        f"cut/pages: {len(data) - 1} bytes instead of {len(data)}\n",
    )
    data[1000] ^= 1
    pages.write_bytes(data)
    status, error = refused(hfsched, "run", "--restore", "cut")
    assert status == 1
    assert "hfsched: error: cut/pages: frame 0: " in error


def test_a_damaged_frame_is_found_before_or_when_it_is_needed(
    run: Start, hfsched: Start, target: Target
) -> None:
    machine = started(run, target)
    say(hfsched, "snapshot", "take", "demo", "whole", "--codec", "raw")
    assert machine.wait() == 0
    pages = Path("whole", "pages")
    data = bytearray(pages.read_bytes())
    for at in range(32 * 4096, len(data), 4096):  # all frames but the first, which has the mailbox
        data[at] ^= 1
    pages.write_bytes(data)
    status, error = refused(hfsched, "run", "--restore", "whole", "--eager")
    assert status == 1
    assert error.endswith(
        "error: whole/pages: frame 1: its checksum is wrong: the file is damaged\n"
    )
    again = run("--restore", "whole", "--linger", "60")
    again.type(CHECK)
    assert again.wait() == 1
    assert re.search(
        r"page \d+ of its memory is damaged: whole/pages: frame \d+: its checksum is wrong: the file is damaged",
        again.err,
    )
    assert "ok" not in again.out


def test_python_guests_cannot(run: Start, hfsched: Start) -> None:
    machine = run("guests.py:echo", "--name", "demo", "--linger", "60")
    machine.until("up")
    status, error = refused(hfsched, "snapshot", "take", "never")
    assert status == 1
    assert error == "vm guests: a Python guest cannot be saved: give a guest image\n"
    assert machine.wait() == 0
