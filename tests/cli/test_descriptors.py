"""Descriptors: `hfsched run` has what its machine needs, and clients get what is left."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from processes import children_named
from progress import QUIET, Quiet
from test_environments import error, limited
from test_events_command import answers
from test_guest_commands import heard
from test_swap_command import can_swap, machine, say, until

from hfsched import limits
from hfsched.cli import preflight
from hfsched.cli.preflight import (
    MOST,
    Clients,
    check_limits,
    clients_within,
    spare_for_clients,
)
from hfsched.control import command_server, commands, port_server, wire
from hfsched.vmm.manifest import MachineSpec, VmSpec

if TYPE_CHECKING:
    from conftest import Process, Start

SUBSCRIBE = commands.encode(commands.EventsSubscribe())
CLIENT_FILES = Clients(preflight._PORT_FILES, 1, preflight._COMMAND_FILES)


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_the_most_that_are_counted_are_the_most_that_are_served() -> None:
    assert MOST == (
        port_server.CLIENTS_MAX,
        port_server.SILENT_MAX,
        command_server.CLIENTS_MAX,
    )


@given(st.integers(0, 2000), st.integers(1, 2))
def test_clients_get_no_more_than_is_spare(spare: int, sockets: int) -> None:
    clients = clients_within(spare, sockets)
    ports, silent, at_control = (a * b for a, b in zip(clients, CLIENT_FILES, strict=True))
    assert ports + silent + at_control * sockets <= spare
    assert all(0 <= ours <= most for ours, most in zip(clients, MOST, strict=True))
    assert spare < 24 or all(clients)
    assert spare < 900 or clients == MOST


def test_a_library_changes_no_limit_and_a_run_raises_the_soft_one_to_what_is_needed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    spec = MachineSpec(vm=[VmSpec(image="x", name=f"v{i}", vcpus=2) for i in range(100)])
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, before[1]))
        limits.files_problem(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (128, before[1])
        assert check_limits(spec, 1) == MOST
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert hard == before[1]
        needed = 100 * (preflight._FILES_VM + 2 * preflight._FILES_VCPU)
        needed += 100 * preflight._FILES_SERVICES
        assert needed + MOST.ports * preflight._PORT_FILES < soft < needed + 1100
        assert check_limits(spec, 1) == MOST
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == soft, "once is enough"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_descriptors_that_were_inherited_are_counted(run: Start) -> None:
    with ExitStack() as held:
        inherited = []
        for _ in range(40):
            file = held.enter_context(open(os.devnull, "rb"))  # noqa: PTH123
            inherited.append(file.fileno())
        refused = run("guests.py:echo", **limited(resource.RLIMIT_NOFILE, 60), pass_fds=inherited)
        assert error(refused).startswith("a hard limit of 60 open files (ulimit -Hn): at least 6")


def crowd(directory: Path, held: ExitStack, count: int) -> Counter[str]:
    """Connect clients to both sockets and stay; return how they were answered."""
    answered: Counter[str] = Counter()
    for _ in range(count):
        for name, hello in (
            ("ports", wire.Hello("a", 1, None).encode()),
            ("ports", b""),
            ("control", SUBSCRIBE),
        ):
            sock = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            sock.settimeout(QUIET)
            sock.connect(str(directory / name))
            if not hello:
                continue
            try:
                sock.send(hello)
                answer = json.loads(sock.recv(1 << 16))
            except (BrokenPipeError, ConnectionResetError):
                answer = json.loads(sock.recv(1 << 16))
            answered[f"{name} {answer.get('code', 'served')}"] += 1
    return answered


def ready(process: Process, directory: Path) -> None:
    process.until("up")
    quiet = Quiet()
    while not answers(directory / "control"):
        assert quiet.left > 0
        os.sched_yield()


@pytest.mark.parametrize("limit", [30, 64])
def test_clients_are_refused_before_the_reserve_is_used(
    run: Start, runtime_directory: Path, limit: int
) -> None:
    directory = runtime_directory / "hfsched" / "few"
    echo = run(
        *("--guest", "a=guests.py:echo", "--name", "few", "--linger", "60"),
        **limited(resource.RLIMIT_NOFILE, limit),
    )
    ready(echo, directory)
    with ExitStack() as held:
        answered = crowd(directory, held, 40)
        clients = clients_within(spare_for_clients(limit - 30, 1), 1)
        assert answered["ports served"] == clients.ports
        assert answered["ports too-many"] == 40 - clients.ports
        assert answered["control served"] == max(0, clients.commands - 1)
        assert answered["control too-many"] == 40 - answered["control served"]
        assert descriptors(echo.pid) <= limit - preflight._RESERVE
        echo.type("hello\n")
        assert echo.wait() == 0, echo.err
    assert "a: hello" in echo.out


def test_services_of_guests_take_nothing_of_the_reserve_beside_clients(
    run: Start, hfsched: Start, runtime_directory: Path
) -> None:
    guests = ("--engine", "script", "a=utility", "b=utility", "c=echo")
    demo = run(*guests, "--name", "few", **limited(resource.RLIMIT_NOFILE, 130))
    ready(demo, runtime_directory / "hfsched" / "few")
    for name in ("a", "b"):
        heard(demo, f"@{name} state", f"{name}: ready 6 ")
    before = descriptors(demo.pid)
    with ExitStack() as held:
        asked = hfsched("kvp", "get", "few/a", "os")
        assert (asked.wait(), asked.out) == (0, "utility\n")
        answered = crowd(runtime_directory / "hfsched" / "few", held, 40)
        assert answered["ports served"] > 0 < answered["ports too-many"]
        assert before < descriptors(demo.pid) <= 130 - preflight._RESERVE
    assert demo.wait() == 0


@can_swap
def test_a_monitor_is_replaced_though_clients_have_all_that_they_can_get(
    hfsched: Start, tmp_path: Path, runtime_directory: Path
) -> None:
    def run(*arguments: str) -> Process:
        return hfsched("run", *arguments, "--name", "few", **limited(resource.RLIMIT_NOFILE, 100))

    stress = machine(run, tmp_path)
    say(hfsched, "enable", "stress")
    say(hfsched, "out", "stress")
    until(hfsched, "stress", "active")
    with ExitStack() as held:
        crowd(runtime_directory / "hfsched" / "few", held, 60)
        (monitor,) = children_named(stress.pid, "monitor")
        os.kill(monitor, signal.SIGKILL)
        stress.type("check 7\n")
        stress.until("stress: ok ")
        assert stress.wait() == 0, stress.err
    assert "bad" not in stress.out
