"""The para-virtual interrupt controller: ENABLE, GET, INJECT, and the line to the CPU.

"In the very instruction between unmask and mask" needs instructions: the Unicorn engine's tests.
"""

from __future__ import annotations

import pytest
from hv_bench import Bench, Machine, error, full, hf, message

from hfsched.abi.ffa import FfaError, FfaId
from hfsched.hypervisor.interface import (
    Injection,
    Preempted,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
)
from hfsched.vcpu.script import Hvc, Smc, Wfi

ENABLE = 0xFF03
GET = 0xFF04
INJECT = 0xFF05
NONE = 0xFFFF_FFFF


def line(vm: Machine, vcpu: int = 0) -> bool:
    """Tell the level of the line at the engine."""
    return vm.space.vcpu(vcpu)._line.get()


# ENABLE


@pytest.mark.parametrize("intid", [0, 1, 31, 32, 63])
def test_enable_of_an_id_below_64_succeeds(intid: int) -> None:
    vm = Bench().vm()
    assert vm.call(ENABLE, intid, 1) == hf(0, intid, 1)
    assert vm.call(ENABLE, intid, 0) == hf(0, intid, 0)


@pytest.mark.parametrize("intid", [64, 65, 127, 0x8000_0000, 0xFFFF_FFFF])
def test_enable_of_another_id_fails(intid: int) -> None:
    vm = Bench().vm()
    assert vm.call(ENABLE, intid, 1) == hf(-1, intid, 1)
    assert vm.record.vcpus[0].interrupts.enabled == 0


def test_the_id_is_32_bits_wide_and_any_other_number_than_0_enables() -> None:
    vm = Bench().vm()
    assert vm.call(ENABLE, 7 | 1 << 32, 1 << 63) == hf(0, 7 | 1 << 32, 1 << 63)
    assert vm.record.vcpus[0].interrupts.enabled == 1 << 7


@pytest.mark.parametrize("args", [(ENABLE, 3, 1), (GET,), (INJECT, 2, 0, 3)])
def test_by_smc_they_are_unknown_and_do_nothing(args: tuple[int, ...]) -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    bench.hv.inject(vm.id, 0, 5)
    before = vm.record.vcpus[0].key()
    assert vm.call(*args, by=Smc) == hf(-1, *args[1:])
    assert vm.record.vcpus[0].key() == before


@pytest.mark.parametrize("args", [(ENABLE, 3, 1), (GET,), (INJECT, 2, 0, 3)])
def test_they_have_no_64_bit_ids(args: tuple[int, ...]) -> None:
    vm = Bench().vm()
    assert vm.call(args[0] | 1 << 30, *args[1:]) == hf(-1, *args[1:])


# GET


def test_get_takes_the_lowest_enabled_and_pending_one_each_once() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(40, 3, 63, 0)
    for intid in (63, 40, 2, 0):  # 3 is not pending, 2 not enabled
        bench.hv.inject(vm.id, 0, intid)
    assert [vm.call(GET, 1, 2) for _ in range(4)] == [
        hf(0, 1, 2),
        hf(40, 1, 2),
        hf(63, 1, 2),
        hf(NONE, 1, 2),
    ]


def test_get_without_any_returns_the_invalid_id_not_sign_extended() -> None:
    vm = Bench().vm()
    assert vm.call(GET) == hf(0xFFFF_FFFF)


def test_each_vcpu_has_its_own() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    vm.enable(5, vcpu=0)
    vm.enable(5, vcpu=1)
    bench.hv.inject(vm.id, 1, 5)
    assert vm.call(GET, vcpu=0) == hf(NONE)
    assert vm.call(GET, vcpu=1) == hf(5)


# The line


def test_the_line_is_up_while_an_id_is_both_enabled_and_pending() -> None:
    bench = Bench()
    vm = bench.vm()
    levels = []
    for step in (
        lambda: bench.hv.inject(vm.id, 0, 6),  # pending alone
        lambda: vm.enable(7),  # enabled alone
        lambda: vm.enable(6),  # both
        lambda: bench.hv.inject(vm.id, 0, 7),  # two of them
        lambda: vm.call(GET),  # 6 is taken
        lambda: vm.call(ENABLE, 7, 0),
        lambda: vm.call(ENABLE, 7, 1),
        lambda: vm.call(GET),
        lambda: vm.call(INJECT, vm.id, 0, 7),  # by the VM itself
    ):
        step()
        levels.append(line(vm))
    assert levels == [False, False, True, True, True, False, True, False, True]


def test_pending_survives_being_disabled_and_is_delivered_when_enabled_later() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(6)
    bench.hv.inject(vm.id, 0, 6)
    vm.call(ENABLE, 6, 0)
    assert vm.call(GET) == hf(NONE)
    assert vm.wait() == WaitForMessage(None)
    bench.hv.send(vm.id, b"", notify=False)
    assert vm.resume() == message(1, vm.id, 0)
    vm.enable(6)
    assert vm.call(GET) == hf(6)


# INJECT by the primary


@pytest.mark.parametrize(
    ("vm", "vcpu", "intid"),
    [(0, 0, 5), (1, 0, 5), (3, 0, 5), (2, 1, 5), (2, -1, 5), (2, 0, 64), (2, 0, -1)],
)
def test_the_primary_cannot_inject_into_nobody_or_a_wrong_id(
    vm: int, vcpu: int, intid: int
) -> None:
    bench = Bench()
    bench.vm()
    assert bench.hv.inject(vm, vcpu, intid) is Injection.INVALID


