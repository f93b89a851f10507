"""The control socket: its requests, their replies, and the clients that are refused."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from progress import QUIET

from hfsched import __version__
from hfsched.control import commands, wire
from hfsched.control.command_client import ask, find
from hfsched.control.command_server import CommandServer
from hfsched.control.commands import (
    CommandError,
    Done,
    EventsSubscribe,
    MachineReport,
    MachineResume,
    MachineStatus,
    MachineSuspend,
    Refused,
    Request,
    SwapDisable,
    SwapEnable,
    SwapOut,
    SwapReport,
    SwapStatus,
    SwapTrim,
)
from hfsched.control.events import Hub
from hfsched.control.runtime_dir import claim
from hfsched.errors import UserError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.suspension import Step, Suspension
from hfsched.scheduler.userhold import UserHold
from hfsched.swap.client.errors import SwapError
from hfsched.swap.protocol.messages import Metrics, State, Status
from hfsched.swap.report.footprint import Memory
from hfsched.vmm.report import SwapFault, VmState
from hfsched.vmm.snapshots import Snapshots

from .harness import runtime_directory

if TYPE_CHECKING:
    from hfsched.vmm.swapping import MachineSwap
    from hfsched.vmm.utilities import MachineServices

WITHIN = QUIET
OUT = b'{"version":1,"group":"swap","command":"out"'
MIB = 1 << 20


class FakeSwap:
    """Swap, and its client."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.client = self
        self.sizes = {"a": 1024, "b": 512}  # pages
        self.footprint = self
        self.events: dict[str, int] = {}
        self.error = ""

    def enable(self, deadline: int) -> int:
        assert deadline > time.monotonic_ns()
        self.log.append("enable")
        return 12

    def trim(self, deadline: int) -> None:
        self.log.append("trim")

    def swap_out(self, deadline: int) -> None:
        raise SwapError("out: nothing is staged")

    def disable(self, *, slow_file_cleanup: bool, deadline: int) -> None:
        self.log.append(f"disable {slow_file_cleanup}")

    def measure(self) -> Memory:
        return Memory(guests=3 * 4096)

    def status(self, deadline: int) -> Status:
        metrics = Metrics(resident=7, staged=1, events=self.events)
        return Status(state=State.PENDING, metrics=metrics, error=self.error)

    def pictures(self, names: Sequence[str], cell: int) -> dict[str, str]:
        return {name: "s" * -(-self.sizes[name] // cell) for name in names}


class FakeMachine:
    name = "m"
    snapshots: Snapshots
    services: MachineServices

    def __init__(self, runtime: ThreadRuntime) -> None:
        self.suspension = Suspension(runtime)
        self.user_hold = UserHold(runtime, self.suspension)
        self.fake = FakeSwap()
        self.swap = cast("MachineSwap | None", self.fake)

    def discard(self, name: str, ipa: int, size: int, deadline: int | None = None) -> None:
        assert deadline is not None
        self.fake.log.append(f"discard {name} {ipa:#x} {size:#x}")

    def faults(self, since: int = 0) -> list[SwapFault]:
        return [
            SwapFault(number, number * 10, "ab"[number % 2], number * 4096, "file", 7)
            for number in range(max(100, since), 1000)
        ]

    def vm_names(self) -> list[str]:
        return ["a", "b"]

    def vm_states(self) -> list[VmState]:
        return [VmState("a", ("runs",), None), VmState("b", (), "it has ended")]

    def suspended_by(self) -> tuple[str, ...]:
        return ("swap", *self.suspension.holders)


class Served:
    def __init__(self) -> None:
        runtime = ThreadRuntime()
        self.machine = FakeMachine(runtime)
        self.directory = claim("m")
        self.path = Path(tempfile.mkdtemp(dir=self.directory.path.parent)) / "s"
        self.hub = Hub(runtime)
        listener = runtime.adopt_listener("control", self.directory.listen_at(self.path).detach())
        self.server = CommandServer(runtime, self.machine, self.hub, listener)

    def ask(self, request: Request) -> commands.Answer:
        return ask(self.path, request, time.monotonic() + WITHIN)

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(WITHIN)
        sock.connect(os.fspath(self.path))
        return sock

    def raw(self, data: bytes) -> commands.Answer:
        with self.connect() as sock:
            with suppress(BrokenPipeError):  # refused before the request
                sock.send(data)
            try:
                answer = sock.recv(commands.ANSWER_MAX)
            except ConnectionResetError:  # reported once: the request was not read
                answer = sock.recv(commands.ANSWER_MAX)
            return commands.decode_answer(answer)


@pytest.fixture
def served() -> Iterator[Served]:
    with runtime_directory():
        made = Served()
        with made.directory:
            yield made
            assert made.server.close() == []
        assert not made.path.exists()


def test_each_swap_command_is_carried_out(served: Served) -> None:
    assert served.ask(SwapEnable(vm="a")) == Done(pages=12)
    assert served.ask(SwapTrim()) == Done()
    assert served.ask(SwapDisable(vm="b", slow_file_cleanup=True)) == Done()
    assert served.machine.fake.log == ["enable", "trim", "disable True"]
    status = Status(state=State.PENDING, metrics=Metrics(resident=7, staged=1))
    memory = Memory(guests=3 * 4096)
    pictures = {"a": "ss", "b": "s"}
    assert served.ask(SwapStatus(vm="b")) == SwapReport(
        status=status, memory=memory, empty=5, cell=2 * MIB, pictures={"b": "s"}
    )
    assert served.ask(SwapStatus()) == SwapReport(
        status=status, memory=memory, empty=5, cell=2 * MIB, pictures=pictures
    )
    fine = {"a": "s" * 1024, "b": "s" * 512}
    assert served.ask(SwapStatus(fine=True)) == SwapReport(
        status=status, memory=memory, empty=5, cell=4096, pictures=fine
    )


@pytest.mark.parametrize("fine", [False, True])
def test_an_answer_about_very_much_memory_has_room(served: Served, fine: bool) -> None:
    gib = MIB >> 2  # pages
    served.machine.fake.sizes = {"a": 64 * gib, "b": 4096}
    report = served.ask(SwapStatus(fine=fine))
    assert isinstance(report, SwapReport)
    assert (report.cell, len(report.pictures["a"])) == (2 * MIB, 32768)  # what one VM may have
    names = [f"{number:x<63}" for number in range(27)]
    served.machine.fake.sizes = dict.fromkeys(names, 64 * gib)
    served.machine.vm_names = lambda: names  # type: ignore[method-assign]
    served.machine.fake.events = {f"{number:x<64}": 10**18 for number in range(64)}
    served.machine.fake.error = "\u2028" * 500  # what takes most bytes
    report = served.ask(SwapStatus(fine=fine))
    assert isinstance(report, SwapReport)
    assert report.cell == 64 * MIB
    assert [len(picture) for picture in report.pictures.values()] == [1024] * 27


def test_the_status_of_a_machine(served: Served) -> None:
    report = served.ask(MachineStatus())
    assert report == MachineReport(
        name="m",
        versions={"hfsched": __version__, "protocol": "1"},
        groups=("machine", "swap", "snapshot", "guest", "events"),
        suspended_by=("swap",),
        vms=(VmState("a", ("runs",), None), VmState("b", (), "it has ended")),
    )
    served.machine.swap = None
    report = served.ask(MachineStatus())
    assert isinstance(report, MachineReport)
    assert report.groups == ("machine", "snapshot", "guest", "events")


def test_a_machine_is_suspended_and_resumed_by_whoever_asks(served: Served) -> None:
    """Each request is on a connection of its own."""

    def said(changed: bool, *holders: str) -> commands.Suspension:
        return commands.Suspension(name="m", changed=changed, suspended_by=("swap", *holders))

    assert served.ask(MachineResume()) == said(False)
    for changed in (True, False):
        assert served.ask(MachineSuspend()) == said(changed, "user")
    report = served.ask(MachineStatus())
    assert isinstance(report, MachineReport)
    assert report.suspended_by == ("swap", "user")
    for changed in (True, False):
        assert served.ask(MachineResume()) == said(changed)


def test_a_suspension_that_is_late_is_refused_and_another_may_follow(served: Served) -> None:
    late = Step("disk", lambda _deadline: False, lambda: None)
    served.machine.suspension.add(late)
    refused = Refused(code="failed", text="suspend: disk did not stop in time")
    for _ in range(2):
        assert served.raw(commands.encode(MachineSuspend(within_ms=1))) == refused
    served.machine.suspension._steps.clear()
    answer = served.ask(MachineSuspend())
    assert isinstance(answer, commands.Suspension)
    assert answer.changed


def test_requests_that_suspend_at_once_wait_for_each_other(served: Served) -> None:
    under_way, go = threading.Event(), threading.Event()

    def pause(_deadline: int | None) -> bool:
        under_way.set()
        return go.wait(WITHIN)

    served.machine.suspension.add(Step("disk", pause, lambda: None))
    with served.connect() as first, served.connect() as second:
        first.send(commands.encode(MachineSuspend()))
        assert under_way.wait(WITHIN)
        for kind, what in ((MachineSuspend, "suspend"), (MachineResume, "resume")):
            text = f"{what}: another request did not end in time"
            assert served.raw(commands.encode(kind(within_ms=1))) == Refused(text=text)
        second.send(commands.encode(MachineResume()))
        go.set()
        answers = [
            commands.decode_answer(each.recv(commands.ANSWER_MAX)) for each in (first, second)
        ]
    assert [isinstance(each, commands.Suspension) and each.changed for each in answers] == [
        True,
        True,
    ]
    assert served.machine.suspension.holders == ()


def test_the_log_of_faults_comes_in_parts(served: Served) -> None:
    got: list[int] = []
    since = 0
    while True:
        answer = served.ask(commands.SwapLog(vm="b", since=since))
        assert isinstance(answer, commands.SwapFaults)
        if not answer.faults:
            break
        assert {fault.vm for fault in answer.faults} == {"b"}
        got += [fault.number for fault in answer.faults]
        since = answer.next
    assert got == list(range(101, 1000, 2))


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (
            {"version": 2, "group": "later", "command": "x", "more": 1},
            "version",
            "unknown version 2: this machine speaks version 1",
        ),
        (
            {"version": 1, "group": "disk", "command": "x"},
            "group",
            "unknown group 'disk': there are machine, swap, snapshot, guest, events",
        ),
        (
            {"version": 1, "group": "swap", "command": "in", "vm": "a"},
            "command",
            "unknown command 'in' of group swap: there are enable, trim, out, disable, discard, log, status",
        ),
        (
            {"do": "swap-out"},
            "bad-request",
            "not a valid request: Object missing required field `version`",
        ),
        (
            {"version": 1, "group": "swap", "command": "out", "vm": "c"},
            "no-vm",
            "no VM 'c' in machine m: a, b",
        ),
        (
            {"version": 1, "group": "swap", "command": "out"},
            "failed",
            "out: nothing is staged",
        ),
    ],
)
def test_a_refusal_names_what_there_is_and_the_connection_stays(
    served: Served, request_: dict[str, object], code: str, text: str
) -> None:
    with served.connect() as sock:
        for _ in range(2):
            sock.send(json.dumps(request_).encode())
            answer = commands.decode_answer(sock.recv(commands.ANSWER_MAX))
            assert answer == Refused(code=code, text=text)
        sock.send(commands.encode(SwapTrim()))
        assert commands.decode_answer(sock.recv(commands.ANSWER_MAX)) == Done()


