"""Main and a process that maps guest memory: each side with a peer that sends invalid messages."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence

import pytest
from machines import belongings
from progress import QUIET_NS

from hfsched.errors import HfschedError
from hfsched.memory.ram import Ram
from hfsched.runtime.base import ChannelClosedError
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.child.child import Child
from hfsched.swap.child.gate import Gate
from hfsched.swap.client.childmember import ChildMember, Part
from hfsched.swap.client.errors import SwapError
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.protocol.childmessages import (
    ChildAnswer,
    ChildRequest,
    Dismiss,
    Join,
    Joined,
    Map,
    Mapped,
    Resume,
    Suspend,
    VmMemory,
    Welcome,
    Zap,
    decode_answer,
    decode_request,
)
from hfsched.swap.protocol.messages import Done, ProtocolError, Refused, encode

from .guestmemory import PAGE, needs_userfault, userfault

SECOND = 1_000_000_000
Reply = ChildAnswer | bytes | tuple[ChildAnswer, Sequence[int]] | None


class Peer:
    """A process with prepared answers: `replies` by the type of the request."""

    def __init__(self, runtime: ThreadRuntime, replies: dict[type, Reply]) -> None:
        self.replies = replies
        self.asked: list[ChildRequest] = []
        self.end, self._mine = runtime.channel("peer")
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            while (got := self._mine.recv()) is not None:
                number, request = decode_request(got[0])
                for fd in got[1]:
                    os.close(fd)
                self.asked.append(request)
                if not self._answer(number, self.replies.get(type(request), Done())):
                    break
        except ChannelClosedError:
            pass
        self._mine.close()

    def _answer(self, number: int, reply: Reply) -> bool:
        if reply is None:
            return False
        if isinstance(reply, bytes):
            self._mine.send(reply)
        elif isinstance(reply, tuple):
            self._mine.send(encode(number, reply[0]), reply[1])
        else:
            self._mine.send(encode(number, reply))
        return True


@pytest.fixture
def runtime() -> ThreadRuntime:
    return ThreadRuntime()


@pytest.fixture
def ram() -> Iterator[Ram]:
    made = Ram("guest", 4 * PAGE)
    yield made
    made.close()


@pytest.fixture
def right() -> Iterator[dict[type, Reply]]:
    """What a process answers that is in its mind; another one's pidfd will do."""
    uffd, pidfd = userfault(), os.pidfd_open(os.getppid())
    yield {Map: Mapped(bases=(0x10000,)), Join: (Joined(), (uffd, pidfd))}
    os.close(uffd)
    os.close(pidfd)


def member(runtime: ThreadRuntime, ram: Ram, peer: Peer) -> ChildMember:
    part = Part("guest", ram.fd, 0, ram.size)
    deadline = runtime.now() + QUIET_NS
    return ChildMember(
        runtime, "peer", peer.end, [part], deadline, pagemap=open_pagemap(), within=SECOND // 5
    )


@needs_userfault
def test_an_introduction_ends_with_a_member(
    runtime: ThreadRuntime, ram: Ram, right: dict[type, Reply]
) -> None:
    peer = Peer(runtime, right)
    made = member(runtime, ram, peer)
    assert made.regions[0].base == 0x10000
    assert len(made.descriptors()) == 2 + (made.tracked is not None)
    made.resume()
    made.suspend()
    made.zap()
    made.resume()
    made.resume()  # once is enough
    made.suspend()
    made.close()
    peer.thread.join()
    kinds = [type(request) for request in peer.asked]
    assert kinds == [Map, Join, Resume, Suspend, Zap, Resume, Suspend]


@needs_userfault
@pytest.mark.parametrize(
    ("kind", "reply", "text"),
    [
        (Map, Refused(text="no room"), "map: no room"),
        (Map, Done(), "map: unexpected answer"),
        (Map, Mapped(bases=()), "0 addresses for 1 VMs"),
        (Map, Mapped(bases=(0,)), "guest memory at 0x0"),
        (Map, Mapped(bases=(0x10001,)), "guest memory at 0x10001"),
        (Map, Mapped(bases=((1 << 63) - PAGE,)), r"must end below 2\*\*63"),
        (Map, b"garbage", "invalid answer: "),
        (Map, encode(7, Done()), "invalid answer: to 7, expected 1"),
        (Map, None, "it has closed its channel"),
        (Join, Joined(), "0 descriptors"),
        (Join, (Joined(), (0, 0)), "the first descriptor is not a uffd"),
        (Join, Done(), "join: unexpected answer"),
        (Join, (Done(), (0,)), "unexpected descriptors"),
    ],
)
def test_a_failed_set_up_names_its_cause(
    runtime: ThreadRuntime,
    ram: Ram,
    right: dict[type, Reply],
    kind: type,
    reply: Reply,
    text: str,
) -> None:
    before = belongings()
    peer = Peer(runtime, {**right, kind: reply})
    with pytest.raises(SwapError, match=rf"^process peer: .*{text}"):
        member(runtime, ram, peer)
    peer.thread.join()
    assert belongings() - before == {}


