"""Direct messages: the primary's requests, a secondary's responses.

Not here, because this interface has no such call: a request with a wrong sender or to oneself (the interface
names no sender), a response by the primary.
"""

from __future__ import annotations

import pytest
from hv_bench import JUNK, WAYS, Bench, Machine, Way, error, full, ids, interrupted, message

from hfsched.abi.ffa import FfaError, FfaId, PsciId
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    DirectResponse,
    Invalid,
    NotifyWaiters,
    Preempted,
    SendResult,
    WaitForInterrupt,
    WaitForMessage,
    Yield,
)
from hfsched.vcpu.script import Action, Cpu, Guest, Hvc, Step, Wfi

REQ = FfaId.MSG_SEND_DIRECT_REQ
RESP = FfaId.MSG_SEND_DIRECT_RESP
WORDS = (0x1111_2222_3333_4444, 2, 3, 0xFFFF_FFFF_FFFF_FFFF, 5)


def waiting(vcpus: int = 1) -> tuple[Bench, Machine]:
    bench = Bench()
    vm = bench.vm(vcpus=vcpus)
    assert vm.wait() == WaitForMessage(None)
    return bench, vm


def serving() -> tuple[Bench, Machine]:
    bench, vm = waiting()
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Preempted()
    return bench, vm


def respond(vm: Machine, *words: int) -> Action:
    return Hvc(*full(RESP, vm.id << 16 | 1, 0, *words))


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_request_by_a_secondary_is_not_supported(way: Way) -> None:
    bench = Bench()
    vm, other = bench.vm(), bench.vm()
    other.wait()
    for ends in (vm.id << 16 | other.id, 1 << 16 | other.id, vm.id << 16 | vm.id, 0x9_0009):
        assert vm.call(REQ | way[1], ends, 0, by=way[0]) == error(FfaError.NOT_SUPPORTED)


@pytest.mark.parametrize(("vm", "vcpu"), [(0, 0), (1, 0), (3, 0), (2, 1), (2, -1)])
def test_a_request_to_nobody_is_invalid(vm: int, vcpu: int) -> None:
    bench, _ = waiting()
    assert bench.hv.direct_request(vm, vcpu, WORDS) == Invalid()


def test_the_receiver_sees_who_asks_a_w2_of_0_and_the_five_words() -> None:
    bench, vm = waiting()
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Preempted()
    assert vm.last() == (REQ, 1 << 16 | vm.id, 0, *WORDS)


def test_words_that_are_not_given_are_0() -> None:
    bench, vm = waiting()
    assert bench.hv.direct_request(vm.id, 0, (9,)) == Preempted()
    assert vm.last() == (REQ, 1 << 16 | vm.id, 0, 9, 0, 0, 0, 0)


@pytest.mark.parametrize("blocked", [None, Hvc(FfaId.YIELD), Wfi(), Hvc(PsciId.CPU_OFF)])
def test_one_that_does_not_wait_for_a_message_is_busy(blocked: Action | None) -> None:
    bench = Bench()
    vm = bench.vm()
    if blocked is not None:
        vm.run(blocked)
    entries = vm.record.entries
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Busy()
    assert vm.record.entries == entries


def test_one_that_serves_another_request_is_busy_even_while_it_waits() -> None:
    bench, vm = serving()
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Busy()
    assert vm.run(Wfi()) == WaitForInterrupt(None)
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Busy()


def test_a_dead_vm_says_aborted() -> None:
    bench, vm = waiting(vcpus=2)

    def raises(cpu: Cpu) -> Action:
        raise RuntimeError("oops")

    assert isinstance(vm.run(raises, vcpu=1), Aborted)
    for vcpu in (0, 1, 0):
        assert isinstance(bench.hv.direct_request(vm.id, vcpu, WORDS), Aborted)
    assert vm.run() == Invalid()


def test_one_that_serves_a_request_is_busy_even_when_its_vm_is_dead() -> None:
    bench, vm = waiting(vcpus=2)
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Preempted()

    def raises(cpu: Cpu) -> Action:
        raise RuntimeError("oops")

    assert isinstance(vm.run(raises, vcpu=1), Aborted)
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Busy()


