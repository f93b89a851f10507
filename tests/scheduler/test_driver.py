"""The loop of a vCPU's thread: what each result of RUN leads to, and how it all ends."""

from __future__ import annotations

from collections import deque

import pytest

from hfsched.abi.ffa import CONVENTION_64, FfaId, HfId, Intid, PsciId
from hfsched.errors import InternalError
from hfsched.explore.stepwise import Stepwise
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    DirectResponse,
    Invalid,
    Message,
    NotifyWaiters,
    Preempted,
    RunResult,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
    Yield,
)
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import VcpuActivity
from hfsched.mailbox.ports import QUEUE_MAX, PortMessage
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.script import Cpu, Hvc, Program, Wfi

from .guests import (
    Run,
    cpu_on,
    echo,
    enable,
    map_buffers,
    note,
    send,
    send_until_sent,
    sink,
    sleeper,
    talker,
    ticking_sink,
    with_second,
)
from .harness import Guest, Harness, port_message


def planned(harness: Harness, *results: RunResult, vm: int = 2, vcpu: int = 0) -> None:
    """Let the next RUNs of a vCPU return these."""
    harness.interface.answers[vm, vcpu] = deque(results)


def one(harness: Harness, world: Stepwise, result: RunResult) -> tuple[Guest, str]:
    """Answer the first RUN; return where the thread stops: before its second, or asleep."""
    guest = harness.vm("g", sink, vcpus=2)
    planned(harness, result)
    harness.start()
    world.go("g.0", "run 2.0")
    return guest, world.go("g.0", "run 2.0")


@pytest.mark.parametrize(
    "result", [Preempted(), Yield(), Busy(), NotifyWaiters(), DirectResponse((1, 2, 3, 4, 5))]
)
def test_results_after_which_the_vcpu_is_run_again(result: RunResult) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest, stopped = one(harness, world, result)
        assert stopped == "run 2.0"
        assert guest.driven.counters[0].runs == {type(result): 1}
        assert harness.rests == 0


@pytest.mark.parametrize(
    ("result", "activity"),
    [
        (WaitForMessage(None), VcpuActivity.WFM),
        (WaitForInterrupt(None), VcpuActivity.WFI),
        (Invalid(), VcpuActivity.OFF),
    ],
)
def test_results_after_which_the_vcpu_sleeps_for_good(
    result: RunResult, activity: VcpuActivity
) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest, stopped = one(harness, world, result)
        assert stopped == "asleep g.0.wake"
        assert guest.mirror.activity(0) is activity
        assert harness.rests == 1
        world.advance(1 << 62)
        assert world.go("g.0") == "asleep g.0.wake"


def test_an_abort_is_the_last_run() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest, stopped = one(harness, world, Aborted("gone"))
        assert stopped == "done"
        assert guest.driven.counters[0].runs == {Aborted: 1}
        assert harness.aborts == [("g", "gone")]


@pytest.mark.parametrize("result", [WaitForMessage(700), WaitForInterrupt(700)])
def test_a_timer_counts_from_when_run_returned(result: RunResult) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        _, stopped = one(harness, world, result)
        assert stopped == "asleep g.0.wake"
        world.advance(699)
        assert world.go("g.0", "run 2.0") == "asleep g.0.wake"
        world.advance(1)
        assert world.go("g.0", "run 2.0") == "run 2.0"


@pytest.mark.parametrize("result", [Yield(), Busy()])
def test_others_have_their_turn_after_a_yield(result: RunResult) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        harness.vm("g", sink)
        planned(harness, result)
        harness.start()
        assert world.go("g.0", "checkpoint yield") == "checkpoint yield"


def test_a_wake_up_of_another_vm_claims_its_vcpu() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        harness.vm("g", sink)
        other = harness.vm("other", sink, vcpus=2)
        harness.start()
        world.settle()
        assert other.mirror.activity(1) is VcpuActivity.OFF
        planned(harness, WakeUp(3, 1))
        harness.driver.vm(2).mirror.wake(0)
        world.go("g.0")
        assert other.mirror.activity(1) is VcpuActivity.RUNNING


