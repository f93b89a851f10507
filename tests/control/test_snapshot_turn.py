"""A snapshot over the control socket: descriptors, progress, one at a time, cancelled in every way."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from progress import QUIET
from snapshot.layers import page, subject, write

from hfsched.control import commands, snapshot_client
from hfsched.control.command_client import Conversation, ask
from hfsched.control.command_server import CommandMachine, CommandServer
from hfsched.control.commands import Answer, Done, MachineStatus, Refused, Request
from hfsched.control.events import Hub
from hfsched.control.runtime_dir import claim
from hfsched.control.snapshot_client import Wanted, take
from hfsched.control.snapshot_messages import (
    Layer,
    SnapshotCancel,
    SnapshotConfirm,
    SnapshotProgress,
    SnapshotReport,
    SnapshotStatus,
    SnapshotTake,
    SnapshotWritten,
)
from hfsched.errors import SnapshotError, UserError
from hfsched.memory.dirty import DirtyPages
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.suspension import Step, Suspension
from hfsched.scheduler.userhold import UserHold
from hfsched.services.host import ServiceError
from hfsched.services.transaction import Answer as ServiceAnswer
from hfsched.services.transaction import Status as ServiceStatus
from hfsched.snapshot.directory import make_layer, open_layer
from hfsched.snapshot.index import Parent
from hfsched.vmm.attempt import Base, Watch, Wish
from hfsched.vmm.report import VmState
from hfsched.vmm.snapshots import Snapshots

from .harness import WITHIN, runtime_directory

if TYPE_CHECKING:
    from hfsched.runtime.base import Waitable
    from hfsched.vmm.machine import Machine

HASH = bytes(range(32))
BASE = Layer(name="s", hash=HASH.hex())
INDEX, PAGES = write(subject(1), {(0, 0): page(1)})


class Memory:
    size = 1 << 20


class Dirty:
    """A tracker, by which everything is known or nothing is."""

    def __init__(self) -> None:
        self.why_not: str | None = None
        self.why_all: str | None = None
        self.started = False
        self.found = DirtyPages({"a": [(1, 2)]})
        self.given_back: list[DirtyPages] = []

    def start(self, *, first: bool = False) -> str | None:
        self.started = self.why_not is None
        return self.why_not

    def collect(self) -> DirtyPages:
        return self.found if self.why_all is None else DirtyPages({"a": [(0, 256)]}, self.why_all)

    def give_back(self, dirty: DirtyPages) -> None:
        self.given_back.append(dirty)


class Services:
    """Guests that can be frozen, by name: whether they do it."""

    def __init__(self) -> None:
        self.guests: dict[str, bool] = {}
        self.deadlines: list[int] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.log: list[str] = []
        self.stopped: list[bool] = []

    def begin_freeze(
        self, vm: str, timeout_ms: int, deadline: int | None = None
    ) -> Callable[[Sequence[Waitable]], bytes] | None:
        if vm not in self.guests:
            return None
        assert deadline is not None
        self.deadlines.append(deadline)
        self.log.append(f"freeze {vm} {timeout_ms}")

        def finish(stop: Sequence[Waitable]) -> bytes:
            self.meanwhile()
            self.stopped.append(bool(select.select([stop[0]], [], [], 0)[0]))
            if not self.guests[vm]:
                raise ServiceError(vm, "freeze", ServiceAnswer(ServiceStatus.TIMED_OUT))
            return b""

        return finish

    def begin_thaw(
        self, vm: str, deadline: int | None = None
    ) -> Callable[[Sequence[Waitable]], bytes]:
        assert deadline is not None
        self.log.append(f"thaw {vm}")

        def finish(_stop: Sequence[Waitable]) -> bytes:
            if vm == "b":
                raise ServiceError(vm, "thaw", ServiceAnswer(ServiceStatus.TIMED_OUT))
            return b""

        return finish


class Ports:
    held = False

    def hold(self) -> None:
        self.held = True

    def release(self) -> None:
        self.held = False


class FakeMachine:
    """Its snapshot is `PAGES` and `INDEX`, written when `go` is set."""

    name = "m"
    swap = None

    def __init__(self, runtime: ThreadRuntime) -> None:
        self.suspension = Suspension(runtime)
        self.suspension.add(Step("guests", self._pause, self._resume))
        self.user_hold = UserHold(runtime, self.suspension)
        self.rams = {"a": Memory()}
        self.ended = threading.Event()
        self.snapshots = Snapshots(runtime, cast("Machine", self), self.ended.set, write=Writing)
        self.go, self.began = threading.Event(), threading.Event()
        self.go.set()
        self.paused = self.late = False
        self.error: Exception | None = None
        self.layers: list[DirtyPages | None] = []
        self.expected: list[int | None] = []
        self.prepared = self.closed = 0
        self.wishes: list[Wish] = []
        self.dirty = Dirty()
        self.services = Services()
        self.ports = Ports()

    def _pause(self, _deadline: int | None) -> bool:
        self.paused = not self.late
        return self.paused

    def _resume(self) -> None:
        self.paused = False

    def discard(self, name: str, ipa: int, size: int, deadline: int | None = None) -> None: ...
    def faults(self, since: int = 0) -> list[object]:
        return []

    def vm_names(self) -> list[str]:
        return ["a", "b", "c", "d"]

    def vm_states(self) -> list[VmState]:
        return []

    def suspended_by(self) -> tuple[str, ...]:
        return self.suspension.holders


class Writing:
    def __init__(
        self,
        machine: Machine,
        files: tuple[int, int],
        wish: Wish,
        expected: int | None,
        watch: Watch,
    ) -> None:
        self._machine = cast("FakeMachine", machine)
        self._files, self._wish = files, wish
        self._watch = watch
        self._machine.expected.append(expected)
        self._machine.wishes.append(wish)

    def prepare(self, deadline: int | None) -> tuple[str, ...]:
        assert deadline is not None
        self._machine.prepared += 1
        return ()

    def copy(self, deadline: int | None, base: Base | None, dirty: DirtyPages | None) -> None:
        assert self._machine.paused
        assert self._machine.ports.held is self._wish.held
        assert deadline is not None
        assert base == self._wish.parent
        self._machine.layers.append(dirty)

    def finish(self) -> tuple[bytes, tuple[str, ...]]:
        machine, wish = self._machine, self._wish
        assert machine.paused is (wish.held or "user" in machine.suspended_by())
        machine.began.set()
        while not machine.go.wait(0.002):
            if self._watch.cancelled():
                raise SnapshotError(f"{wish.name}: cancelled")
        if machine.error is not None:
            raise machine.error
        for fd, data in zip(self._files, (PAGES, INDEX), strict=True):
            os.write(fd, data)
        self._watch.progress(Memory.size)
        return HASH, (f"codec {wish.codec}",)

    def close(self) -> None:
        self._machine.closed += 1


class Served:
    def __init__(self) -> None:
        self.failures: list[str] = []
        self.runtime = ThreadRuntime(lambda task, exc: self.failures.append(f"{task}: {exc!r}"))
        self.machine = FakeMachine(self.runtime)
        self.directory = claim("m")
        self.path = self.directory.path / "control"
        listener = self.runtime.adopt_listener("control", self.directory.listen("control").detach())
        machine = cast("CommandMachine", self.machine)
        self.server = CommandServer(self.runtime, machine, Hub(self.runtime), listener)

    def close(self) -> None:
        self.machine.go.set()
        assert self.server.close() == []
        self.directory.close()
        self.runtime.close()
        assert self.failures == []

    def ask(self, request: Request) -> Answer:
        return ask(self.path, request, time.monotonic() + WITHIN)

    def status(self) -> SnapshotReport:
        answer = self.ask(SnapshotStatus())
        assert isinstance(answer, SnapshotReport)
        return answer

    def until(self, holds: Callable[[], bool]) -> None:
        ends = time.monotonic() + QUIET
        while not holds():
            assert time.monotonic() < ends


@pytest.fixture
def served() -> Iterator[Served]:
    with runtime_directory():
        made = Served()
        yield made
        made.close()


class Client:
    """A client of its own making."""

    def __init__(self, served: Served) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(WITHIN)
        self.sock.connect(str(served.path))

    def send(self, request: Request, *files: int) -> None:
        socket.send_fds(self.sock, [commands.encode(request)], files)

    def answer(self) -> Answer:
        return commands.decode_answer(self.sock.recv(commands.ANSWER_MAX))

    def ask(self, request: Request, *files: int) -> Answer:
        self.send(request, *files)
        return self.answer()


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    made = Client(served)
    yield made
    made.sock.close()


def empty() -> tuple[int, int]:
    return os.memfd_create("pages"), os.memfd_create("index")


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def request(**others: object) -> SnapshotTake:
    return SnapshotTake(name="s", created=1, **others)  # type: ignore[arg-type]


def refusal(text: str) -> Refused:
    return Refused(text=text)


def test_the_machine_writes_the_files_and_runs_on(served: Served, client: Client) -> None:
    files = empty()
    first = client.ask(request(progress=True, codec="zstd"), *files)
    assert first == SnapshotProgress(done=0, total=Memory.size)
    assert client.answer() == SnapshotProgress(done=Memory.size, total=Memory.size)
    written = client.answer()
    assert isinstance(written, SnapshotWritten)
    assert (written.machine, written.hash, written.on) == ("m", HASH.hex(), None)
    assert written.notices == ("codec zstd",)
    assert [os.pread(fd, 1 << 16, 0) for fd in files] == [PAGES, INDEX]
    assert not served.machine.paused
    assert served.status() == SnapshotReport(name="s", written=True, done=1 << 20, total=1 << 20)
    assert client.ask(SnapshotConfirm()) == Done()
    assert served.status() == SnapshotReport(name=None, base=BASE)
    assert not served.machine.snapshots.hibernated


@pytest.mark.parametrize("end", [False, True])
def test_one_that_is_held_ends_the_machine_or_does_not(
    served: Served, client: Client, *, end: bool
) -> None:
    assert isinstance(client.ask(request(hold=True), *empty()), SnapshotWritten)
    assert served.machine.paused
    assert client.ask(SnapshotConfirm(end=end)) == Done()
    assert served.machine.snapshots.hibernated is end
    assert served.machine.ended.is_set() is end
    client.sock.close()
    served.until(lambda: served.machine.paused is end)
    assert served.machine.user_hold.stands() is end
    assert served.machine.ports.held is end


def test_the_end_is_only_of_one_that_was_held(served: Served, client: Client) -> None:
    assert isinstance(client.ask(request(), *empty()), SnapshotWritten)
    assert client.ask(SnapshotConfirm(end=True)) == Done()
    assert not served.machine.snapshots.hibernated


@pytest.mark.parametrize("held", [False, True])
def test_a_client_that_leaves_has_cancelled_it(
    served: Served, client: Client, *, held: bool
) -> None:
    assert isinstance(client.ask(request(hold=held), *empty()), SnapshotWritten)
    client.sock.close()
    served.until(lambda: served.status() == SnapshotReport(name=None))
    served.until(lambda: not served.machine.paused)
    assert not served.machine.user_hold.stands()
    assert not served.machine.ports.held


def test_a_client_that_leaves_meanwhile_has_cancelled_it(served: Served, client: Client) -> None:
    served.machine.go.clear()
    client.send(request(), *empty())
    assert served.machine.began.wait(WITHIN)
    assert served.status() == SnapshotReport(name="s", total=1 << 20)
    assert isinstance(served.ask(MachineStatus()), commands.MachineReport)  # others are answered
    client.sock.close()
    served.until(lambda: served.status() == SnapshotReport(name=None))
    served.until(lambda: not served.machine.paused)


def test_cancel(served: Served, client: Client) -> None:
    with pytest.raises(UserError, match=r"^machine m: no snapshot is under way$"):
        served.ask(SnapshotCancel())
    served.machine.go.clear()
    client.send(request(), *empty())
    assert served.machine.began.wait(WITHIN)
    assert served.ask(SnapshotCancel()) == SnapshotReport(name="s", total=1 << 20)
    assert client.answer() == refusal("s: cancelled")
    assert not served.machine.paused
    served.machine.go.set()
    assert isinstance(client.ask(request(), *empty()), SnapshotWritten)  # and once more


@pytest.mark.parametrize("held", [False, True])
def test_cancel_of_one_that_is_written(served: Served, client: Client, *, held: bool) -> None:
    assert isinstance(client.ask(request(hold=held), *empty()), SnapshotWritten)
    cancelled = served.ask(SnapshotCancel())
    assert cancelled == SnapshotReport(name="s", written=True, done=1 << 20, total=1 << 20)
    assert not served.machine.paused
    assert client.ask(SnapshotConfirm(end=True)) == refusal("s: cancelled")
    assert not served.machine.snapshots.hibernated


def test_the_end_of_the_machine_cancels_it(served: Served, client: Client) -> None:
    served.machine.go.clear()
    client.send(request(), *empty())
    assert served.machine.began.wait(WITHIN)
    assert served.server.close() == []
    assert client.answer() == refusal("s: cancelled")
    assert not served.machine.paused


def test_guests_that_do_not_stop_in_time_are_named_with_the_snapshot(
    served: Served, client: Client
) -> None:
    served.machine.late = True
    assert client.ask(request(within_ms=20), *empty()) == refusal(
        "s: suspend: guests did not stop in time, which was 20 ms: allow more (--within)"
    )
    served.machine.late = False
    assert isinstance(client.ask(request(), *empty()), SnapshotWritten)


def test_another_one_waits_for_its_turn(served: Served, client: Client) -> None:
    assert isinstance(client.ask(request(), *empty()), SnapshotWritten)
    other = Client(served)
    assert other.ask(request(within_ms=20), *empty()) == refusal(
        "s: the snapshot s is not finished yet: wait for it, or `hfsched snapshot cancel`"
    )
    other.send(request(), *empty())
    assert client.ask(request(), *empty()) == refusal("s: confirm the one before")
    assert client.ask(SnapshotConfirm()) == Done()
    assert isinstance(other.answer(), SnapshotWritten)
    other.sock.close()


def test_one_that_waits_for_its_turn_hears_that_the_machine_has_hibernated(
    served: Served, client: Client
) -> None:
    assert isinstance(client.ask(request(hold=True), *empty()), SnapshotWritten)
    other = Client(served)
    other.send(request(), *empty())
    served.until(lambda: not served.machine.snapshots._ended.is_set())
    assert client.ask(SnapshotConfirm(end=True)) == Done()
    assert other.answer() == refusal("s: the machine has hibernated")
    other.sock.close()


def test_what_is_no_empty_file_is_refused_and_nothing_is_kept(
    served: Served, client: Client, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    full = os.open(tmp_path / "file", os.O_RDWR)
    folder = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "new").touch()
    reading = os.open(tmp_path / "new", os.O_RDONLY)
    pages, index = empty()
    assert client.ask(SnapshotStatus()) == SnapshotReport(name=None)  # it has been accepted
    before = descriptors()
    for files, why in (
        ((), "s: 2 descriptors must come along: pages, index"),
        ((pages,), "s: 2 descriptors must come along: pages, index"),
        ((full, index), "s/pages: it has 8 bytes already: give an empty file"),
        ((pages, folder), "s/index: not a regular file"),
        ((pages, reading), "s/index: not open for writing"),
    ):
        assert client.ask(request(), *files) == refusal(why)
    assert client.ask(SnapshotConfirm(), pages, index) == refusal(
        "confirm: this connection has no snapshot that is written"
    )
    assert isinstance(client.ask(MachineStatus(), pages, index), commands.MachineReport)
    assert descriptors() == before
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert served.status() == SnapshotReport(name=None)


# What has changed since.


def taken(client: Client, **others: object) -> SnapshotWritten:
    written = client.ask(request(**others), *empty())
    assert isinstance(written, SnapshotWritten)
    return written


def test_a_layer_has_what_has_changed_since_the_one_before(served: Served, client: Client) -> None:
    machine = served.machine
    first = taken(client, incremental=True)
    assert first.on is None
    why_all = "there is no snapshot of this run since which changes are known"
    assert first.notices == (f"s is a full snapshot: {why_all}", "codec lz4")
    assert client.ask(SnapshotConfirm()) == Done()
    second = taken(client, incremental=True, parent=BASE)
    assert (second.on, second.notices) == (BASE, ("codec lz4",))
    assert machine.layers == [None, machine.dirty.found]
    assert machine.expected == [None, 0]
    assert client.ask(SnapshotConfirm()) == Done()
    assert machine.dirty.given_back == []
    machine.dirty.why_all = "a process has died"
    third = taken(client, incremental=True, parent=BASE)
    assert machine.expected[-1] == 2  # pages, as the last time
    assert third.on is None
    assert third.notices[0] == "s is a full snapshot: a process has died"


def test_what_is_in_no_layer_in_the_end_is_in_the_next(served: Served, client: Client) -> None:
    machine = served.machine
    taken(client)
    assert client.ask(SnapshotConfirm()) == Done()
    machine.error = UserError("a disk is full")
    assert client.ask(request(parent=BASE), *empty()) == refusal("a disk is full")
    assert machine.dirty.given_back == [machine.dirty.found]
    assert served.status().base == BASE
    machine.error = None
    taken(client, parent=BASE, hold=True)
    client.sock.close()
    served.until(lambda: served.status().name is None)
    assert machine.dirty.given_back == [machine.dirty.found] * 2
    assert served.status().base == BASE


def test_after_a_full_one_that_failed_the_next_is_full(served: Served, client: Client) -> None:
    taken(client)
    assert client.ask(SnapshotConfirm()) == Done()
    served.machine.error = UserError("a disk is full")
    assert client.ask(request(), *empty()) == refusal("a disk is full")
    assert served.status().base is None
    assert served.machine.dirty.given_back == []
    served.machine.error = None
    written = taken(client, incremental=True, parent=BASE)
    assert written.on is None
    why_all = "s is not the newest one of this run any more"
    assert written.notices[0] == f"s is a full snapshot: {why_all}"


def test_where_changes_are_not_known_the_reason_is_told(served: Served, client: Client) -> None:
    served.machine.dirty.why_not = "Linux is too old"
    assert taken(client, incremental=True).notices[0] == "s is a full snapshot: Linux is too old"
    assert client.ask(SnapshotConfirm()) == Done()
    assert served.status().base is None


def test_one_that_is_held_changes_nothing_for_the_next(served: Served, client: Client) -> None:
    taken(client)
    assert client.ask(SnapshotConfirm()) == Done()
    served.machine.dirty.started = False  # it would be started again
    taken(client, hold=True)
    assert not served.machine.dirty.started
    assert client.ask(SnapshotConfirm()) == Done()
    assert served.status().base == BASE


# Guests that freeze.


@pytest.mark.parametrize("end", ["written", "failed", "held", "suspended"])
def test_guests_freeze_before_and_thaw_after(served: Served, client: Client, end: str) -> None:
    machine = served.machine
    machine.services.guests = {"a": True, "b": True, "c": False}
    froze = [f"freeze {vm} 10000" for vm in "abc"]
    thawed = ["thaw a", "thaw b"]
    match end:
        case "written":
            notices = taken(client).notices
            assert notices[0] == "s: not frozen before: vm c: freeze: timed out"
        case "failed":
            machine.error = UserError("a disk is full")
            assert client.ask(request(), *empty()) == refusal("a disk is full")
        case "held":
            taken(client, hold=True)
            assert machine.services.log == froze
            assert client.ask(SnapshotConfirm()) == Done()
        case _:
            with machine.suspension.held("user"):
                taken(client)
            froze, thawed = [], []
    assert machine.services.log == froze + thawed


def test_a_guest_that_does_not_answer_leaves_time_for_the_suspension(
    served: Served, client: Client
) -> None:
    services = served.machine.services
    services.guests = {"a": True, "c": False}
    before = served.runtime.now()
    taken(client, within_ms=60_000)
    after = served.runtime.now()
    for each in services.deadlines:
        assert before + 30_000_000_000 <= each <= after + 30_000_000_000


def test_one_that_is_cancelled_while_guests_freeze_never_suspends(
    served: Served, client: Client
) -> None:
    services = served.machine.services
    services.guests = {"a": True}
    services.meanwhile = served.machine.snapshots.cancel
    assert client.ask(request(), *empty()) == refusal("s: cancelled")
    assert services.log == ["freeze a 10000", "thaw a"]
    assert served.machine.layers == []
    assert services.stopped == [True]  # by then: no guest is waited for
    services.meanwhile = lambda: None
    taken(client)
    assert services.stopped[1:] == [False]


@pytest.mark.parametrize("hold", [False, True])
def test_tracking_that_began_again_has_no_base_from_before(
    served: Served, client: Client, *, hold: bool
) -> None:
    taken(client)
    assert client.ask(SnapshotConfirm()) == Done()
    served.machine.dirty.why_all = "a process has died"
    served.machine.error = UserError("a disk is full")
    wish = request(incremental=True, parent=BASE, hold=hold)
    assert client.ask(wish, *empty()) == refusal("a disk is full")
    assert served.status().base is None


# The client's side.


def test_a_directory_is_there_when_it_is_whole(served: Served, tmp_path: Path) -> None:
    shown: list[int] = []
    written = take(
        served.path,
        str(tmp_path / "s"),
        Wanted(),
        time.monotonic() + WITHIN,
        lambda done, _: shown.append(done),
    )
    assert written.hash == HASH.hex()
    assert sorted(each.name for each in (tmp_path / "s").iterdir()) == ["index", "pages"]
    assert shown == [0, Memory.size]
    assert served.status() == SnapshotReport(name=None, base=BASE)


def refused(served: Served, folder: Path, text: str) -> None:
    with pytest.raises(UserError, match=text):
        take(served.path, str(folder / "s"), Wanted(), time.monotonic() + WITHIN)
    assert not served.machine.paused


def test_a_live_one_is_not_held(served: Served, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^s: live and hold do not go together$"):
        take(
            served.path, str(tmp_path / "s"), Wanted(end=True, live=True), time.monotonic() + WITHIN
        )
    take(served.path, str(tmp_path / "s"), Wanted(live=True), time.monotonic() + WITHIN)
    assert served.machine.wishes[-1].live


def test_after_an_error_nothing_is_left(served: Served, tmp_path: Path) -> None:
    served.machine.error = UserError("a disk is full")
    refused(served, tmp_path, "^a disk is full$")
    with (
        served.machine.suspension.held("other", frozen=True),
        pytest.raises(UserError, match="suspension by other did not end in time"),
    ):
        take(served.path, str(tmp_path / "s"), Wanted(within_ms=20), time.monotonic() + WITHIN)
    assert list(tmp_path.iterdir()) == []
    assert served.machine.prepared == served.machine.closed == 2
    (tmp_path / "s").mkdir()
    served.machine.error = None
    refused(served, tmp_path, "s: there is one already: choose another name$")
    refused(served, tmp_path / "none", "none: no such directory$")
    assert served.status() == SnapshotReport(name=None)


@pytest.mark.parametrize("end", [False, True])
def test_what_is_cancelled_before_its_client_has_said_so_is_not_left(
    served: Served, tmp_path: Path, *, end: bool
) -> None:
    def cancelled(done: int, _total: int) -> None:
        if done:  # all is written, or about to be
            served.until(lambda: served.status().written)
            served.ask(SnapshotCancel())

    with pytest.raises(UserError, match=rf"^{tmp_path}/s: cancelled$"):
        take(
            served.path, str(tmp_path / "s"), Wanted(end=end), time.monotonic() + WITHIN, cancelled
        )
    assert list(tmp_path.iterdir()) == []
    assert not served.machine.paused
    assert not served.machine.snapshots.hibernated


def test_nothing_is_based_on_what_cannot_be_read(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(name: str, parent: str, found: bytes) -> bytes:
        index, pages = write(subject(1, parent=Parent(parent, found)), {(0, 0): page(2)})
        return save(name, index, pages)

    def save(name: str, index: bytes, pages: bytes) -> bytes:
        with make_layer(tmp_path / name) as files:
            os.write(files.index_fd, index)
            os.write(files.pages_fd, pages)
        with closing(open_layer(tmp_path / name)) as layer:
            return layer.hash

    def refusal_of(text: str) -> None:
        with pytest.raises(UserError, match=text):
            take(
                served.path,
                str(tmp_path / "new"),
                Wanted(incremental=True, end=True),
                time.monotonic() + WITHIN,
            )
        assert not served.machine.snapshots.hibernated
        assert not (tmp_path / "new").exists()

    found = on("b", "a", save("a", INDEX, PAGES))
    served.machine.snapshots.begin_at(Base("b", found))
    with monkeypatch.context() as few:
        few.setattr(snapshot_client, "CHAIN_MAX", 2)
        refusal_of("/b: a chain of 2 layers, the most there can be: take a full one$")
    (tmp_path / "a").rename(tmp_path / "away")
    refusal_of("/b: a hole in the chain: its parent .*/a is missing: take a full one$")
    (tmp_path / "b").rename(tmp_path / "away too")
    refusal_of("/b: no such directory: take a full one$")
    assert served.machine.layers == []


class _StoppedError(BaseException):
    """The client was interrupted."""


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("end", [False, True])
def test_a_machine_that_ends_is_kept_whatever_its_client_has_heard(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, end: bool, interrupted: bool
) -> None:
    def no_answer(*_: object) -> bytes:
        if interrupted:
            raise _StoppedError
        raise TimeoutError(f"{served.path}: the machine does not answer")

    def written(done: int, _total: int) -> None:
        if done:
            served.until(lambda: served.status().written)
            monkeypatch.setattr(snapshot_client, "_soon", deaf)

    def deaf() -> float:  # the request is sent, and its answer is not received
        monkeypatch.setattr(Conversation, "receive", no_answer)
        return time.monotonic()

    where = tmp_path / "s"
    error = _StoppedError if interrupted else UserError if end else TimeoutError
    with pytest.raises(error) as caught:
        take(served.path, str(where), Wanted(end=end), time.monotonic() + WITHIN, written)
    monkeypatch.undo()
    served.until(lambda: served.machine.snapshots.hibernated is end)
    assert where.exists() is end
    said = getattr(caught.value, "__notes__", [str(caught.value)])
    assert (f"{where} is kept: the machine may have ended by it" in "".join(said)) is end