def test_one_that_runs_is_busy_even_when_its_vm_is_dead() -> None:
    bench = Bench()
    vm = bench.vm(vcpus=2)
    results = []

    def raises(cpu: Cpu) -> Action:
        raise RuntimeError("oops")

    def meanwhile(cpu: Cpu) -> Action:
        results.append(vm.run(raises, vcpu=1))
        results.append(bench.hv.direct_request(vm.id, 0, WORDS))
        return Hvc(FfaId.YIELD)

    assert vm.run(meanwhile) == Yield()
    assert isinstance(results[0], Aborted)
    assert results[1] == Busy()


def test_an_abort_while_serving_is_told_to_the_requester() -> None:
    def dies(cpu: Cpu) -> Guest:
        yield Hvc(FfaId.MSG_WAIT)

    bench = Bench()
    vm = bench.vm(program=dies)
    assert vm.run() == WaitForMessage(None)
    assert bench.hv.direct_request(vm.id, 0, ()) == Aborted("the guest function returned")


@pytest.mark.parametrize("way", WAYS, ids=ids)
@pytest.mark.parametrize(
    "call",
    [
        (FfaId.YIELD,),
        (FfaId.MSG_WAIT,),
        (FfaId.MSG_POLL,),
        (FfaId.MSG_SEND, 2 << 16 | 1, 0, 1, 1),
    ],
)
def test_while_serving_yield_send_wait_and_poll_are_denied(call: tuple[int, ...], way: Way) -> None:
    bench, vm = serving()
    bench.hv.send(vm.id, b"unread", notify=False)
    assert vm.call(call[0] | way[1], *call[1:], by=way[0]) == error(FfaError.DENIED)
    assert bench.hv.rx_take() is None
    assert vm.run(respond(vm, 1)) == DirectResponse((1, *JUNK[4:]))
    assert vm.resume() == message(1, vm.id, 6)  # it was neither read nor lost


def test_while_serving_a_false_send_is_invalid_first() -> None:
    _, vm = serving()
    call = (FfaId.MSG_SEND, 9 << 16 | 1, 0, 1, 0)
    assert vm.call(*call) == error(FfaError.INVALID_PARAMETERS)
    call = (FfaId.MSG_SEND, 2 << 16 | 9, 0, 1, 0)  # unknown: looked up after the denial
    assert vm.call(*call) == error(FfaError.DENIED)


def test_while_serving_the_vms_other_cpus_are_free() -> None:
    bench, vm = waiting(vcpus=2)
    bench.hv.direct_request(vm.id, 0, WORDS)
    assert vm.call(FfaId.MSG_POLL, vcpu=1) == error(FfaError.RETRY)
    assert vm.run(Hvc(FfaId.YIELD), vcpu=1) == Yield()
    assert vm.run(respond(vm, 1), vcpu=1) == Preempted()
    assert vm.last(1) == error(FfaError.DENIED)  # it is not the one that was asked


def test_while_serving_a_mailbox_can_be_released() -> None:
    bench = Bench()
    vm = bench.vm()
    bench.hv.send(vm.id, b"x", notify=False)
    vm.call(FfaId.MSG_POLL)
    assert bench.hv.send(vm.id, b"y", notify=True) is SendResult.BUSY
    vm.wait()
    bench.hv.direct_request(vm.id, 0, ())
    assert vm.switch(FfaId.RX_RELEASE) == NotifyWaiters()
    assert vm.run(respond(vm, 1, 2, 3, 4, 5)) == DirectResponse((1, 2, 3, 4, 5))


@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_response_carries_five_words_to_the_requester(way: Way) -> None:
    _, vm = serving()
    call = (RESP | way[1], vm.id << 16 | 1, 99, *WORDS)
    assert vm.switch(*call, by=way[0]) == DirectResponse(WORDS)