@needs_userfault
@pytest.mark.parametrize("which", ["none", "this process's own"])
def test_a_pidfd_must_be_one(
    runtime: ThreadRuntime, ram: Ram, right: dict[type, Reply], which: str
) -> None:
    fd = os.open("/dev/null", os.O_RDONLY) if which == "none" else os.pidfd_open(os.getpid())
    reply = right[Join]
    assert isinstance(reply, tuple)
    peer = Peer(runtime, {**right, Join: (Joined(), (reply[1][0], fd))})
    with pytest.raises(SwapError, match="the second descriptor is not its pidfd"):
        member(runtime, ram, peer)
    os.close(fd)


@needs_userfault
@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (Refused(text="not now"), "not now"),
        (b"garbage", "invalid answer"),
        (Mapped(bases=()), "unexpected answer"),
        (None, "it has closed its channel"),
    ],
)
def test_a_process_that_does_not_do_what_it_should_is_named(
    runtime: ThreadRuntime, ram: Ram, right: dict[type, Reply], reply: Reply, text: str
) -> None:
    peer = Peer(runtime, {**right, Suspend: reply, Zap: reply})
    made = member(runtime, ram, peer)
    with pytest.raises(SwapError, match=f"^process peer: .*{text}"):
        made.suspend()
    with pytest.raises(OSError, match=r"^process peer: "):
        made.zap()
    made.close()


@needs_userfault
def test_who_is_not_trusted_is_not_killed_on_its_own_word(
    runtime: ThreadRuntime, ram: Ram, right: dict[type, Reply]
) -> None:
    """The pidfd is that of the parent of this process, and the page tables are not."""
    peer = Peer(runtime, right)
    made = member(runtime, ram, peer)
    made.resume()
    made.distrust("it lies")
    for _ in range(2):
        with pytest.raises(SwapError, match=r"^process peer: it lies$"):
            made.suspend()
        made.resume()
    peer.thread.join()  # its channel is closed
    assert peer.asked[-1] == Resume()
    made.close()


@needs_userfault
def test_a_process_must_be_the_one_that_its_parent_has_named(
    runtime: ThreadRuntime, ram: Ram, right: dict[type, Reply]
) -> None:
    before = belongings()
    peer = Peer(runtime, right)
    part = Part("guest", ram.fd, 0, ram.size)
    with pytest.raises(SwapError, match=r"the second descriptor is another process's pidfd$"):
        ChildMember(
            runtime,
            "peer",
            peer.end,
            [part],
            runtime.now() + QUIET_NS,
            pagemap=open_pagemap(),
            pidfd=os.pidfd_open(os.getpid()),
        )
    peer.thread.join()
    assert belongings() - before == {}


# The other side.


class Host:
    """Main, which sends any message."""

    def __init__(self, runtime: ThreadRuntime) -> None:
        self.end, theirs = runtime.channel("child")
        self.child = Child(runtime, theirs)
        self.thread = threading.Thread(target=self.child.serve, daemon=True)
        self.thread.start()
        self.number = 0

    def raw(self, data: bytes, fds: Sequence[int] = ()) -> tuple[int, ChildAnswer, list[int]]:
        self.end.send(data, fds)
        got = self.end.recv()
        assert got is not None
        return (*decode_answer(got[0]), got[1])

    def ask(self, request: ChildRequest, fds: Sequence[int] = ()) -> ChildAnswer:
        self.number += 1
        number, answer, given = self.raw(encode(self.number, request), fds)
        for fd in given:
            os.close(fd)
        assert number == self.number
        return answer

    def close(self) -> None:
        self.end.close()
        self.thread.join()
        for ram in self.child._rams.values():
            ram.close()
        if self.child._uffd is not None:
            os.close(self.child._uffd)


