"""Every known way to lose a wake-up, or to spin, with the mistake put back in.

Each story forces one interleaving and is told twice: of a faulty mirror or driver, which must fall
into it (or the story would prove nothing), and of the shipped one, which must not.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import pytest

from hfsched.abi.ffa import CONVENTION_64, FfaId, HfId, Intid, PsciId
from hfsched.explore.stepwise import StepsExceededError, Stepwise
from hfsched.hypervisor.interface import Busy, RunResult, SendResult
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import Mirror, VcpuActivity
from hfsched.scenarios.variants import AlwaysHandsOut, FixedTarget
from hfsched.scheduler.driver import DrivenVm, Driver
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.script import Cpu, Hvc, Wfi

from .guests import (
    Run,
    enable,
    map_buffers,
    note,
    sink,
    sleeper,
    take,
    talker,
    ticking_sink,
    waiter,
    with_second,
    yielder,
)
from .harness import Guest, Harness, send_all

if TYPE_CHECKING:
    from collections.abc import Callable


def house_of(world: Stepwise, driver: type[Driver] = Driver) -> Harness:
    return Harness(world, driver)


def lost(guest: Guest) -> bool:
    """Tell whether a message lies unread while nobody will ever look."""
    return guest.rx is RxState.RECEIVED


# What each mistake looks like.


class NoBelief(Mirror):
    """Upstream: a sender that finds no waiter notes nothing."""

    def deliver(self, *, ends_send: bool = False) -> bool:
        with self._lock:
            self._quiescence._senders -= ends_send
            for slot in self._slots:
                if slot.activity is VcpuActivity.WFM:
                    self._claim(slot)
                    return True
            return False


class ClearsAfterTheRun(Mirror):
    """`unread` is cleared when the RUN that it asked for is over."""

    owed = False

    def key(self) -> object:
        return (super().key(), self.owed)

    def wait_for_message(self, vcpu: int, deadline: int | None) -> None:
        with self._lock:
            if self.owed:
                self.owed = self.unread = False
            elif self.unread:
                self.owed = True
                return
        super().wait_for_message(vcpu, deadline)


class ClearsAtAnyRun(Mirror):
    """`unread` is cleared by whatever RUN comes next."""

    def before_run(self, vcpu: int) -> bool:
        with self._lock:
            self.unread = False
        return super().before_run(vcpu)


class NeverClears(Mirror):
    def wait_for_message(self, vcpu: int, deadline: int | None) -> None:
        with self._lock:
            unread = self.unread
        if not unread:
            super().wait_for_message(vcpu, deadline)


class TwoSteps(Mirror):
    """It looks at `unread`, and publishes that it waits a moment later."""

    def wait_for_message(self, vcpu: int, deadline: int | None) -> None:
        with self._lock:
            if self.unread:
                self.unread = False
                return
        slot = self._slots[vcpu]
        with self._lock:
            parked = self._begin_wait(slot, VcpuActivity.WFM, deadline)
        if parked:
            self._park(vcpu, deadline)


class TimerDoesNotClaim(Mirror):
    def _park(self, vcpu: int, deadline: int | None) -> None:
        slot = self._slots[vcpu]
        while True:
            woken = slot.event.wait(deadline)
            with self._lock:
                if slot.activity is VcpuActivity.RUNNING:
                    slot.event.clear()
                    return
                if not woken:
                    return  # and `rest` still says that it sleeps
                slot.event.clear()


class AbortWakesNobody(Mirror):
    def abort(self) -> list[int]:
        with self._lock:
            self.dead = True
            return [
                i for i, slot in enumerate(self._slots) if slot.activity is VcpuActivity.RUNNING
            ]


class OneDeliveryAtATime(Mirror):
    """Step 4 of the mirror as an assertion."""

    def deliver(self, *, ends_send: bool = False) -> bool:
        with self._lock:
            assert not self.unread, "the message before was not read"
        return super().deliver(ends_send=ends_send)


class BusyIsASleep(Driver):
    def _react(self, vm: DrivenVm, index: int, result: RunResult) -> bool:
        if isinstance(result, Busy):
            vm.mirror.wait_for_interrupt(index, None)
            return True
        return super()._react(vm, index, result)


# The stories.


def in_the_window(mirror: type[Mirror]) -> bool:
    """RUN has returned "waits for a message", the mirror does not know yet, and one comes."""
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, mirror=mirror, raw=True)
        harness.start()
        assert world.go("g.0", "ran 2.0 WaitForMessage").startswith("ran")
        guest.outbox.send(b"one")
        world.settle()
        assert lost(guest) or guest.notes == [b"one"]
        return lost(guest)


def in_the_window_twice(mirror: type[Mirror]) -> bool:
    """The second message comes after the RUN that the first one has paid for."""
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, mirror=mirror, raw=True)
        harness.start()
        world.go("g.0", "ran 2.0 WaitForMessage")
        guest.outbox.send(b"one")
        world.go("g.0", "ran 2.0 WaitForMessage")
        assert guest.notes == [b"one"]
        guest.outbox.send(b"two")
        world.settle()
        assert lost(guest) or guest.notes == [b"one", b"two"]
        return lost(guest)


def beside_a_vcpu_that_yields(mirror: type[Mirror]) -> bool:
    """In vCPU 0's window comes a message, and then vCPU 1, which never reads, is run."""
    world = Stepwise(steps_max=4000)
    with house_of(world) as harness:
        guest = harness.vm("g", with_second(sink, yielder), vcpus=2, mirror=mirror, raw=True)
        harness.start()
        world.go("g.0", "ran 2.0 WaitForMessage")
        world.go("g.1", "ran 2.1 Yield")
        guest.outbox.send(b"one")
        world.go("g.1", "ran 2.1 Yield")
        world.go("g.0")
        assert lost(guest) or guest.notes == [b"one"]
        return lost(guest)