def test_an_unknown_result_of_a_message_is_our_bug() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink)
        planned(harness, Message(2, 1, 5))
        harness.start()
        with pytest.raises(
            InternalError, match=r"^vm g: a message for the host, and nothing in RX"
        ):
            world.settle()
        assert guest.mirror.ended()
        assert guest.outbox.send(b"x") is Sent.DEAD, "nobody must wait for it"


def test_vms_are_found_by_id() -> None:
    with Harness(Stepwise()) as harness:
        first, second = harness.vm("a", sink), harness.vm("b", sink)
        assert harness.driver.vms == [first.driven, second.driven]
        assert harness.driver.vm(3) is second.driven
        with pytest.raises(InternalError, match=r"^no VM 9$"):
            harness.driver.add(9, raw=False)


def test_a_suspension_kicks_those_in_run_and_holds_them_until_the_end() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", sink, vcpus=2)
        harness.vm("other", sink)
        harness.start()
        world.settle()
        guest.mirror.wake(0)
        world.go("g.0", "run 2.0")
        assert not harness.driver.suspend(0)
        assert harness.interface.preempted == [(2, 0)], "the others sleep"
        runs = harness.runs(guest)
        world.settle()
        assert harness.driver.suspend(0)
        assert harness.runs(guest) == runs + 1
        harness.driver.resume()
        guest.mirror.wake(0)
        world.settle()
        assert harness.runs(guest) > runs + 1


# Messages.


def test_a_message_for_the_host_leaves_the_primarys_rx_before_it_waits_for_room() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        texts = [b"%d" % number for number in range(QUEUE_MAX + 1)]
        guest = harness.vm("g", talker(2, 1, *[port_message(text, 1, 5) for text in texts]))
        harness.start()
        world.settle()
        assert world.asleep() == ["g.0"]
        assert harness.hypervisor.registry.primary.mailbox.state is RxState.EMPTY
        assert harness.ports.counts(2) == (QUEUE_MAX, 0, 0)
        assert harness.runs(guest) == QUEUE_MAX + 1
        assert harness.driver.vm(2).counters[0].to_host == QUEUE_MAX
        port = harness.ports.open(2, 5)
        world.settle()
        assert port.get(0) == PortMessage(1, b"0")
        world.settle()
        assert [port.get(0) for _ in texts[1:]] == [PortMessage(1, text) for text in texts[1:]]
        assert harness.driver.vm(2).counters[0].to_host == QUEUE_MAX + 1


def test_a_guest_held_for_room_holds_no_other() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        flood = [port_message(b"%d" % number, 1, 5) for number in range(QUEUE_MAX + 3)]
        harness.vm("loud", talker(2, 1, *flood))
        polite = harness.vm("polite", echo)
        end = harness.connect(polite)
        harness.start()
        world.settle()
        for text in (b"a", b"b", b"c"):
            assert end.send(text) is Sent.SENT
            world.settle()
            got = end.recv(0)
            assert got is not None
            assert got.payload == text


def test_releasing_the_primarys_rx_tells_the_guests_that_wait_for_it() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        first = harness.vm("first", talker(2, 1, port_message(b"one", 1, 5)))
        second = harness.vm("second", talker(3, 1, port_message(b"two", 1, 5)))
        harness.start()
        world.go("first.0", "rx_take")
        world.go("second.0")
        assert second.mirror.activity(0) is VcpuActivity.WFI
        assert harness.hypervisor.registry.primary.mailbox.waiters == [3]
        world.settle()
        port = harness.ports.open(2, 5), harness.ports.open(3, 5)
        assert [p.get(0) for p in port] == [PortMessage(1, b"one"), PortMessage(1, b"two")]
        assert (3, 0, Intid.MAILBOX_WRITABLE) in harness.interface.injected
        assert first.driven.counters[0].to_host == second.driven.counters[0].to_host == 1


def test_guest_to_guest_messages_are_delivered_and_counted() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        to = harness.vm("g", sink, raw=True)
        by = harness.vm("s", talker(3, 2, b"one", b"two", b"three"))
        harness.start()
        world.settle()
        assert to.notes == [b"one", b"two", b"three"]
        assert by.driven.counters[0].to_guests == 3
        assert by.driven.counters[0].to_host == 0