def test_a_machine_without_swap_refuses_swap_alone(served: Served) -> None:
    served.machine.swap = None
    text = "this machine has no swap: start it with --swap-dir DIR"
    for request in (SwapStatus(), SwapEnable(vm="c")):
        assert served.raw(commands.encode(request)) == Refused(code="no-group", text=text)
    assert isinstance(served.ask(MachineStatus()), MachineReport)
    assert served.ask(EventsSubscribe()) == commands.Subscribed()


def test_a_refusal_gives_the_reason(served: Served) -> None:
    with pytest.raises(UserError, match=r"^out: nothing is staged$"):
        served.ask(SwapOut())
    with pytest.raises(UserError, match=r"^no VM 'c' in machine m: a, b$"):
        served.ask(SwapEnable(vm="c"))


def test_a_lack_of_resources_is_reported_and_the_next_request_is_served(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(names: Sequence[str], cell: int) -> dict[str, str]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr(served.machine.fake, "pictures", full)
        with pytest.raises(UserError, match=r"^m: Too many open files$"):
            served.ask(SwapStatus())
    assert isinstance(served.ask(SwapStatus()), SwapReport)


def test_a_client_that_is_connected_when_the_machine_ends_gets_a_refusal(served: Served) -> None:
    with served.connect() as sock:
        sock.send(commands.encode(SwapTrim()))
        assert commands.decode_answer(sock.recv(commands.ANSWER_MAX)) == Done()
        assert served.server.close() == []
        answer = commands.decode_answer(sock.recv(commands.ANSWER_MAX))
        assert answer == Refused(code="ending", text="machine m is about to end")
        assert sock.recv(commands.ANSWER_MAX) == b""


def test_a_path_that_leads_to_no_machine(served: Served) -> None:
    within = time.monotonic() + WITHIN
    folder = os.fspath(served.path.parent)
    with pytest.raises(UserError, match=r"^/.*: not a socket: name a machine, or "):
        find(folder, within)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        dead = served.path.with_name("dead")
        sock.bind(os.fspath(dead))
        with pytest.raises(
            UserError, match=r"dead: no process listens there: the machine has ended$"
        ):
            ask(dead, SwapStatus(), within)
        dead.unlink()


@pytest.mark.parametrize(
    "data",
    [b"x", b"{}", OUT + b',"more":1}', OUT + b',"within_ms":0}', b" " * 2000],
)
def test_what_is_no_request_is_refused(served: Served, data: bytes) -> None:
    answer = served.raw(data)
    assert isinstance(answer, Refused)
    assert answer.code == "bad-request"
    assert answer.text.startswith(("not a valid request: ", "a request of more than "))
    assert served.machine.fake.log == []


def test_another_user_is_refused(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600

    def other(_: int) -> None:
        raise wire.RefusedError("peer", "the peer is user 7, not user 0 or root")

    monkeypatch.setattr(wire, "check_peer", other)
    answer = served.raw(commands.encode(SwapEnable()))
    assert answer == Refused(code="peer", text="the peer is user 7, not user 0 or root")
    assert served.machine.fake.log == []


def test_a_socket_with_a_listener_is_left_alone(served: Served) -> None:
    with pytest.raises(UserError, match="a machine listens there: choose another path"):
        served.directory.listen_at(served.path)
    assert served.ask(SwapTrim()) == Done()


def test_a_dead_socket_is_replaced(served: Served) -> None:
    path = served.path.with_name("dead")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(os.fspath(path))
    served.directory.listen_at(path).close()
    path.unlink()


def refusal(decode: Callable[[bytes], object], data: bytes) -> str:
    """Return the error of a message, empty if it is valid."""
    try:
        decode(data)
    except CommandError as exc:
        return str(exc)
    return ""


@given(st.binary(max_size=1100))
def test_any_bytes_are_a_message_or_an_error_of_one_line(data: bytes) -> None:
    assert "\n" not in refusal(commands.decode_request, data)
    assert "\n" not in refusal(commands.decode_answer, data)


anything: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
fields = st.dictionaries(
    st.sampled_from(
        ["version", "vm", "within_ms", "slow_file_cleanup", "pages", "text", "status", "x"]
    ),
    anything,
)
names = ["enable", "trim", "out", "disable", "status", "subscribe", "done", "swap", "machine"]


@given(
    st.sampled_from(["command", "is"]),
    st.sampled_from([*names, "refused", "", None]),
    st.sampled_from(["machine", "swap", "events", "", None]),
    fields,
)
def test_fields_that_are_wrong_are_one_clear_error_or_typed(
    tag: str, name: object, group: object, given_: dict[str, object]
) -> None:
    request = {"version": 1, "group": group} if tag == "command" else {}
    data = json.dumps({**request, tag: name, **given_}).encode()
    for decode in (commands.decode_request, commands.decode_answer):
        text = refusal(decode, data)
        assert text.isprintable()
        if not text:
            made = decode(data)
            assert decode(commands.encode(made)) == made


@pytest.mark.parametrize(
    "data",
    [
        b"[" * commands.REQUEST_MAX,
        b'{"command":' * 90,
        OUT + b',"within_ms":1e999}',
        OUT + b',"within_ms":' + b"9" * 900 + b"}",
        OUT + b',"vm":"\\ud800"}',
        b"\xff\xfe" + OUT + b"}",
        OUT + b"}" + OUT + b"}",
        OUT + b',"vm":"' + b"a" * 65 + b'"}',
        b'{"version":1.5,"group":"swap","command":"out"}',
        b'{"version":true,"group":"swap","command":"out"}',
    ],
)
def test_what_is_nearly_a_request_is_none(data: bytes) -> None:
    text = refusal(commands.decode_request, data)
    assert text.startswith("not a valid request: ")
    assert text.isprintable()


@given(st.none() | st.text(min_size=1, max_size=64), st.integers(1, 600_000), st.booleans())
def test_requests_come_out_as_they_went_in(vm: str | None, within: int, slow: bool) -> None:
    request = SwapDisable(vm=vm, within_ms=within, slow_file_cleanup=slow)
    assert commands.decode_request(commands.encode(request)) == request