def test_the_primary_must_wake_only_for_the_first_enabled_and_pending_one() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5, 6)
    results = [bench.hv.inject(vm.id, 0, intid) for intid in (4, 5, 5, 6, 4)]
    assert results == [
        Injection.DISABLED,
        Injection.WAKE,
        Injection.PENDING,  # it was pending
        Injection.PENDING,  # another was
        Injection.DISABLED,
    ]
    vm.enable(4)
    assert [vm.call(GET)[0] for _ in range(4)] == [4, 5, 6, NONE]  # all are pending in any case


def test_after_the_last_one_was_taken_the_next_must_wake_again() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    assert bench.hv.inject(vm.id, 0, 5) is Injection.WAKE
    assert vm.call(GET) == hf(5)
    assert bench.hv.inject(vm.id, 0, 5) is Injection.WAKE


def test_enabling_a_pending_one_leaves_nothing_to_wake_for() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.inject(vm.id, 0, 5)
    vm.enable(5, 6)
    assert bench.hv.inject(vm.id, 0, 6) is Injection.PENDING


def test_an_interrupt_for_a_vcpu_that_is_off_stays_pending() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    vm.enable(5, vcpu=1)
    assert vm.switch(0x8400_0002, vcpu=1) == WaitForInterrupt(None)  # CPU_OFF
    assert bench.hv.inject(vm.id, 1, 5) is Injection.DISABLED
    vm.turn_on(1)
    assert vm.call(GET, vcpu=1) == hf(5)


# INJECT by a secondary


def test_into_oneself_it_is_0_without_a_switch() -> None:
    vm = Bench().vm()
    vm.enable(5)
    assert vm.call(INJECT, vm.id, 0, 5) == hf(0, vm.id, 0, 5)
    assert vm.call(INJECT, vm.id, 0, 4) == hf(0, vm.id, 0, 4)
    assert vm.call(GET) == hf(5)


def test_into_another_vcpu_of_ones_vm_run_says_whom_to_wake() -> None:
    vm = Bench().vm(vcpus=3)
    vm.enable(5, vcpu=2)
    assert vm.switch(INJECT, vm.id, 2, 5) == WakeUp(vm.id, 2)
    assert vm.resume() == hf(0, vm.id, 2, 5)
    assert vm.call(GET, vcpu=2) == hf(5)


def test_into_another_vcpu_without_need_it_does_not_switch() -> None:
    vm = Bench().vm(vcpus=2)
    vm.enable(5, 6, vcpu=1)
    assert vm.call(INJECT, vm.id, 1, 4)[0] == 0  # not enabled
    assert vm.switch(INJECT, vm.id, 1, 5) == WakeUp(vm.id, 1)
    assert vm.resume()[0] == 0
    assert vm.call(INJECT, vm.id, 1, 5)[0] == 0  # pending already
    assert vm.call(INJECT, vm.id, 1, 6)[0] == 0  # another is
    assert [vm.call(GET, vcpu=1)[0] for _ in range(3)] == [5, 6, NONE]


@pytest.mark.parametrize(
    ("vm", "vcpu", "intid"), [(3, 0, 5), (1, 0, 5), (0, 0, 5), (9, 0, 5), (2, 2, 5), (2, 0, 64)]
)
def test_into_another_vm_or_nobody_or_with_a_wrong_id_it_fails(
    vm: int, vcpu: int, intid: int
) -> None:
    bench = Bench()
    injector, other = bench.vm(vcpus=2), bench.vm()
    other.enable(5)
    assert injector.call(INJECT, vm, vcpu, intid) == hf(-1, vm, vcpu, intid)
    assert other.record.vcpus[0].interrupts.pending == 0


# Wake-ups


def test_an_interrupt_and_a_message_arrive_together_at_the_next_run() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    assert vm.wait() == WaitForMessage(None)
    bench.hv.send(vm.id, b"both", notify=False)
    bench.hv.inject(vm.id, 0, 5)
    assert vm.resume() == message(1, vm.id, 4)
    assert line(vm)
    assert vm.call(GET) == hf(5)


def test_a_disabled_interrupt_wakes_neither_a_wait_nor_a_wfi() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    assert vm.wait(0) == WaitForMessage(None)
    assert vm.run(Wfi(), vcpu=1) == WaitForInterrupt(None)
    for vcpu in (0, 1):
        bench.hv.inject(vm.id, vcpu, 5)
    assert vm.run(vcpu=0) == WaitForMessage(None)
    assert vm.run(vcpu=1) == WaitForInterrupt(None)


def test_an_injection_into_a_sibling_that_waits_ends_its_wait() -> None:
    vm = Bench().vm(vcpus=2)
    vm.enable(5, vcpu=1)
    assert vm.wait(1) == WaitForMessage(None)
    assert vm.run(Hvc(*full(INJECT, vm.id, 1, 5))) == WakeUp(vm.id, 1)
    assert vm.resume(1) == error(FfaError.INTERRUPTED)
    assert vm.run() == Preempted()


@pytest.mark.parametrize("function", [FfaId.MSG_WAIT, 0x8400_0001])
def test_a_line_that_is_up_before_the_wait_ends_it_at_once(function: int) -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    bench.hv.inject(vm.id, 0, 5)
    assert vm.run(Hvc(function), Wfi(), Hvc(GET)) == Preempted()
    assert vm.last()[0] == 5
