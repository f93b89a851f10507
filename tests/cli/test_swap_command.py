"""`hfsched swap`: a running machine's memory out and back, as a user does it."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
from processes import children_named, in_a_fault, stop

from hfsched.errors import UserError
from hfsched.swap.core import device
from hfsched.swap.core.guestpages import open_userfault
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from conftest import Process, Start


def problem() -> str | None:
    """Return why nothing can be swapped here; None: it can."""
    if device.problem() is not None:
        return device.problem()
    if "stress.bin" not in bundled_images():
        return "the bundled guests are not built: script/guests"
    try:
        os.close(open_userfault(user_mode_only=True))
    except UserError as exc:
        return str(exc)
    return None


can_swap = pytest.mark.skipif(problem() is not None, reason=str(problem()))


def machine(
    run: Start, folder: Path, *arguments: str, engine: str = "unicorn", memory: int = 4
) -> Process:
    """Start a machine whose guest has filled its memory, in MiB."""
    if engine == "unicorn":
        pytest.importorskip("unicorn")
    guests = ("--engine", engine, "--guest", "stress.bin", "--memory", f"{memory}MiB")
    made = run(*guests, "--swap-dir", str(folder), "--linger", "60", *arguments)
    made.until(r"^\[stress\] stress: up")
    made.type("fill 7\n")
    made.until(r"^stress: ok \d+$")
    return made


def say(hfsched: Start, *arguments: str) -> str:
    process = hfsched("swap", *arguments)
    assert process.wait() == 0, process.err
    return process.out


def until(hfsched: Start, where: str, state: str) -> dict[str, object]:
    while True:
        told = json.loads(say(hfsched, "status", where, "--json"))
        if told["status"]["state"] == state:
            assert isinstance(told, dict)
            return told


@can_swap
def test_memory_goes_out_and_comes_back(run: Start, hfsched: Start, tmp_path: Path) -> None:
    stress = machine(run, tmp_path)
    assert say(hfsched, "status", "stress").startswith("state    ready\n")
    assert say(hfsched, "enable", "stress").endswith(" pages are staged\n")
    assert say(hfsched, "status", "stress").endswith("\n  ss\n")
    assert say(hfsched, "out", "stress") == "out has begun\n"
    assert until(hfsched, "stress", "active")["pictures"] == {"stress": "FF"}
    stress.type("check 7\n")
    stress.until(r"^stress: ok \d+$[^$]*^stress: ok \d+$")
    assert say(hfsched, "disable", "stress", "--slow-file-cleanup") == "disable has begun\n"
    until(hfsched, "stress", "ready")
    stress.type("check 7\n")
    assert stress.wait() == 0
    assert stress.out.count("stress: ok ") == 3
    assert "bad" not in stress.out


@can_swap
def test_status_reports_freed_memory_and_draws_it(
    run: Start, hfsched: Start, tmp_path: Path
) -> None:
    stress = machine(run, tmp_path)
    say(hfsched, "enable", "stress")
    say(hfsched, "out", "stress")
    memory = until(hfsched, "stress", "active")["memory"]
    assert isinstance(memory, dict)
    assert memory["given_back"] > 3 << 20
    assert memory["guests"] < 1 << 20
    assert memory["resident_less"] > 2 << 20
    told = say(hfsched, "status", "stress")
    for pattern in (
        r"\nin RAM   \S+ \S+ of the guests, .*; [34](\.\d)? MiB given back\n",
        r"\npages    \d+ in memory, 0 staged, .* zero, \d+ empty; 1024 in all\n",
        r"\ntier     \S+ \S+ of 1 MiB\n",
        r"\nmembers  1\n",
        r"\nsize     \S+ MiB main, \S+ MiB monitor; [2-4](\.\d)? MiB less\n",
    ):
        assert re.search(pattern, told)
    file = tmp_path / "drawn.svg"
    file.write_text("before")
    link = tmp_path / "link.svg"
    link.symlink_to(file)
    assert say(hfsched, "status", "stress", "--svg", str(file)).endswith(f"\ndrawn    {file}\n")
    root = ET.fromstring(file.read_text())
    assert [text.text for text in root.iter() if "a cell" in (text.text or "")] == [
        "stress, 4 KiB a cell"
    ]
    fine = json.loads(say(hfsched, "status", "stress", "--svg", str(file), "--json"))
    assert (fine["cell"], len(fine["pictures"]["stress"])) == (4096, 1024)
    assert ET.fromstring(say(hfsched, "status", "stress", "--svg", "-")).tag == root.tag
    stdout = "or '-' for standard output"
    for bad, why in (
        (tmp_path / "no" / "x.svg", "No such file or directory"),
        (tmp_path, f"not a regular file: name one, {stdout}"),
        (Path("/dev/null"), f"not a regular file: name one, {stdout}"),
        (link, f"a link to {file}: name a file, {stdout}"),
        (file / "x", "Not a directory"),
    ):
        refused = hfsched("swap", "status", "stress", "--svg", str(bad))
        assert refused.wait() == 1
        assert refused.err == f"hfsched: error: --svg {bad}: {why}\n"
    assert {each.name for each in tmp_path.iterdir()} == {"drawn.svg", "link.svg", "guests.py"}
    assert stress.wait() == 0


HURRIED = """
import sys
from hfsched.cli import session
from hfsched.cli.entry import entry
session.END_WITHIN = 1_000_000_000
entry()
"""


@can_swap
def test_the_log_of_faults(run: Start, hfsched: Start, tmp_path: Path) -> None:
    stress = machine(run, tmp_path)
    began = time.time_ns()
    assert say(hfsched, "log", "stress") == ""
    say(hfsched, "enable", "stress")
    say(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    stress.type("check 7\n")
    stress.until(r"(?s)^stress: ok \d+$.*^stress: ok \d+$")
    lines = say(hfsched, "log", "stress").splitlines()
    form = r"\d\d:\d\d:\d\d\.\d{6} stress 0x7f[c-f][0-9a-f]{5} (file|tier|zero|staging|mapped) +[\d.]+ us"
    assert len(lines) > 100  # more than a fault brings at a time
    assert [line for line in lines if not re.fullmatch(form, line)] == []
    told = [json.loads(line) for line in say(hfsched, "log", "stress", "--json").splitlines()]
    assert [each["number"] for each in told] == sorted({each["number"] for each in told})
    assert len(told) >= len(lines)
    slack = 10**9  # the wall clock may be set meanwhile, a little
    assert all(began - slack < each["time"] < time.time_ns() + slack for each in told)


@can_swap
def test_discarded_memory_is_zero(run: Start, hfsched: Start, tmp_path: Path) -> None:
    stress = machine(run, tmp_path)
    say(hfsched, "enable", "stress")
    said = say(hfsched, "discard", "stress", "0x7fe00000+1MiB")
    assert said == "256 pages are zero, and given back\n"
    stress.type("check 7\n")
    stress.until(r"^stress: bad ")
    for words, why in (
        (("0x40000000+1GiB",), r"outside of its memory, \[0x7fc00000, 0x80000000\)"),
        (("0x40000000",), r"range '0x40000000': an address and a size, such as 0x7fe00000\+1MiB"),
        (("0x40000001+4096",), r"range '.*': the address must be a multiple of 4096"),
        ((), r"discard needs a range, such as 0x7fe00000\+1MiB"),
    ):
        refused = hfsched("swap", "discard", "stress", *words)
        assert refused.wait() in (1, 2)
        assert re.search(rf"^hfsched: error: .*{why}", refused.err), refused.err


@can_swap
def test_a_run_ends_though_a_sender_waits_for_memory(hfsched: Start, tmp_path: Path) -> None:
    """Who sends a message into memory that is out holds the VM's lock while the monitor is silent."""

    def run(*arguments: str) -> Process:
        return hfsched("run", *arguments, command=(sys.executable, "-c", HURRIED))

    stress = machine(run, tmp_path)
    say(hfsched, "enable", "stress")
    say(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    (monitor,) = children_named(stress.pid, "monitor")
    stop(monitor)
    try:
        stress.type("check 7\n")
        while not in_a_fault(stress.pid):
            os.sched_yield()
        stress.interrupt()
        stress.until("is terminated", "err")
    finally:  # it has the streams open too
        with suppress(ProcessLookupError):
            os.kill(monitor, signal.SIGCONT)
    assert stress.wait() == 130
    why = "no thread of it has ended for 1 s: guest memory that is out does not come back"
    assert f"error: the run does not end, and is terminated: {why}" in stress.err


@can_swap
def test_nothing_is_lost_while_there_are_no_descriptors_for_another_monitor(
    run: Start, hfsched: Start, tmp_path: Path
) -> None:
    stress = machine(run, tmp_path)
    stress.type("fill 7\n")
    stress.until(r"stress: ok \d+\n")
    filled = stress.out.splitlines()[-1]
    say(hfsched, "enable", "stress")
    say(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    (monitor,) = children_named(stress.pid, "monitor")
    limits = resource.prlimit(stress.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(stress.pid, resource.RLIMIT_NOFILE, (4, limits[1]))
    os.kill(monitor, signal.SIGKILL)
    stress.type("check 7\n")
    while not in_a_fault(stress.pid):
        os.sched_yield()
    assert children_named(stress.pid, "monitor") in ([], [monitor])  # none could be started
    resource.prlimit(stress.pid, resource.RLIMIT_NOFILE, limits)
    stress.end_input()
    assert stress.wait() == 0
    assert stress.out.splitlines()[-1] == filled


@can_swap
def test_a_socket_of_ones_choice(
    run: Start, hfsched: Start, tmp_path: Path, runtime_directory: Path
) -> None:
    path = runtime_directory / "s"
    stress = machine(run, tmp_path, "--socket", str(path), "--name", "m")
    ours, theirs = (say(hfsched, "status", each) for each in (str(path), "m/stress"))
    assert ours.partition("in RAM")[0] == theirs.partition("in RAM")[0]
    refused = hfsched("swap", "out", str(path))
    assert refused.wait() == 1
    assert refused.err.startswith(
        "hfsched: error: out: nothing is staged: run `hfsched swap enable` first"
    )
    assert stress.wait() == 0
    assert not path.exists()


def kvm_problem() -> str | None:
    """Say why the memory of guests under KVM cannot be swapped here."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "there is no /dev/kvm to use"
    try:
        os.close(open_userfault())
    except UserError as exc:
        return str(exc)
    return None


@can_swap
@pytest.mark.parametrize(
    ("engine", "memory"),
    [
        ("unicorn", 4),
        pytest.param(
            *("kvm", 1),
            marks=pytest.mark.skipif(kvm_problem() is not None, reason=str(kvm_problem())),
        ),
    ],
)
def test_a_machine_that_waits_is_swapped_out_by_itself(
    run: Start, hfsched: Start, tmp_path: Path, engine: str, memory: int
) -> None:
    stress = machine(run, tmp_path, "--swap-idle", "200ms", engine=engine, memory=memory)
    most = memory * 256 * 3 // 4  # pages

    def out(came: int) -> int:
        """Wait until most is in the file, and as much came from it; return how much that is."""
        while True:
            metrics = json.loads(say(hfsched, "status", "stress", "--json"))["status"]["metrics"]
            brought: int = metrics["events"]["from_file"]
            if metrics["file"] > most and brought >= came:
                return brought

    first = out(0)
    stress.type("check 7\n")
    stress.until(r"^stress: ok \d+$[^$]*^stress: ok \d+$")
    second = out(first + most)
    assert say(hfsched, "disable", "stress") == "disable has begun\n"
    until(hfsched, "stress", "ready")
    stress.type("check 7\n")
    out(second)
    assert stress.wait() == 0
    assert stress.out.count("stress: ok ") == 3


@can_swap
def test_a_machine_ends_in_order_while_it_waits_to_swap(
    run: Start, hfsched: Start, tmp_path: Path
) -> None:
    stress = machine(run, tmp_path, "--swap-idle", "24h")
    assert stress.wait() == 0
    assert stress.err.count("\n") == 3, stress.err  # the engine, and the summary


def test_a_time_to_wait_needs_a_directory(run: Start) -> None:
    for arguments, why in (
        (("30s",), "--swap-idle needs --swap-dir DIR: where guest memory goes"),
        (("30",), "--swap-idle needs --swap-dir DIR: where guest memory goes"),
    ):
        refused = run("--guest", "echo.bin", "--swap-idle", *arguments)
        assert refused.wait() == 2
        assert refused.err == f"hfsched: error: {why}\n"


@can_swap
def test_a_machine_without_a_directory_refuses(run: Start, hfsched: Start) -> None:
    pytest.importorskip("unicorn")
    stress = run("--engine", "unicorn", "--guest", "stress.bin", "--linger", "60")
    stress.until(r"^\[stress\] stress: up")
    stress.type("fill 7\n")
    stress.until(r"^stress: ok \d+$")
    refused = hfsched("swap", "enable", "stress")
    assert refused.wait() == 1
    assert refused.err.endswith("error: this machine has no swap: start it with --swap-dir DIR\n")
    stress.type("check 7\n")
    assert stress.wait() == 0
    assert stress.out.count("stress: ok ") == 2


@can_swap
def test_a_machine_without_sockets_says_that_no_command_reaches_it(
    run: Start, tmp_path: Path
) -> None:
    closed = run("--guest", "guests.py:echo", "--swap-dir", str(tmp_path), "--no-sockets")
    assert closed.wait() == 0
    assert (
        "hfsched: --no-sockets: no control socket, so `hfsched swap` cannot reach this machine\n"
    ) in closed.err


@can_swap
def test_a_directory_that_is_not_there(run: Start) -> None:
    pytest.importorskip("unicorn")
    nowhere = run("--engine", "unicorn", "--guest", "stress.bin", "--swap-dir", "nowhere")
    assert nowhere.wait() == 1
    assert nowhere.err.endswith("error: swap file in nowhere: no such directory\n")


def test_what_cannot_be_meant(hfsched: Start) -> None:
    for arguments, text in (
        (("out", "a", "--slow-file-cleanup"), "--slow-file-cleanup is for disable, not for out"),
        (("out", "a", "--svg", "x"), "--svg is for status, not for out"),
        (
            ("status", "a", "--svg", "-", "--json"),
            "--svg - and --json: both are for standard output: choose one",
        ),
        (("out", "a", "--within", "0"), "--within '0': a time such as 500ms or 8s, 1ms to 10m"),
        (("out", "/nowhere/s"), "/nowhere/s: there is no such socket"),
        (("out", "nobody"), "no machine has a VM 'nobody': "),
    ):
        process = hfsched("swap", *arguments)
        assert process.wait() == (2 if text.startswith("--") else 1)
        assert process.err.startswith(f"hfsched: error: {text}")