def told_on(index: int, text: bytes) -> Program:
    """Send to VM 2 on vCPU 0, and hear of WRITABLE on vCPU `index` alone."""

    def listener(cpu: Cpu) -> Run:
        yield from enable(Intid.MAILBOX_WRITABLE)
        cpu.write(cpu.base + 0x4000, b"\1")
        while True:
            yield Wfi()
            yield Hvc(HfId.INTERRUPT_GET)
            if (yield Hvc(HfId.MAILBOX_WRITABLE_GET))[0] == 2:
                yield from send_until_sent(cpu, 3, 2, text)

    def guest(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        yield from cpu_on(cpu, index, listener)
        while cpu.read(cpu.base + 0x4000, 1) == b"\0":
            yield Hvc(FfaId.YIELD)
        assert (yield from send(cpu, 3, 2, text, notify=True))[0] == FfaId.ERROR
        yield from sleeper(cpu)

    return guest


@pytest.mark.parametrize("index", [1, 2])
def test_writable_reaches_the_vcpu_that_enabled_it(index: int) -> None:
    world = Stepwise()
    with Harness(world) as harness:
        to = harness.vm("g", sink, raw=True)
        harness.vm("s", told_on(index, b"from s"), vcpus=3)
        harness.start()
        world.go("g.0")
        to.outbox.send(b"host")
        for vcpu in range(index + 1):
            world.go(f"s.{vcpu}", "checkpoint yield")
        for _ in range(10):
            world.go(f"s.{index}")
            world.go("s.0", "checkpoint yield")
        assert to.vm.mailbox.waiters == [3]
        world.settle()
        assert to.notes == [b"host", b"from s"]


def test_a_pending_interrupt_ends_the_search_for_a_vcpu() -> None:
    world = Stepwise()

    def told(cpu: Cpu) -> Run:
        yield from enable(Intid.MAILBOX_READABLE)
        yield from sleeper(cpu)

    with Harness(world) as harness:
        guest = harness.vm("g", with_second(told, told), vcpus=2)
        harness.start()
        world.settle()
        harness.driver.deliver(guest.id)
        harness.driver.deliver(guest.id)
        assert harness.interface.injected == [(2, 0, 1), (2, 0, 1)]
        assert guest.mirror.wake_ups == 2  # CPU_ON's, and one interrupt's


# Power.


def test_cpu_on_off_and_on_again() -> None:
    world = Stepwise()

    def second(cpu: Cpu) -> Run:
        note(cpu, b"%d" % cpu.arg)
        yield Hvc(PsciId.CPU_OFF)

    def first(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        for arg in (5, 6):
            yield Hvc(PsciId.CPU_ON | CONVENTION_64, 1, cpu.address_of(second), arg)
            while (yield Hvc(PsciId.AFFINITY_INFO | CONVENTION_64, 1, 0))[0] != 1:
                yield Hvc(FfaId.YIELD)
        yield from sleeper(cpu)

    for early in (False, True):
        world = Stepwise()
        with Harness(world) as harness:
            guest = harness.vm("g", first, vcpus=2)
            harness.start()
            if early:  # the wake-up overtakes the first RUN's "off"
                world.go("g.1", "ran 2.1 Invalid")
            for _ in range(20):
                world.go("g.0", "checkpoint yield")
                world.go("g.1")
            world.settle()
            assert guest.notes == [b"5", b"6"]
            assert guest.mirror.quiet().resting


def test_the_timer_of_a_guest_that_waits_for_a_message() -> None:
    world = Stepwise()
    with Harness(world) as harness:
        guest = harness.vm("g", ticking_sink(1000), raw=True)
        harness.start()
        world.settle()
        world.advance(999)
        world.settle()
        assert guest.notes == []
        world.advance(1)
        world.settle()
        assert guest.notes == [b"tick"]
        guest.outbox.send(b"after")
        world.settle()
        assert guest.notes == [b"tick", b"after"]
