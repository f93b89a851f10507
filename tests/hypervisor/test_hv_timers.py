"""Timers: what RUN tells of a blocked vCPU's virtual timer, and what its expiry does."""

from __future__ import annotations

import pytest
from hv_bench import Bench, Machine, error, hf, interrupted, message

from hfsched.abi.ffa import FfaError, FfaId, Intid, PsciId
from hfsched.hypervisor.interface import (
    DirectResponse,
    Preempted,
    RunResult,
    WaitForInterrupt,
    WaitForMessage,
)
from hfsched.hypervisor.vm import VcpuState
from hfsched.vcpu.script import Action, Cpu, Hvc, Step, Wfi

GET = 0xFF04
TIMER = Intid.VIRTUAL_TIMER
BLOCKING = [
    pytest.param(Hvc(FfaId.MSG_WAIT), WaitForMessage, id="MSG_WAIT"),
    pytest.param(Wfi(), WaitForInterrupt, id="WFI"),
    pytest.param(Hvc(PsciId.CPU_SUSPEND), WaitForInterrupt, id="CPU_SUSPEND"),
]


def armed(delay: int | None = 500, *, enabled: bool = True) -> tuple[Bench, Machine]:
    """Return a VM whose timer runs."""
    bench = Bench()
    vm = bench.vm()
    if enabled:
        vm.enable(TIMER)
    vm.space.vcpu(0).arm(delay)
    return bench, vm


Waits = type[WaitForMessage] | type[WaitForInterrupt]


@pytest.mark.parametrize(("action", "result"), BLOCKING)
def test_a_blocked_vcpu_with_its_timer_on_tells_the_time_left_at_every_run(
    action: Action, result: Waits
) -> None:
    bench, vm = armed(500)
    assert vm.run(action) == result(500)
    bench.clock.time += 200
    assert vm.run() == result(300)
    assert vm.run() == result(300)
    bench.clock.time += 299
    assert vm.run() == result(1)


@pytest.mark.parametrize(("action", "result"), BLOCKING)
@pytest.mark.parametrize("masked", [False, True])
def test_a_timer_that_is_off_or_masked_is_not_told_of(
    action: Action, result: Waits, *, masked: bool
) -> None:
    bench, vm = armed(500 if masked else None)
    vm.space.vcpu(0).timer_masked = masked
    assert vm.run(action) == result(None)
    bench.clock.time += 10**9
    assert vm.run() == result(None)


@pytest.mark.parametrize(("action", "result"), BLOCKING)
def test_expired_at_the_switch_run_says_preempted_and_the_next_one_enters(
    action: Action, result: Waits
) -> None:
    bench, vm = armed()

    def at_the_last_moment(cpu: Cpu) -> Action:
        bench.clock.time += 500
        return action

    before = len(vm.seen[0])
    assert vm.run(at_the_last_moment) == Preempted()
    assert len(vm.seen[0]) == before
    assert vm.run(Hvc(GET)) == Preempted()
    assert vm.last()[0] == TIMER
    del result


def test_expired_at_the_switch_the_vcpu_waits_all_the_same() -> None:
    bench, vm = armed()

    def at_the_last_moment(cpu: Cpu) -> Action:
        bench.clock.time += 500
        return Hvc(FfaId.MSG_WAIT)

    assert vm.run(at_the_last_moment) == Preempted()
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.resume() == message(1, vm.id, 1)
    assert vm.call(GET) == hf(TIMER)


@pytest.mark.parametrize("enabled", [False, True])
def test_expired_at_run_id_3_becomes_pending_and_the_timer_is_masked(*, enabled: bool) -> None:
    bench, vm = armed(enabled=enabled)
    assert vm.wait() == WaitForMessage(500)
    bench.clock.time += 500
    assert vm.resume() == error(FfaError.INTERRUPTED)  # even when id 3 is not enabled
    cpu = vm.space.vcpu(0)
    assert cpu.timer_masked
    assert cpu.timer is not None
    assert vm.record.vcpus[0].interrupts.pending == 1 << TIMER
    assert cpu._line.get() is enabled
    assert vm.call(GET)[0] == (TIMER if enabled else 0xFFFF_FFFF)


