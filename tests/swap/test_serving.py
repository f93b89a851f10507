"""The monitor's loop: one answer to each request, valid or not, and its end."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import pytest
from progress import QUIET_NS

from hfsched.errors import InternalError
from hfsched.runtime.base import ChannelClosedError, End
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.monitor.controller import Controller
from hfsched.swap.monitor.serving import serve
from hfsched.swap.protocol.messages import (
    RESOURCES_ALL_MAX,
    RESOURCES_MAX,
    Begin,
    Disable,
    Done,
    Enable,
    Exit,
    GetStatus,
    Give,
    MonitorAnswer,
    MonitorRequest,
    Refused,
    State,
    Status,
    SwapOut,
    Zapped,
    decode_answer,
    encode,
)

from .fakes import FakeMembers, FakePages, register

SECOND = 1_000_000_000


class Monitor:
    def __init__(self) -> None:
        self.runtime = ThreadRuntime()
        self.pages = FakePages()
        self.members = FakeMembers()
        self.end, theirs = self.runtime.channel("monitor")
        self.error: Exception | None = None
        self.begun: list[tuple[Begin, Sequence[int]]] = []
        self.task = self.runtime.spawn("monitor", lambda: serve(self.runtime, theirs, self.make))

    def make(self, begin: Begin, fds: Sequence[int]) -> Controller:
        if self.error is not None:
            raise self.error
        self.begun.append((begin, fds))
        return Controller(lambda: 0, self.pages, self.members)

    def ask(
        self, request: MonitorRequest, number: int = 7, fds: Sequence[int] = ()
    ) -> MonitorAnswer:
        self.end.send(encode(number, request), fds)
        found, answer = decode_answer(receive(self.end))
        assert found == number
        return answer

    def begin(self) -> None:
        assert self.ask(Begin(fresh=True, resources=())) == Done()
        assert self.ask(register(0)) == Done()

    def ended(self) -> bool:
        return self.task.join(self.runtime.now() + QUIET_NS)


def receive(end: End) -> bytes:
    got = end.recv(ThreadRuntime().now() + QUIET_NS)
    assert got is not None, "no answer"
    return got[0]


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    made = Monitor()
    yield made
    made.members.gone = [0, 1]
    made.end.close()
    assert made.ended()


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_the_first_request_must_be_begin(monitor: Monitor) -> None:
    for request in (GetStatus(), Exit(), register(0)):
        assert monitor.ask(request) == Refused(text="the first request must be begin")
    monitor.begin()


def test_a_begin_that_fails_is_answered_and_may_come_again(monitor: Monitor) -> None:
    monitor.error = MemoryError("no room for the table")
    answer = monitor.ask(Begin(fresh=True, resources=()))
    assert answer == Refused(text="begin: MemoryError: no room for the table", again=True)
    monitor.error = None
    monitor.begin()


def test_a_successor_that_cannot_begin_is_tried_again_unless_the_table_is_invalid(
    monitor: Monitor,
) -> None:
    """Where memory is short even an import fails, with an error that does not say so."""
    for error, fresh, again in (
        (ImportError("failed to map segment"), False, True),
        (ImportError("failed to map segment"), True, False),
        (InternalError("swap: the page table is invalid"), False, False),
    ):
        monitor.error = error
        answer = monitor.ask(Begin(fresh=fresh, resources=()))
        assert answer == Refused(text=f"begin: {type(error).__name__}: {error}", again=again)


def test_resources_may_come_in_several_messages(monitor: Monitor) -> None:
    reader, writer = os.pipe()
    for part in (("table", "ram"), ("ram",)):
        assert monitor.ask(Give(resources=part), fds=[writer] * len(part)) == Done()
    assert monitor.ask(Begin(fresh=False, resources=("tier",)), fds=[writer]) == Done()
    begin, fds = monitor.begun[0]
    assert begin == Begin(fresh=False, resources=("table", "ram", "ram", "tier"))
    assert len(fds) == 4
    assert len({os.fstat(fd).st_ino for fd in (*fds, writer)}) == 1
    for fd in (*fds, reader, writer):
        os.close(fd)
    monitor.ask(register(0))


def test_resources_have_a_limit_and_are_closed(monitor: Monitor) -> None:
    reader, writer = os.pipe()
    words = ("ram",) * RESOURCES_MAX
    for _ in range(RESOURCES_ALL_MAX // RESOURCES_MAX):
        assert monitor.ask(Give(resources=words)) == Done()
    assert monitor.ask(Give(resources=("ram",)), fds=[writer]) == Done()
    refused = monitor.ask(Give(resources=words), fds=[writer])
    assert refused == Refused(text=f"give: more than {RESOURCES_ALL_MAX} resources")
    monitor.end.close()
    assert monitor.ended()
    os.close(writer)
    assert os.read(reader, 1) == b""  # every other descriptor is closed
    os.close(reader)


@pytest.mark.parametrize(("data", "number"), [(b"\x05" + bytes(7) + b"?", 5), (b"?", 0)])
def test_garbage_has_one_answer_too(monitor: Monitor, data: bytes, number: int) -> None:
    monitor.end.send(data)
    found, answer = decode_answer(receive(monitor.end))
    assert found == number
    assert isinstance(answer, Refused)
    monitor.begin()


def test_descriptors_are_kept_by_a_register_and_closed_else(monitor: Monitor) -> None:
    monitor.begin()
    reader, writer = os.pipe()
    monitor.ask(register(1), fds=[reader])
    (kept,) = monitor.members.fds
    assert is_open(kept)
    for request in (register(1), GetStatus()):  # the first one is refused
        monitor.ask(request, fds=[writer])
    monitor.end.send(b"garbage that has a descriptor", [writer])
    receive(monitor.end)
    os.close(writer)
    assert os.read(reader, 1) == b""  # every other descriptor is closed
    os.close(reader)
    os.close(kept)


def test_requests_are_answered_while_pages_move(monitor: Monitor) -> None:
    monitor.begin()
    monitor.ask(Enable())
    monitor.ask(Zapped(member=0))
    monitor.pages.held_up = True
    monitor.ask(SwapOut())
    answer = monitor.ask(GetStatus())
    assert isinstance(answer, Status)
    assert answer.state is State.SWAPPING_OUT
    monitor.end.send(encode(8, Exit()))
    assert isinstance(monitor.ask(Disable(), 9), Refused)
    monitor.pages.held_up = False
    assert decode_answer(receive(monitor.end)) == (8, Done())
    assert monitor.ended()
    assert monitor.pages.resident == 1500
    with pytest.raises(ChannelClosedError):
        monitor.end.recv()


@pytest.mark.parametrize("survivor", [True, False])
def test_when_main_is_gone_pages_come_back_for_living_members(
    monitor: Monitor, survivor: bool
) -> None:
    monitor.begin()
    monitor.ask(register(1))
    monitor.ask(Enable())
    monitor.members.gone = [0] if survivor else [0, 1]
    monitor.end.close()
    assert monitor.ended()
    assert monitor.pages.resident == (1500 if survivor else 0)
