"""arm64 under KVM: hypercalls, kicks, waiting, the interrupt line, the timer."""

from __future__ import annotations

import time

import a64
import pytest
from a64 import mov
from arm64_guest import (
    ARGUMENT,
    BASE,
    DATA,
    SECOND,
    WITHIN,
    Guest,
    args,
    needs_kvm,
    set_timer,
    storm,
    use_vectors,
)

from hfsched.vcpu.engine import Conduit, Exit, Hypercall, Kicked, Timer
from hfsched.vcpu.kvm.cpu import KvmVcpu

pytestmark = needs_kvm

MASK = (1 << 64) - 1
CURRENT_EL = a64.sysreg(3, 0, 4, 2, 2)
LOOP: list[a64.Item] = ["loop:", a64.hvc(), a64.b("loop")]
SPIN: list[a64.Item] = ["spin:", a64.b("spin")]
IRQ = 0x280  # the vector


# Hypercalls


def test_the_initial_state() -> None:
    state = [a64.mrs(1, CURRENT_EL), a64.mrs(2, a64.DAIF), a64.mrs(3, a64.SCTLR)]
    with Guest(*state, a64.mrs(4, a64.SPSEL), a64.mrs(5, a64.MPIDR), a64.hvc(), vcpus=2) as guest:
        for index, cpu in enumerate(guest.vcpus):
            arg, level, masks, control, own_stack, mpidr, x6, x7 = args(cpu.enter())
            assert (arg, level >> 2, masks, own_stack, x6, x7) == (ARGUMENT, 1, 0x3C0, 1, 0, 0)
            assert control == 0, "as Hafnium has it: the MMU is off, and no RES1 bit is set"
            assert mpidr == index, "without bit 31, as Hafnium has it"


@pytest.mark.parametrize(
    ("word", "conduit"), [(a64.hvc(), Conduit.HVC), (a64.smc(), Conduit.SMC)], ids=["hvc", "smc"]
)
def test_a_call_has_eight_arguments_and_as_many_replies(word: int, conduit: Conduit) -> None:
    moves = [each for n in range(8) for each in mov(n, (n + 1) << 60 | n)]
    with Guest(moves, word, a64.hvc()) as guest:
        stop = guest.enter()
        assert isinstance(stop, Hypercall)
        assert stop.conduit is conduit
        assert stop.args == tuple((n + 1) << 60 | n for n in range(8))
        guest.cpu.reply((-1, 1 << 64, 3))
        assert guest.call() == (MASK, 0, 3, *stop.args[3:])


def test_a_reply_is_given_once_and_the_rest_stays() -> None:
    with Guest("loop:", a64.hvc(), a64.add(0, 0, 1), a64.b("loop")) as guest:
        guest.call()
        guest.cpu.reply((7, 8))
        assert [guest.call()[:2] for _ in range(3)] == [(8, 8), (9, 8), (10, 8)]


def test_what_el1_takes_by_itself_is_no_exit() -> None:
    with Guest(use_vectors(), a64.svc(7), a64.UDF) as guest:
        assert guest.call()[:2] == (0x200, 0x5600_0007)
        assert guest.call()[:2] == (0x200, 0x0200_0000)


# Kicks


def test_a_kick_before_enter_is_kept_and_two_are_one() -> None:
    with Guest(*LOOP) as guest:
        guest.cpu.kick()
        guest.cpu.kick()
        assert guest.enter() == Kicked()
        guest.call()


@pytest.mark.parametrize("word", [a64.NOP, a64.WFI], ids=["spin", "wfi"])
def test_a_kick_ends_a_spin_and_a_wait(word: int) -> None:
    with Guest("loop:", word, a64.b("loop")) as guest:
        for _ in range(10):
            ends: list[Exit] = []
            guest.together(lambda ends=ends: ends.append(guest.enter()), guest.cpu.kick)  # type: ignore[misc]
            assert ends == [Kicked()]


def test_a_kick_storm_loses_nothing_and_the_guest_goes_on() -> None:
    with Guest("loop:", a64.add(1, 1, 1), a64.hvc(), a64.b("loop")) as guest:
        calls = storm(guest, 200)
        assert calls == list(range(1, 1 + len(calls)))  # none of the calls is lost


def test_two_machines_of_two_cpus_each_at_once() -> None:
    def work(cpu: KvmVcpu, number: int) -> None:
        stops: list[Exit] = []
        cpu.reset(BASE, 0)
        for n in range(100):
            cpu.reply((n, number))
            stops.append(cpu.enter())
        assert [args(stop)[:2] for stop in stops] == [(n, number) for n in range(100)]

    with Guest(*LOOP, vcpus=2) as one, Guest(*LOOP, vcpus=2) as two:
        cpus = [*one.vcpus, *two.vcpus]
        one.together(*(lambda c=cpu, n=n: work(c, n) for n, cpu in enumerate(cpus)))