def between_look_and_sleep(mirror: type[Mirror]) -> bool:
    """The message comes whenever the mirror's lock is free between the exit and the sleep."""
    outcome = False
    for places in range(1, 4):
        world = Stepwise()
        with house_of(world) as harness:
            guest = harness.vm("g", sink, mirror=mirror, raw=True)
            harness.start()
            world.go("g.0", "ran 2.0 WaitForMessage")
            for _ in range(places):
                world.go("g.0", "lock g.mirror")
            guest.outbox.send(b"one")
            world.settle()
            assert lost(guest) or guest.notes == [b"one"]
            outcome |= lost(guest)
    return outcome


def after_the_timer(mirror: type[Mirror]) -> bool:
    """The guest's timer ends its wait; it waits again, and in that window a message comes."""
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", ticking_sink(1000), mirror=mirror, raw=True)
        harness.start()
        world.settle()
        world.advance(1000)
        world.go("g.0", "ran 2.0 WaitForMessage")
        assert guest.notes == [b"tick"]
        guest.outbox.send(b"one")
        world.settle()
        assert lost(guest) or guest.notes == [b"tick", b"one"]
        return lost(guest)


def abort_beside_sleepers(mirror: type[Mirror]) -> bool:
    """vCPU 0 ends the VM while the others wait for a message and for an interrupt."""
    world = Stepwise()

    def ender(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        yield from with_second(turn_on_third, waiter)(cpu)

    def turn_on_third(cpu: Cpu) -> Run:
        yield Hvc(PsciId.CPU_ON | CONVENTION_64, 2, cpu.address_of(sleeper), 0)
        for _ in range(3):
            yield Hvc(FfaId.YIELD)
        # and the function returns: the CPU cannot go on

    with house_of(world) as harness:
        guest = harness.vm("g", ender, vcpus=4, mirror=mirror, raw=True)
        harness.start()
        for vcpu in ("g.3", "g.0"):
            world.go(vcpu, "ran 2.0 Yield")
        world.go("g.1")
        world.go("g.2")
        rests = [guest.mirror.activity(index) for index in range(4)]
        assert rests == [VcpuActivity.RUNNING, VcpuActivity.WFM, VcpuActivity.WFI, VcpuActivity.OFF]
        world.settle()
        assert harness.aborts == [("g", "the guest function returned")]
        return world.asleep() != []


def a_busy_run(driver: type[Driver]) -> bool:
    """The RUN that a message has paid for comes back busy."""
    world = Stepwise()
    with house_of(world, driver) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        guest.outbox.send(b"one")
        harness.interface.answers[2, 0] = deque([Busy()])
        world.settle()
        assert lost(guest) or guest.notes == [b"one"]
        return lost(guest)


def told_on_vcpu_1(driver: type[Driver]) -> bool:
    """vCPU 0 sleeps with nothing enabled; vCPU 1 has enabled MAILBOX_READABLE."""
    world = Stepwise()

    def told(cpu: Cpu) -> Run:
        yield from enable(Intid.MAILBOX_READABLE)
        while True:
            yield Wfi()
            yield Hvc(HfId.INTERRUPT_GET)
            regs = yield Hvc(FfaId.MSG_POLL)
            if regs[0] == FfaId.MSG_SEND:
                note(cpu, take(cpu, regs))
                yield Hvc(FfaId.RX_RELEASE)

    def lazy(cpu: Cpu) -> Run:
        yield from map_buffers(cpu)
        yield from with_second(sleeper, told)(cpu)

    with house_of(world, driver) as harness:
        guest = harness.vm("g", lazy, vcpus=2, raw=True)
        harness.start()
        world.settle()
        guest.outbox.send(b"one")
        world.settle()
        assert lost(guest) or guest.notes == [b"one"]
        return lost(guest)


@pytest.mark.parametrize(
    ("story", "faulty"),
    [
        (in_the_window, NoBelief),
        (in_the_window_twice, ClearsAfterTheRun),
        (beside_a_vcpu_that_yields, ClearsAtAnyRun),
        (between_look_and_sleep, TwoSteps),
        (after_the_timer, TimerDoesNotClaim),
        (abort_beside_sleepers, AbortWakesNobody),
    ],
)
def test_a_faulty_mirror_loses_what_the_shipped_one_keeps(
    story: Callable[[type[Mirror]], bool], faulty: type[Mirror]
) -> None:
    assert story(faulty)
    assert not story(Mirror)


def test_one_message_does_not_show_a_late_clear() -> None:
    assert not in_the_window(ClearsAfterTheRun)


@pytest.mark.parametrize(
    ("story", "faulty"), [(a_busy_run, BusyIsASleep), (told_on_vcpu_1, FixedTarget)]
)
def test_a_faulty_driver_loses_what_the_shipped_one_keeps(
    story: Callable[[type[Driver]], bool], faulty: type[Driver]
) -> None:
    assert story(faulty)
    assert not story(Driver)


def test_a_mirror_that_never_clears_spins() -> None:
    with pytest.raises(StepsExceededError):
        in_the_window(NeverClears)
    assert not in_the_window(Mirror)


@pytest.mark.parametrize("faulty", [True, False])
def test_waiters_are_handed_out_only_while_there_is_room(faulty: bool) -> None:
    """A woken sender that meets BUSY registers again: the full guest must be run before it."""
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.vm("sender", talker(3, 2, b"one", b"two"))
        if faulty:
            guest.vm.mailbox = AlwaysHandsOut()
        harness.start()
        world.go("g.0")  # waits for a message
        world.go("sender.0")  # the second send was busy: it waits for WRITABLE
        assert guest.rx is RxState.RECEIVED
        world.go("g.0", "ran 2.0 NotifyWaiters")
        assert guest.outbox.try_send(b"host").value == "sent"  # the mailbox refills at once
        rounds = 0
        while world.go("g.0", "waiter 2").startswith("waiter") and rounds < 50:
            # Each time round, whoever was told has time to try again, and is busy.
            world.go("sender.0")
            rounds += 1
        if faulty:
            assert rounds == 50
            assert guest.notes == [b"one"]  # it was never run
        else:
            assert rounds <= 4
            world.settle()
            assert guest.notes == [b"one", b"host", b"two"]


def overtaken(mirror: type[Mirror]) -> list[bytes]:
    """The guest reads what the host has not yet delivered; then a guest sends, and delivers first."""
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, mirror=mirror, raw=True)
        harness.vm("sender", talker(3, 2, b"two"))
        harness.start()
        world.go("g.0", "ran 2.0 WaitForMessage")
        sent: list[Sent] = []
        world.spawn("host", lambda: sent.append(guest.outbox.send(b"one")))
        world.go("host", "sent 2 SENT")
        guest.mirror.wake(0)  # some interrupt
        world.go("g.0", "ran 2.0 WaitForMessage")
        world.go("sender.0")
        assert (guest.notes, guest.mirror.unread) == ([b"one"], True)
        world.go("host")
        assert sent == [Sent.SENT]
        world.settle()
        return guest.notes


