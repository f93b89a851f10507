"""RUN: whom it refuses, how a blocked vCPU answers, preemption, YIELD, WFI.

In this interface a deadline of 0 ("indefinite" on the wire) is None, and w1 is what the caller passed.
The primary's own YIELD has no place in it.
"""

from __future__ import annotations

import pytest
from hv_bench import WAYS, Bench, Machine, Way, error, full, ids, message, ok

from hfsched.abi.ffa import FfaError, FfaId, PsciId
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    Invalid,
    Preempted,
    RunResult,
    WaitForInterrupt,
    WaitForMessage,
    Yield,
)
from hfsched.hypervisor.vm import NIL_UUID, VcpuState
from hfsched.vcpu.engine import Exit
from hfsched.vcpu.engine import Wfi as WfiExit
from hfsched.vcpu.script import Action, Cpu, Guest, Hvc, Step, Wfi


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize("target", [2 << 16, 3 << 16, 1 << 16, 0xFFFF_FFFF])
def test_run_by_a_secondary_is_denied(way: Way, target: int) -> None:
    bench = Bench()
    vm, other = bench.vm(), bench.vm()
    entries = other.record.entries
    assert vm.call(FfaId.RUN | way[1], target, by=way[0]) == error(FfaError.DENIED)
    assert other.record.entries == entries


@pytest.mark.parametrize(
    ("vm", "vcpu"), [(1, 0), (0, 0), (3, 0), (2, 1), (2, -1), (-2, 0), (0x8000, 0)]
)
def test_run_of_the_primary_or_an_unknown_vm_or_vcpu_is_invalid(vm: int, vcpu: int) -> None:
    bench = Bench()
    bench.vm()
    assert bench.hv.run(vm, vcpu) == Invalid()


def test_run_of_a_vcpu_that_was_never_turned_on_is_invalid() -> None:
    bench = Bench()
    vm = Machine(bench, "two", 2, NIL_UUID, None)
    assert vm.run(vcpu=1) == Invalid()
    assert vm.run(vcpu=0) == Preempted()


def test_run_of_a_vcpu_that_runs_elsewhere_is_busy() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    results: list[RunResult] = []

    def in_the_guest(cpu: Cpu) -> Action:
        results.append(bench.hv.run(vm.id, 0))  # as another CPU of the host would, meanwhile
        results.append(bench.hv.direct_request(vm.id, 0, ()))
        results.append(bench.hv.run(vm.id, 1))
        return Step()

    assert vm.run(in_the_guest) == Preempted()
    assert results == [Busy(), Busy(), Preempted()]
    assert vm.run() == Preempted()


def test_a_claim_ends_with_the_run() -> None:
    vm = Bench().vm()
    for action in (Step(), Hvc(FfaId.YIELD), Wfi()):
        vm.run(action)
        assert not vm.record.vcpus[0].claimed


def test_only_the_exit_that_aborts_says_so() -> None:
    bench = Bench()

    def dies(cpu: Cpu) -> Guest:
        yield Step()

    vm = bench.vm(vcpus=2, program=dies)
    assert vm.run() == Aborted("the guest function returned")
    assert vm.run() == Invalid()
    assert vm.run(vcpu=1) == Invalid()
    info = bench.hv.info(vm.id)
    assert info is not None
    assert info.abort_reason == "the guest function returned"


def test_an_abort_is_the_whole_vms_and_nobody_elses() -> None:
    bench = Bench()
    vm, other = bench.vm(vcpus=2), bench.vm()
    assert vm.wait(1) == WaitForMessage(None)

    def raises(cpu: Cpu) -> Action:
        raise RuntimeError("oops")

    assert isinstance(vm.run(raises), Aborted)
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.run(vcpu=1) == Invalid()
    assert {vcpu.state for vcpu in vm.record.vcpus} == {VcpuState.ABORTED}
    assert other.call(FfaId.ID_GET) == ok(other.id)


def test_a_vcpu_that_runs_while_its_vm_aborts_runs_to_its_next_exit_and_no_further() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)

    def raises(cpu: Cpu) -> Action:
        raise RuntimeError("oops")

    def meanwhile(cpu: Cpu) -> Action:
        assert isinstance(vm.run(raises, vcpu=0), Aborted)
        return Hvc(FfaId.YIELD)

    assert vm.run(meanwhile, vcpu=1) == Yield()
    assert vm.run(vcpu=1) == Invalid()


@pytest.mark.parametrize("size", [0, 4096])
def test_one_that_waits_for_a_message_resumes_with_it(size: int) -> None:
    bench = Bench()
    vm = bench.vm()
    assert vm.wait() == WaitForMessage(None)
    bench.hv.send(vm.id, b"z" * size, notify=False)
    assert vm.resume() == message(1, vm.id, size)