# The line, and WFI, which stays in the kernel


def test_the_line_is_level_triggered_and_waits_for_the_mask() -> None:
    with Guest(use_vectors(), a64.hvc(), a64.IRQ_ON, a64.NOP, a64.hvc()) as guest:
        guest.call()
        guest.cpu.set_irq(True)
        for _ in range(2):  # as long as it is up
            assert guest.call()[0] == IRQ
        guest.cpu.set_irq(False)
        assert guest.call()[0] == IRQ  # the handler's own register: it has returned


def test_a_line_from_outside_ends_a_spin_and_a_wait_with_the_interrupt_alone() -> None:
    for word in (a64.NOP, a64.WFI):
        with Guest(use_vectors(), a64.IRQ_ON, "loop:", word, a64.b("loop")) as guest:
            for _ in range(20):
                calls: list[int] = []
                guest.together(
                    lambda calls=calls, guest=guest: calls.append(guest.call()[0]),  # type: ignore[misc]
                    lambda guest=guest: guest.cpu.set_irq(True),  # type: ignore[misc]
                )
                assert calls == [IRQ]  # and no Kicked before it
                guest.cpu.set_irq(False)


def test_a_masked_line_ends_a_wait_without_the_interrupt() -> None:
    with Guest(use_vectors(), a64.WFI, a64.hvc()) as guest:
        calls: list[int] = []
        guest.together(lambda: calls.append(guest.call()[0]), lambda: guest.cpu.set_irq(True))
        assert calls == [ARGUMENT]


def test_one_that_waits_in_the_kernel_is_seen_and_one_that_spins_is_not() -> None:
    with Guest(*LOOP[:2], a64.WFI, a64.mov(1, DATA), a64.store(1, 1), *SPIN) as guest:
        guest.call()
        assert not guest.cpu.waits()
        ends: list[Exit] = []

        def look() -> None:
            while not guest.cpu.waits():
                assert not ends
            guest.cpu.set_irq(True)
            while not guest.word(DATA):
                assert not ends
            assert not guest.cpu.waits()
            guest.cpu.kick()

        guest.together(lambda: ends.append(guest.enter()), look)
        assert ends == [Kicked()]


# The timer


def test_a_timer_ends_a_spin_and_a_wait_and_not_too_early() -> None:
    for word in (a64.NOP, a64.WFI):
        code: list[a64.Item] = [
            a64.mrs(3, a64.CNTVCT),
            a64.hvc(),
            *set_timer(50_000),
            "loop:",
            word,
        ]
        with Guest(*code, a64.b("loop")) as guest:
            before = guest.call()[3]
            assert guest.enter() == Timer()
            assert guest.cpu.clock() >= before + 50_000
            assert guest.cpu.timer_remaining() == 0
            guest.cpu.mask_timer()
            assert guest.cpu.timer_remaining() is None
            guest.cpu.kick()
            assert guest.enter() == Kicked()


def test_the_time_that_a_timer_has_left() -> None:
    with Guest(a64.mrs(1, a64.CNTFRQ), a64.hvc(), *set_timer(1 << 30), a64.hvc()) as guest:
        frequency = guest.call()[1]
        assert guest.cpu.timer_remaining() is None
        guest.call()
        whole = (1 << 30) * SECOND // frequency
        left = guest.cpu.timer_remaining()
        assert left is not None
        assert whole - WITHIN < left <= whole


def test_a_thawed_counter_resumes_at_the_frozen_count() -> None:
    code: list[a64.Item] = [
        a64.mrs(1, a64.CNTFRQ),
        "loop:",
        a64.hvc(),
        a64.mrs(1, a64.CNTVCT),
        a64.b("loop"),
    ]
    with Guest(*code, vcpus=2) as guest:
        frequency = guest.call()[1]
        before = guest.call()[1]
        start = time.monotonic_ns()
        guest.space.freeze()
        frozen = time.monotonic_ns()
        count = guest.cpu.clock()
        assert count >= before
        while time.monotonic_ns() < frozen + SECOND // 20:
            assert [cpu.clock() for cpu in guest.vcpus] == [count, count]
        gone = time.monotonic_ns() - frozen
        guest.space.thaw()
        after = guest.call()[1]
        spent = time.monotonic_ns() - start - gone
        assert 0 < after - count <= spent * frequency // SECOND + 1
        for cpu in guest.vcpus:  # one counter for all
            assert cpu.clock() >= after