@pytest.mark.parametrize("ends", [1 << 16 | 1, 3 << 16 | 1, 1, 2 << 16 | 2, 3 << 16 | 2])
@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=ids)
def test_a_response_in_anothers_name_or_to_oneself_is_invalid(
    ends: int, way: Way, *, served: bool
) -> None:
    vm = serving()[1] if served else Bench().vm()
    call = (RESP | way[1], ends, 0)
    assert vm.call(*call, by=way[0]) == error(FfaError.INVALID_PARAMETERS)
    if served:
        assert vm.run(respond(vm)) == DirectResponse(JUNK[3:])


def test_a_response_without_a_request_is_denied() -> None:
    vm = Bench().vm()
    for receiver in (1, 0, 9):
        assert vm.call(RESP, vm.id << 16 | receiver) == error(FfaError.DENIED)


def test_a_response_to_anothers_request_is_denied_and_the_request_goes_on() -> None:
    _, vm = serving()
    for receiver in (0, 3, 9):
        assert vm.call(RESP, vm.id << 16 | receiver) == error(FfaError.DENIED)
    assert vm.run(respond(vm)) == DirectResponse(JUNK[3:])


def test_a_request_is_answered_once() -> None:
    bench, vm = serving()
    vm.run(respond(vm))
    bench.hv.send(vm.id, b"", notify=False)
    vm.resume()
    assert vm.call(RESP, vm.id << 16 | 1) == error(FfaError.DENIED)


def test_afterwards_the_responder_waits_as_in_msg_wait_for_a_message() -> None:
    bench, vm = serving()
    vm.run(respond(vm))
    assert vm.run() == WaitForMessage(None)
    bench.hv.send(vm.id, b"next", notify=False)
    assert vm.resume() == message(1, vm.id, 4)


def test_afterwards_the_responder_waits_as_in_msg_wait_for_a_request() -> None:
    bench, vm = serving()
    vm.run(respond(vm))
    assert bench.hv.direct_request(vm.id, 0, (6,)) == Preempted()
    assert vm.last() == (REQ, 1 << 16 | vm.id, 0, 6, 0, 0, 0, 0)


def test_woken_by_an_interrupt_the_responder_sees_ffa_interrupt() -> None:
    bench, vm = serving()
    vm.enable(5)
    vm.run(respond(vm))
    bench.hv.inject(vm.id, 0, 5)
    assert vm.resume() == interrupted()


def test_with_an_interrupt_pending_the_response_goes_out_and_the_next_run_enters() -> None:
    bench, vm = serving()
    vm.enable(5)
    bench.hv.inject(vm.id, 0, 5)
    assert vm.run(respond(vm)) == DirectResponse(JUNK[3:])
    assert vm.resume() == interrupted()


def test_a_request_that_is_interrupted_is_answered_at_a_later_run() -> None:
    bench, vm = waiting()

    def poked(cpu: Cpu) -> Action:
        bench.hv.preempt(vm.id, 0)
        return Step()

    vm.todo[0].append(poked)
    vm.todo[0].append(respond(vm, 1, 2, 3, 4, 5))
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Preempted()
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Busy()
    assert vm.run() == DirectResponse((1, 2, 3, 4, 5))


def test_a_request_and_a_pending_interrupt_arrive_together() -> None:
    bench, vm = waiting()
    bench.registry.vms[vm.id].vcpus[0].interrupts.enable(5, on=True)
    bench.hv.inject(vm.id, 0, 5)
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Preempted()
    assert vm.last()[0] == REQ
    assert vm.call(0xFF04)[0] == 5


def test_a_request_leaves_an_unread_message_for_afterwards() -> None:
    bench, vm = waiting()
    bench.hv.send(vm.id, b"later", notify=False)
    assert bench.hv.direct_request(vm.id, 0, WORDS) == Preempted()
    assert vm.last()[0] == REQ
    vm.run(respond(vm))
    assert vm.resume() == message(1, vm.id, 5)


def test_each_vcpu_can_be_asked_apart() -> None:
    bench, vm = waiting(vcpus=2)
    vm.wait(1)
    assert bench.hv.direct_request(vm.id, 1, (1,)) == Preempted()
    assert vm.last(1)[3] == 1
    assert bench.hv.direct_request(vm.id, 0, (2,)) == Preempted()
    assert vm.last(0)[3] == 2
