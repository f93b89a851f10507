"""Many clients of one control socket: idle ones keep nobody out."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hfsched.control import commands
from hfsched.control.command_client import ask
from hfsched.control.command_server import CLIENTS_MAX, CommandServer
from hfsched.control.commands import EventsSubscribe, MachineReport, MachineStatus, Refused
from hfsched.control.events import Hub
from hfsched.control.runtime_dir import claim
from hfsched.errors import UserError
from hfsched.runtime.base import Task
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.suspension import Suspension
from hfsched.scheduler.userhold import UserHold
from hfsched.vmm.report import SwapFault, VmState
from hfsched.vmm.snapshots import Snapshots
from hfsched.vmm.swapping import MachineSwap
from hfsched.vmm.utilities import MachineServices

from .harness import WITHIN, runtime_directory

STATUS = commands.encode(MachineStatus())
QUICK = 50_000_000  # ns


class Machine:
    """Its status takes as long as `go` is not set."""

    name = "m"
    swap: MachineSwap | None = None
    user_hold: UserHold
    snapshots: Snapshots
    services: MachineServices

    def __init__(self) -> None:
        self.go = threading.Event()
        self.go.set()
        self.under_way = threading.Semaphore(0)

    def discard(self, name: str, ipa: int, size: int, deadline: int | None = None) -> None:
        raise UserError(f"{name} has no memory to discard: {ipa:#x}, {size:#x}, {deadline is None}")

    def faults(self, since: int = 0) -> list[SwapFault]:
        return [SwapFault(since, 0, "a", 0, "zero", 0)]

    def vm_names(self) -> list[str]:
        return ["a"]

    def vm_states(self) -> list[VmState]:
        self.under_way.release()
        assert self.go.wait(WITHIN)
        return []

    def suspended_by(self) -> tuple[str, ...]:
        return ()


class Served:
    def __init__(self, path: Path, listener: socket.socket, **options: Any) -> None:
        self.runtime = ThreadRuntime()
        self.machine = Machine()
        self.machine.user_hold = UserHold(self.runtime, Suspension(self.runtime))
        self.path = path
        adopted = self.runtime.adopt_listener("control", listener.detach())
        self.hub = Hub(self.runtime)
        self.server = CommandServer(self.runtime, self.machine, self.hub, adopted, **options)
        self.socks: list[socket.socket] = []

    def connect(self, *packets: bytes) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socks.append(sock)
        sock.settimeout(WITHIN)
        sock.connect(os.fspath(self.path))
        for packet in packets:
            sock.send(packet)
        return sock

    def enter(self) -> None:
        """Connect, be answered and stay; a client that was answered just now may not be idle yet."""
        deadline = time.monotonic() + WITHIN
        while not asked(self.connect()):
            assert time.monotonic() < deadline

    def ask(self) -> commands.Answer:
        return ask(self.path, MachineStatus(), time.monotonic() + WITHIN)


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    options = getattr(request, "param", {})
    with runtime_directory(), claim("m") as directory:
        made = Served(directory.path / "control", directory.listen("control"), **options)
        yield made
        made.machine.go.set()
        assert made.server.close() == []
        for sock in made.socks:
            sock.close()


def heard(sock: socket.socket) -> commands.Answer:
    return commands.decode_answer(sock.recv(1 << 16))


def asked(sock: socket.socket) -> bool:
    """Make a request; return whether it is answered."""
    try:
        sock.send(STATUS)
        return isinstance(heard(sock), MachineReport)
    except (BrokenPipeError, ConnectionResetError):  # refused before the request
        return False


NEEDED = Refused(code="too-many", text="this connection was idle, and its place was needed")


@pytest.mark.parametrize("first", ["silent", "after a request"])
@pytest.mark.parametrize("served", [{"patience": 600_000_000_000}], indirect=True)
def test_idle_clients_keep_nobody_out(served: Served, first: str) -> None:
    idle = [served.connect() for _ in range(CLIENTS_MAX)]
    if first == "after a request":
        assert all(map(asked, idle))
    for _ in range(4):
        served.enter()
    closed = [sock for sock in idle if select.select([sock], [], [], 0)[0]]
    assert len(closed) == 4
    for sock in closed:
        assert heard(sock) == NEEDED
        assert sock.recv(1) == b""
    assert all(asked(sock) for sock in idle if sock not in closed)


@pytest.mark.parametrize("served", [{"patience": QUICK}], indirect=True)
def test_without_a_first_request_a_client_is_closed_and_after_one_it_stays(served: Served) -> None:
    asking = served.connect()
    assert asked(asking)
    silent = served.connect()
    assert heard(silent) == Refused(code="silent", text="no request within 0.05 s")
    assert silent.recv(1) == b""
    assert asked(asking), "it was idle for longer than that"


def test_subscribers_are_never_closed_and_leave_a_place(served: Served) -> None:
    subscribe = commands.encode(EventsSubscribe())
    subscribers = [served.connect(subscribe) for _ in range(CLIENTS_MAX - 1)]
    assert [type(heard(sock)) for sock in subscribers] == [commands.Subscribed] * (CLIENTS_MAX - 1)
    last = served.connect(subscribe)
    assert heard(last) == Refused(
        code="too-many", text=f"the control socket has {CLIENTS_MAX - 1} subscribers already"
    )
    assert asked(last), "only the subscription is refused"
    served.enter()
    assert heard(last) == NEEDED
    served.hub.note_hold("swap", held=True)
    for sock in subscribers:
        assert json.loads(sock.recv(1 << 16)) == {"event": "suspended", "holder": "swap"}


@pytest.mark.parametrize("served", [{"clients_max": 2}], indirect=True)
def test_a_subscriber_that_leaves_frees_its_place(served: Served) -> None:
    subscribe = commands.encode(EventsSubscribe())
    deadline = time.monotonic() + WITHIN
    for _ in range(4):
        subscribed = False
        while not subscribed:  # the last one is gone a moment after its socket
            assert time.monotonic() < deadline
            with suppress(BrokenPipeError, ConnectionResetError), served.connect(subscribe) as sock:
                subscribed = isinstance(heard(sock), commands.Subscribed)
    served.enter()


@pytest.mark.parametrize("served", [{"clients_max": 2}], indirect=True)
def test_a_request_that_its_task_is_still_to_see_keeps_its_place(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many that come at once are all busy, though their threads may not have begun."""
    go, spawn = threading.Event(), served.runtime.spawn

    def late(name: str, fn: Callable[[], None]) -> Task:
        def body() -> None:
            assert go.wait(WITHIN)
            fn()

        return spawn(name, body)

    monkeypatch.setattr(served.runtime, "spawn", late)
    asking = [served.connect(STATUS) for _ in range(2)]
    with pytest.raises(UserError, match="the control socket has 2 clients already"):
        served.ask()
    go.set()
    assert all(isinstance(heard(sock), MachineReport) for sock in asking)


@pytest.mark.parametrize("served", [{"clients_max": 2}], indirect=True)
def test_a_request_under_way_keeps_its_place(served: Served) -> None:
    served.machine.go.clear()
    busy = [served.connect(STATUS) for _ in range(2)]
    for _ in busy:
        assert served.machine.under_way.acquire(timeout=WITHIN)
    with pytest.raises(UserError, match="the control socket has 2 clients already"):
        served.ask()
    served.machine.go.set()
    assert all(isinstance(heard(sock), MachineReport) for sock in busy)
    served.enter()
    assert sum(map(asked, busy)) == 1
