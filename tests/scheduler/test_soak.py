"""The whole harness on real threads: a smoke test, for the interleavings are told elsewhere."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hfsched.abi.ffa import FfaId, HfId, Intid
from hfsched.mailbox.ports import PortMessage
from hfsched.runtime.threads import ThreadRuntime
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.script import Cpu, Hvc, Program

from .guests import (
    Run,
    echo,
    enable,
    held_flood,
    map_buffers,
    reader,
    send_until_sent,
    sink,
    sleeper,
    spinner,
    take,
    waiter,
    with_second,
    yielder,
)
from .harness import Harness, port_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfsched.scheduler.endpoint import Endpoint

LONG = 10_000_000_000  # ns


@pytest.fixture
def harness() -> Iterator[Harness]:
    """A harness on threads; none may be left, and none may have failed."""
    failures: list[tuple[str, BaseException]] = []
    before = set(threading.enumerate())
    runtime = ThreadRuntime(lambda name, exc: failures.append((name, exc)))
    with Harness(runtime) as made:
        yield made
        assert made.driver.stop(runtime.now() + LONG) == []
        assert failures == []
        assert made.aborts == []
        assert set(threading.enumerate()) <= before


def converse(harness: Harness, end: Endpoint, name: str, count: int, ahead: int = 0) -> None:
    """Send `count` texts, the next with `ahead` unanswered; each comes back once, in order."""
    runtime = harness.runtime
    texts = [f"{name}{index}".encode() for index in range(count)]
    for index in range(count + ahead):
        if index < count:
            assert end.send(texts[index], runtime.now() + LONG) is Sent.SENT
        if index >= ahead:
            got = end.recv(runtime.now() + LONG)
            assert got is not None, f"no answer to {texts[index - ahead]!r}"
            assert got.payload == texts[index - ahead]
    assert end.recv(runtime.now()) is None


def spawn_all(harness: Harness, bodies: list[tuple[str, partial[None]]]) -> None:
    tasks = [harness.runtime.spawn(name, body) for name, body in bodies]
    assert all(task.join(harness.runtime.now() + LONG) for task in tasks)


@pytest.mark.parametrize("program", [echo, reader])
def test_one_connection(harness: Harness, program: Program) -> None:
    end = harness.connect(harness.vm("g", program))
    harness.start()
    converse(harness, end, "m", 500)


@pytest.mark.parametrize("program", [echo, reader])
def test_several_connections_with_messages_under_way(harness: Harness, program: Program) -> None:
    guest = harness.vm("g", program)
    ends = [harness.connect(guest) for _ in range(3)]
    harness.start()
    spawn_all(
        harness,
        [
            (f"host{index}", partial(converse, harness, end, f"h{index}-", 300, 4))
            for index, end in enumerate(ends)
        ],
    )
    assert guest.outbox.accepted == 900
    assert guest.vm.spurious <= 2 * 900 + guest.mirror.wake_ups


def relay(own: int, to: int) -> Program:
    """Carry what the host sends to another VM, and what that sends to the host."""

    def guest(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        yield from enable(Intid.MAILBOX_WRITABLE)
        while True:
            regs = yield Hvc(FfaId.MSG_WAIT)
            if regs[0] != FfaId.MSG_SEND:
                yield Hvc(HfId.INTERRUPT_GET)
                continue
            data, sender = take(cpu, regs), regs[1] >> 16
            yield Hvc(FfaId.RX_RELEASE)
            yield from send_until_sent(cpu, own, to if sender == 1 else 1, data)

    return guest


def test_a_pair_of_guests_with_busy_mailboxes(harness: Harness) -> None:
    """Both sides wait for each other's mailbox all the time: BUSY, notify, WRITABLE.

    Three messages at most are under way: four would fill both mailboxes and both guests' hands.
    """
    first = harness.vm("first", relay(2, 3))
    harness.vm("second", reader)
    ends = [harness.connect(first) for _ in range(3)]
    harness.start()
    spawn_all(
        harness,
        [
            (f"host{index}", partial(converse, harness, end, f"h{index}-", 200))
            for index, end in enumerate(ends)
        ],
    )


def test_two_vcpus_read_one_mailbox(harness: Harness) -> None:
    guest = harness.vm("g", with_second(sink, waiter), vcpus=2, raw=True)
    harness.start()
    runtime = harness.runtime

    def send(name: str) -> None:
        for index in range(150):
            text = f"{name}{index:03}".encode()
            assert guest.outbox.send(text, runtime.now() + LONG) is Sent.SENT

    spawn_all(harness, [(name, partial(send, name)) for name in ("a", "b")])
    # An empty mailbox is the sign that the last one was read.
    assert guest.outbox.send(b"end", runtime.now() + LONG) is Sent.SENT
    assert guest.outbox.send(b"END", runtime.now() + LONG) is Sent.SENT
    assert guest.outbox.accepted == 302


def test_a_slow_reader_holds_its_guest_and_loses_nothing(harness: Harness) -> None:
    count = 200
    guest = harness.vm(
        "g", held_flood(2, [port_message(b"%d" % index, 3, 5) for index in range(count)])
    )
    end = harness.connect(harness.vm("other", echo))
    harness.start()
    converse(harness, end, "m", 50)  # while the flood has filled its queue
    port = harness.ports.open(guest.id, 5)
    for index in range(count):
        assert port.get(harness.runtime.now() + LONG) == PortMessage(3, b"%d" % index)


@pytest.mark.parametrize("program", [sink, sleeper, spinner, yielder, reader])
def test_a_stop_leaves_no_thread(harness: Harness, program: Program) -> None:
    """The fixture stops the harness and looks."""
    harness.vm("g", with_second(program, spinner), vcpus=2)
    harness.start()


def test_a_stop_in_full_flight(harness: Harness) -> None:
    guest = harness.vm("g", echo)
    ends = [harness.connect(guest) for _ in range(3)]
    harness.start()
    started = threading.Semaphore(0)

    def talk(end: Endpoint) -> None:
        started.release()
        while end.send(b"x") is Sent.SENT and end.recv() is not None:
            pass

    tasks = [harness.runtime.spawn(f"h{i}", partial(talk, end)) for i, end in enumerate(ends)]
    for _ in ends:
        started.acquire()
    assert harness.driver.stop(harness.runtime.now() + LONG) == []
    assert all(task.join(harness.runtime.now() + LONG) for task in tasks)