def test_it_fires_once_for_each_arming() -> None:
    bench, vm = armed()
    vm.wait()
    bench.clock.time += 500
    assert vm.resume() == error(FfaError.INTERRUPTED)
    assert vm.call(GET)[0] == TIMER
    assert vm.wait() == WaitForMessage(None)
    bench.clock.time += 10**9
    assert vm.run() == WaitForMessage(None)


def test_firing_while_the_vcpu_runs_preempts_it() -> None:
    bench, vm = armed()

    def slowly(cpu: Cpu) -> Action:
        bench.clock.time += 500
        return Step()

    results: list[RunResult] = [vm.run(slowly, Hvc(GET))]
    assert len(vm.todo[0]) == 1  # it did not get to the second action
    results.append(vm.run())
    assert results == [Preempted(), Preempted()]
    assert vm.last()[0] == TIMER


def test_expired_while_ready_the_next_run_delivers_it() -> None:
    bench, vm = armed()
    assert vm.run() == Preempted()
    bench.clock.time += 500
    assert vm.call(GET) == hf(TIMER)
    assert vm.space.vcpu(0).timer_masked


def test_a_message_and_an_expired_timer_arrive_together() -> None:
    bench, vm = armed()
    vm.wait()
    bench.hv.send(vm.id, b"x", notify=False)
    bench.clock.time += 500
    assert vm.resume() == message(1, vm.id, 1)
    assert vm.call(GET) == hf(TIMER)


def test_a_message_before_the_timer_leaves_the_timer_on() -> None:
    bench, vm = armed()
    vm.wait()
    bench.hv.send(vm.id, b"x", notify=False)
    assert vm.resume() == message(1, vm.id, 1)
    assert vm.wait() == WaitForMessage(500)


def test_an_interrupt_pending_anyway_is_taken_before_the_timers() -> None:
    bench, vm = armed()
    vm.enable(2)
    vm.wait()
    bench.hv.inject(vm.id, 0, 2)
    bench.clock.time += 500
    assert vm.resume() == error(FfaError.INTERRUPTED)
    assert vm.call(GET) == hf(2)
    assert vm.call(GET) == hf(TIMER)


def test_a_direct_request_finds_the_expired_timer_pending() -> None:
    bench, vm = armed()
    vm.wait()
    bench.clock.time += 500
    assert bench.hv.direct_request(vm.id, 0, ()) == Preempted()
    assert vm.last()[0] == FfaId.MSG_SEND_DIRECT_REQ
    assert vm.call(GET) == hf(TIMER)


def test_a_response_with_a_running_timer_goes_out_and_the_next_run_tells_the_time() -> None:
    bench, vm = armed()
    vm.wait()
    assert bench.hv.direct_request(vm.id, 0, ()) == Preempted()
    assert vm.switch(FfaId.MSG_SEND_DIRECT_RESP, vm.id << 16 | 1, 0, 7, 0, 0, 0, 0) == (
        DirectResponse((7, 0, 0, 0, 0))
    )
    assert vm.run() == WaitForMessage(500)
    bench.clock.time += 500
    assert vm.resume() == interrupted()
    assert vm.call(GET) == hf(TIMER)


def test_a_response_with_an_expired_timer_goes_out_all_the_same() -> None:
    bench, vm = armed()
    vm.wait()
    assert bench.hv.direct_request(vm.id, 0, ()) == Preempted()

    def late(cpu: Cpu) -> Action:
        bench.clock.time += 500
        return Hvc(FfaId.MSG_SEND_DIRECT_RESP, vm.id << 16 | 1, 0, 7)

    assert vm.run(late) == DirectResponse((7, 0, 0, 0, 0))
    assert vm.record.vcpus[0].state is VcpuState.BLOCKED_MAILBOX
    assert vm.resume() == interrupted()


def test_a_vcpu_that_is_off_has_no_timer() -> None:
    bench, vm = armed()
    assert vm.switch(PsciId.CPU_OFF) == WaitForInterrupt(None)
    bench.clock.time += 500
    assert vm.record.vcpus[0].interrupts.pending == 0


def test_each_vcpu_has_its_own_timer() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    vm.space.vcpu(1).arm(100)
    assert vm.wait(0) == WaitForMessage(None)
    assert vm.wait(1) == WaitForMessage(100)