def test_a_second_delivery_may_overtake_the_first() -> None:
    with pytest.raises(AssertionError, match="the message before was not read"):
        overtaken(OneDeliveryAtATime)
    assert overtaken(Mirror) == [b"one", b"two"]


def test_a_sender_that_dies_between_send_and_deliver() -> None:
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        assert harness.interface.send(guest.id, b"one", notify=False) is SendResult.SENT
        world.settle()
        assert lost(guest)
        harness.driver.recover(guest.id)
        world.settle()
        assert guest.notes == [b"one"]


def test_recovery_costs_nothing_when_nothing_was_left() -> None:
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        before = harness.runs(guest)
        harness.driver.recover(guest.id)
        harness.driver.recover(99)
        world.settle()
        assert harness.runs(guest) == before


def test_recovery_beside_a_living_sender_costs_one_spurious_run() -> None:
    world = Stepwise()
    with house_of(world) as harness:
        guest = harness.vm("g", sink, raw=True)
        harness.start()
        world.settle()
        world.spawn("host", partial(send_all, guest, [b"one"]))
        world.go("host", "sent 2 SENT")
        harness.driver.recover(guest.id)
        world.go("g.0", "ran 2.0 WaitForMessage")
        world.settle()
        assert guest.notes == [b"one"]
        assert guest.vm.spurious == 1
