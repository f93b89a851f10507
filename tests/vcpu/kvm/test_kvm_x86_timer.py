"""The x86-64 guest's clock and timer (docs/x86-abi.md) under KVM."""

from __future__ import annotations

import threading
import time

import pytest
import x64
from kvm_guest import INTERRUPT, REPORT, SECOND, Guest, args, needs_kvm

from hfsched.vcpu.engine import Exit, Kicked, Timer, Wfi

pytestmark = needs_kvm

CALL = x64.out(x64.HVC)
CLOCK = x64.mov("rax", 0) + x64.out(x64.TIMER)
STOP = x64.mov("rax", 2) + x64.out(x64.TIMER)


def arm(after: int) -> bytes:
    """Set the timer `after` ns from now."""
    code = CLOCK + x64.copy("rdi", "rax") + x64.mov("rsi", after) + x64.add("rdi", "rsi")
    return code + x64.mov("rax", 1) + x64.out(x64.TIMER)


def test_the_counter_is_the_hosts_monotonic_clock() -> None:
    with Guest(x64.forever(CLOCK + CALL)) as guest:
        before = time.monotonic_ns()
        reads = [guest.call()[:2] for _ in range(3)]
        after = time.monotonic_ns()
        assert [frequency for _, frequency in reads] == [1_000_000_000] * 3
        assert before <= reads[0][0] <= reads[1][0] <= reads[2][0] <= after


def test_what_a_call_gave_is_in_the_state_when_a_kick_comes_with_it() -> None:
    frequency = x64.mov("rsi", 1_000_000_000)
    body = x64.mov("rdi", 0) + CLOCK + frequency + b"\x48\x39\xf7"  # cmp %rsi, %rdi
    body += x64.jump_if_not_zero(6 + 5)  # to the call: that was not it
    with Guest(x64.forever(body) + CALL) as guest:
        for _ in range(50):
            ends: list[Exit] = []
            guest.together(lambda e=ends: e.append(guest.enter()), guest.cpu.kick)  # type: ignore[misc]
            assert ends == [Kicked()]
            guest.cpu.restore(guest.cpu.save())


def test_an_unknown_request_is_refused() -> None:
    with Guest(x64.mov("rax", 3) + x64.out(x64.TIMER) + CALL) as guest:
        assert guest.call()[0] == (1 << 64) - 1


def test_a_timer_ends_a_spin_and_not_too_early() -> None:
    with Guest(arm(2_000_000) + x64.SPIN) as guest:
        assert guest.cpu.timer_remaining() is None
        begin = time.monotonic_ns()
        assert guest.enter() == Timer()
        assert time.monotonic_ns() >= begin + 2_000_000
        assert guest.cpu.timer_remaining() == 0
        assert guest.enter() == Timer()  # until it is masked
        guest.cpu.mask_timer()
        assert guest.cpu.timer_remaining() is None
        guest.cpu.kick()
        assert guest.enter() == Kicked()


def test_a_timer_becomes_an_interrupt_by_the_line() -> None:
    """What the hypervisor makes of it."""
    with Guest(arm(1_000_000) + x64.STI + x64.SPIN, handlers={INTERRUPT: REPORT}) as guest:
        assert guest.enter() == Timer()
        guest.cpu.mask_timer()
        guest.cpu.set_irq(True)
        assert guest.call()[0] == 0x20


def test_the_time_that_is_left() -> None:
    with Guest(arm(3_000_000_000) + CALL + arm(2_000_000_000) + x64.HLT + STOP + CALL) as guest:
        guest.call()
        left = guest.cpu.timer_remaining()
        assert left is not None
        assert 0 < left <= 3_000_000_000
        assert guest.enter() == Wfi()  # the second replaces the first
        left = guest.cpu.timer_remaining()
        assert left is not None
        assert 0 < left <= 2_000_000_000
        guest.call()
        assert guest.cpu.timer_remaining() is None


def test_a_deadline_that_has_passed_fires_at_once() -> None:
    code = x64.mov("rdi", 0) + x64.mov("rax", 1) + x64.out(x64.TIMER) + CALL
    with Guest(code) as guest:
        assert guest.enter() == Timer()
        guest.cpu.mask_timer()
        guest.call()