def test_blocked_with_nothing_it_answers_again_without_entering_as_often_as_asked() -> None:
    vm = Bench().vm(vcpus=2)
    assert vm.wait(0) == WaitForMessage(None)
    assert vm.run(Wfi(), vcpu=1) == WaitForInterrupt(None)
    entries, spurious = vm.record.entries, vm.record.spurious
    for _ in range(3):
        assert vm.run(vcpu=0) == WaitForMessage(None)
        assert vm.run(vcpu=1) == WaitForInterrupt(None)
    assert vm.record.entries == entries
    assert vm.record.spurious == spurious + 6


def test_a_message_does_not_end_a_wfi() -> None:
    bench = Bench()
    vm = bench.vm()
    assert vm.run(Wfi()) == WaitForInterrupt(None)
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.run() == WaitForInterrupt(None)


def test_a_message_that_was_read_already_does_not_end_a_wait() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.send(vm.id, b"x", notify=False)
    vm.call(FfaId.MSG_POLL)
    assert vm.wait() == WaitForMessage(None)
    assert vm.run() == WaitForMessage(None)


def test_preempted_it_says_so_once_and_goes_on_where_it_was() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.preempt(vm.id, 0)
    bench.hv.preempt(vm.id, 0)
    assert vm.run(Hvc(FfaId.ID_GET)) == Preempted()
    assert vm.seen[0][-1] != ok(vm.id)  # not entered yet
    assert vm.resume() == ok(vm.id)


def test_preempted_while_it_runs() -> None:
    bench = Bench()
    vm = bench.vm()

    def poked(cpu: Cpu) -> Action:
        bench.hv.preempt(vm.id, 0)
        return Step()

    assert vm.run(poked, Hvc(FfaId.YIELD)) == Preempted()
    assert vm.run() == Yield()


def test_preempted_between_its_message_and_its_first_step_it_keeps_the_message() -> None:
    bench = Bench()
    vm = bench.vm()
    assert vm.wait() == WaitForMessage(None)
    bench.hv.send(vm.id, b"x", notify=False)
    bench.hv.preempt(vm.id, 0)
    before = len(vm.seen[0])
    assert vm.run() == Preempted()
    assert len(vm.seen[0]) == before
    assert vm.resume() == message(1, vm.id, 1)


@pytest.mark.parametrize(("vm", "vcpu"), [(1, 0), (9, 0), (2, 1), (2, -1)])
def test_preempting_nobody_does_nothing(vm: int, vcpu: int) -> None:
    bench = Bench()
    machine = bench.vm()
    bench.hv.preempt(vm, vcpu)
    assert machine.run(Hvc(FfaId.YIELD)) == Yield()


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_yield_returns_to_the_scheduler_and_succeeds(way: Way) -> None:
    vm = Bench().vm()
    assert vm.switch(FfaId.YIELD | way[1], by=way[0]) == Yield()
    assert vm.resume() == ok()


def test_wfi_with_nothing_pending_waits_for_an_interrupt() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    assert vm.run(Wfi()) == WaitForInterrupt(None)
    assert vm.run() == WaitForInterrupt(None)
    bench.hv.inject(vm.id, 0, 5)
    assert vm.run() == Preempted()
    assert vm.last() == ()


def test_wfi_with_an_enabled_pending_interrupt_is_nothing() -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    bench.hv.inject(vm.id, 0, 5)
    assert vm.run(Wfi(), Wfi(), Hvc(FfaId.YIELD)) == Yield()


def test_an_interrupt_between_the_wfi_and_the_look_at_it_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    cpu = vm.space.vcpu(0)
    enter = cpu.enter

    def late() -> Exit:
        event = enter()
        if event == WfiExit():
            bench.hv.inject(vm.id, 0, 5)
        return event

    monkeypatch.setattr(cpu, "enter", late)
    assert vm.run(Wfi(), Hvc(FfaId.YIELD)) == Yield()


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_suspend_is_a_wfi_that_succeeds(way: Way) -> None:
    bench = Bench()
    vm = bench.vm()
    vm.enable(5)
    call = full(PsciId.CPU_SUSPEND | way[1], 1, 2, 3)
    assert vm.switch(*call, by=way[0]) == WaitForInterrupt(None)
    assert vm.run() == WaitForInterrupt(None)
    bench.hv.inject(vm.id, 0, 5)
    assert vm.resume() == (0, *call[1:])
    assert vm.call(*call, by=way[0]) == (0, *call[1:])  # still pending: over at once


def test_info_says_what_the_primary_may_know() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=3)
    assert bench.hv.info(1) is bench.hv.info(0) is bench.hv.info(3) is None
    info = bench.hv.info(vm.id)
    assert info is not None
    assert (info.id, info.name, info.vcpus, info.waiters, info.abort_reason) == (
        vm.id,
        "vm2",
        3,
        0,
        None,
    )