@pytest.fixture
def host(runtime: ThreadRuntime) -> Iterator[Host]:
    made = Host(runtime)
    yield made
    made.close()


def test_invalid_requests_are_refused_without_effect(host: Host, ram: Ram) -> None:
    before = belongings()
    assert isinstance(host.raw(b"garbage", [ram.fd])[1], Refused)
    vm = VmMemory("guest", 4 * PAGE)
    for request, fds, text in (
        (Map(vms=(vm,)), (), "0 descriptors for the memory of 1 VMs"),
        (
            Map(vms=(VmMemory("guest", PAGE),)),
            (ram.fd,),
            "the memory of guest must have 4096 bytes",
        ),
        (Map(vms=(vm, vm)), (ram.fd,), "1 descriptors for the memory of 2 VMs"),
    ):
        assert host.ask(request, fds) == Refused(text=text)
    assert belongings() - before == {}
    assert isinstance(host.ask(Map(vms=(vm,)), [ram.fd]), Mapped)
    again = host.ask(Map(vms=(vm,)), [ram.fd])
    assert isinstance(again, Refused)
    assert "the memory of guest is mapped already" in again.text


@needs_userfault
def test_a_child_joins_once(host: Host) -> None:
    assert isinstance(host.ask(Join()), Joined)
    assert isinstance(host.ask(Join()), Refused)


def test_memory_is_accessible_from_the_first_resume(host: Host, ram: Ram) -> None:
    found: list[bytes] = []
    ram.write(PAGE, b"hello")
    touch = threading.Thread(
        target=lambda: found.append(host.child.memory()["guest"].read(PAGE, 5)), daemon=True
    )
    touch.start()
    host.ask(Map(vms=(VmMemory("guest", 4 * PAGE),)), [ram.fd])
    assert found == []
    host.ask(Resume())
    touch.join()
    assert found == [b"hello"]


def test_a_child_that_accesses_memory_is_not_suspended(host: Host) -> None:
    host.ask(Resume())
    with host.child.touching():
        refused = host.ask(Suspend(within=0))
    assert refused == Refused(text="it did not suspend in time")
    assert host.ask(Suspend(within=None)) == Done()


def test_a_closed_gate_admits_no_task(runtime: ThreadRuntime) -> None:
    gate = Gate(runtime, "gate")
    passing = threading.Thread(target=gate.enter, daemon=True)
    passing.start()
    assert gate.close(0)
    assert passing.is_alive()
    gate.open()
    passing.join()
    assert not gate.close(0)
    closed: list[bool] = []
    closing = threading.Thread(target=lambda: closed.append(gate.close(None)), daemon=True)
    closing.start()
    gate.leave()
    closing.join()
    assert closed == [True]


def test_a_child_goes_on_with_the_channel_that_main_has_made(
    runtime: ThreadRuntime, host: Host
) -> None:
    ours, its = runtime.channel("child")
    host.end.send(encode(0, Welcome()), [its.fileno()])
    its.close()
    host.end.close()
    host.end = ours
    assert host.ask(Suspend(within=None)) == Done()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Dismiss(text="there are too many"), "there are too many"),
        (Dismiss(text=""), "main does not serve it"),
        (Welcome(), "main has sent a channel, and 0 descriptors have arrived"),
    ],
)
def test_a_child_that_is_dismissed_knows_why(
    host: Host, message: Welcome | Dismiss, why: str
) -> None:
    host.end.send(encode(0, message))
    host.thread.join()
    assert host.child.dismissed == why


def test_a_child_that_is_not_served_starts_none(host: Host) -> None:
    with pytest.raises(HfschedError, match=r"^child c: this process is not served itself"):
        host.child.start_child("c", print)


@needs_userfault
def test_a_child_says_what_it_starts_in_words_that_main_takes(
    runtime: ThreadRuntime, host: Host
) -> None:
    hears, announces = runtime.channel("newcomers")
    assert isinstance(host.ask(Join(), [announces.fileno()]), Joined)
    announces.close()
    for name in ("", "a b", "x" * 33):
        with pytest.raises(ProtocolError, match=r"^invalid newcomer: "):
            host.child.start_child(name, print)
    hears.close()


def test_a_child_ends_when_main_is_gone(runtime: ThreadRuntime) -> None:
    end, other = runtime.channel("child")
    end.close()
    Child(runtime, other).serve()