def test_a_deadline_beyond_all_times_never_fires() -> None:
    code = x64.mov("rdi", -1) + x64.mov("rax", 1) + x64.out(x64.TIMER) + CALL + x64.SPIN
    with Guest(code) as guest:
        guest.call()
        left = guest.cpu.timer_remaining()
        assert left is not None
        assert left > 1 << 60
        guest.together(lambda: pytest.fail("fired") if guest.enter() != Kicked() else None,
                       guest.cpu.kick)  # fmt: skip


def test_a_timer_of_a_guest_that_waits_fires_when_it_is_entered_again() -> None:
    with Guest(x64.forever(arm(200_000) + x64.HLT)) as guest:
        for _ in range(20):
            stop = guest.enter()
            # On a slow machine it may have fired before the HLT, which is then one without a timer.
            if stop == Wfi() and guest.cpu.timer_remaining() is None:
                stop = guest.enter()
            if stop == Wfi():
                while left := guest.cpu.timer_remaining():
                    time.sleep(left / SECOND)
                stop = guest.enter()
            assert stop == Timer()
            guest.cpu.mask_timer()


def test_a_timer_goes_with_its_cpu_to_another_thread() -> None:
    with Guest(CALL + arm(300_000) + x64.forever(CALL + x64.SPIN)) as guest:
        guest.together(guest.call)
        guest.together(guest.call)  # armed here, and this thread is gone
        ends: list[Exit] = []
        guest.together(lambda: ends.append(guest.enter()))
        assert ends == [Timer()]


def test_each_cpu_has_a_timer_and_a_thread_may_have_two_cpus() -> None:
    with Guest(arm(1_000_000) + CALL + x64.SPIN, vcpus=2) as guest:
        for cpu in guest.vcpus:
            cpu.enter()
        assert [cpu.enter() for cpu in guest.vcpus] == [Timer(), Timer()]


def test_reset_stops_the_timer() -> None:
    with Guest(arm(50_000_000) + CALL) as guest:
        guest.call()
        guest.cpu.reset(guest.start, 0)
        assert guest.cpu.timer_remaining() is None


def test_kicks_and_timers_that_come_together_both_come() -> None:
    with Guest(x64.forever(arm(100_000) + x64.until_zero(x64.dec("rcx")))) as guest:
        over = threading.Event()
        counts = {Timer(): 0, Kicked(): 0}

        def run() -> None:
            while min(counts.values()) < 50:
                stop = guest.enter()
                assert isinstance(stop, Timer | Kicked)
                counts[stop] += 1
                if stop == Timer():
                    guest.cpu.reset(guest.start, 0)
            over.set()

        def storm() -> None:
            while not over.wait(0.0001):
                guest.cpu.kick()

        guest.together(run, storm)


def test_a_frozen_machine_loses_no_time_in_a_saved_state() -> None:
    """Neither the frozen time, nor the clock of the machine where it is restored."""
    with Guest(arm(2_000_000_000) + CALL) as first, Guest() as second:
        first.call()
        first.space.freeze()
        second.space.freeze()
        left = first.cpu.timer_remaining()
        saved = first.cpu.save()
        time.sleep(0.01)
        assert first.cpu.timer_remaining() == left
        assert first.cpu.save() == saved
        second.cpu.restore(saved)
        assert second.cpu.timer_remaining() == left
        for guest in (first, second):
            guest.space.thaw()
            now = guest.cpu.timer_remaining()
            assert left is not None
            assert now is not None
            assert now <= left


def test_the_cpus_of_a_thawed_machine_have_one_clock() -> None:
    with Guest(x64.forever(CLOCK + CALL), vcpus=2) as guest:
        before = args(guest.vcpus[1].enter())[0]
        guest.space.freeze()
        guest.space.freeze()
        guest.space.thaw()
        guest.space.thaw()
        reads = [args(guest.vcpus[n].enter())[0] for n in (0, 1, 0, 1)]
        assert before <= reads[0]
        assert reads == sorted(reads)


def test_a_closed_machine_is_neither_frozen_nor_thawed() -> None:
    with Guest() as guest:
        guest.space.freeze()
        guest.space.close()
        guest.space.thaw()
        guest.space.freeze()
