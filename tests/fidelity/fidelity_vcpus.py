"""Scenarios: two vCPUs at one mailbox, vCPUs started again, three VMs, WFI."""

from __future__ import annotations

from fidelity_processor import REGISTERS, encoding
from fidelity_words import (
    ENABLE,
    GET,
    INJECT,
    POLL,
    REQUEST,
    RESPONSE,
    RX_RELEASE,
    SEND,
    WAIT,
    WAITER,
    WRITABLE,
    YIELD,
    map_mailbox,
    run,
    scenario,
    send,
)
from probescript import RX, Kind, Scenario, base_of

from hfsched.abi.ffa import CONVENTION_64, PsciId

_WFI = 0xD503_207F
_SUSPEND = PsciId.CPU_SUSPEND | CONVENTION_64


def two_wait() -> Scenario:
    """Two vCPUs of one VM wait for a message, or for an interrupt."""
    s = scenario("two vCPUs wait", (2,))
    map_mailbox(s, 2)
    s.row(2, Kind.START, 1)
    run(s)
    s.hvc(2, WAIT)
    run(s, vcpu=1)
    s.hvc((2, 1), WAIT)
    send(s, 1, 2, 8)
    run(s, vcpu=1)  # the one that is run first gets it
    run(s)
    s.hvc((2, 1), RX_RELEASE)
    s.hvc((2, 1), _SUSPEND)
    send(s, 1, 2, 16)
    run(s, vcpu=1)  # no message ends this wait
    s.hvc(1, INJECT, 2, 1, 7)
    run(s, vcpu=1)
    run(s)
    s.hvc(2, ENABLE, 7, 1)
    s.hvc(2, WAIT)
    s.hvc(1, INJECT, 2, 0, 7)
    run(s)
    s.hvc(2, RX_RELEASE)
    s.hvc(2, WAIT)
    s.hvc(2, GET)
    s.hvc(2, YIELD)
    s.hvc(1, INJECT, 2, 0, 7)
    send(s, 1, 2, 24)
    run(s)
    s.hvc(2, WAIT)  # with both: the message first
    s.hvc(2, WAIT)
    s.hvc(2, RX_RELEASE)
    s.hvc(2, WAIT)
    s.hvc(2, GET)
    s.hvc(2, WAIT)
    send(s, 1, 2, 32)
    s.hvc(1, INJECT, 2, 0, 7)
    run(s)  # both at once
    s.row(2, Kind.INTERRUPTS)
    s.hvc(2, POLL)
    s.hvc(2, RX_RELEASE)
    s.hvc(2, INJECT, 2, 1, 8)
    s.hvc(2, YIELD)
    run(s)
    run(s, vcpu=1)
    return s


def started_again() -> Scenario:
    """What a vCPU that was off keeps."""
    s = scenario("a vCPU started again", (2,))
    s.row(2, Kind.START, 1)
    run(s)
    s.row(2, Kind.START, 1)  # on, and not yet run
    s.hvc(2, YIELD)
    run(s, vcpu=1)
    for intid in (5, 9):
        s.hvc((2, 1), ENABLE, intid, 1)
    s.hvc((2, 1), INJECT, 2, 1, 9)
    s.smc((2, 1), PsciId.CPU_OFF)
    run(s, vcpu=1)
    run(s)
    s.smc(2, PsciId.AFFINITY_INFO, 1)
    s.hvc(2, INJECT, 2, 1, 10)
    s.row(2, Kind.START, 1)
    run(s)
    s.smc(2, PsciId.AFFINITY_INFO, 1)
    s.hvc(2, YIELD)
    run(s, vcpu=1)
    s.hvc((2, 1), GET)
    s.hvc((2, 1), GET)
    s.hvc((2, 1), ENABLE, 10, 1)
    s.hvc((2, 1), WAIT)
    s.hvc((2, 1), GET)
    s.hvc((2, 1), WAIT)
    run(s)
    s.row(2, Kind.START, 1)
    s.hvc(2, INJECT, 2, 1, 5)
    run(s)
    run(s, vcpu=1)
    return s


def restarted_registers() -> Scenario:
    s = scenario("registers of a vCPU started again", (2,))
    names = ("TPIDR_EL1", "TPIDR_EL0", "CONTEXTIDR_EL1", "AFSR0_EL1", "CSSELR_EL1", "CNTKCTL_EL1")
    for turn in range(2):
        s.row(2, Kind.START, 1)
        run(s)
        s.hvc(2, YIELD)
        run(s, vcpu=1)
        for name in names:
            s.row((2, 1), Kind.INSTRUCTION, encoding(REGISTERS[name]), 0x55)
            s.row((2, 1), Kind.INSTRUCTION, encoding(REGISTERS[name], write=True), 2)
            s.row((2, 1), Kind.INSTRUCTION, encoding(REGISTERS[name]), 0x55)
        if turn == 0:
            s.smc((2, 1), PsciId.CPU_OFF)
        run(s)
    return s


def direct_with_two() -> Scenario:
    """A direct request is the first vCPU's affair."""
    s = scenario("direct messages, two vCPUs", (2, 1))
    map_mailbox(s, 2)
    s.row(2, Kind.START, 1)
    run(s)
    s.hvc(2, ENABLE, 5, 1)
    s.hvc(2, WAIT)
    run(s, vcpu=1)
    s.hvc((2, 1), WAIT)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, 1, 2, 3, 4, 5)
    s.hvc(2, INJECT, 2, 1, 6)
    s.hvc(2, _SUSPEND)
    run(s, vcpu=1)
    send(s, 1, 2, 8)
    run(s, vcpu=1)
    s.hvc((2, 1), RESPONSE, 2 << 16 | 1, 0, 7)  # not the one that serves it
    s.hvc((2, 1), RX_RELEASE)
    s.hvc((2, 1), SEND, 2 << 16 | 1, 0, 8)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, 1)  # still being served
    s.hvc(1, RX_RELEASE)
    run(s, vcpu=1)
    s.hvc((2, 1), WAIT)
    run(s)
    s.hvc(1, INJECT, 2, 0, 5)
    run(s)
    s.hvc(2, GET)
    s.hvc(2, RESPONSE, 2 << 16 | 1, 0, 8, 9)
    send(s, 1, 2, 8)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, 6)  # a message waits, too
    s.hvc(2, POLL)
    s.hvc(2, RX_RELEASE)
    s.hvc(2, INJECT, 2, 0, 5)
    s.hvc(2, RESPONSE, 2 << 16 | 1, 0, 8)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, 6)  # an interrupt is pending
    run(s)
    s.hvc(2, GET)
    s.hvc(2, WAIT)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, 0xA)
    s.hvc(2, PsciId.CPU_OFF)
    s.hvc(1, REQUEST, 1 << 16 | 2, 0, 0xB)
    run(s)
    run(s, vcpu=1)
    return s


def three_vms() -> Scenario:
    """Two VMs wait for the mailbox of a third, in order."""
    s = scenario("three VMs", (1, 1, 1), enter=False)
    for vm in (3, 2, 4, 2):
        run(s, vm)
        if (vm, 0) not in {row.who for row in s.rows}:
            map_mailbox(s, vm)
            s.hvc(vm, ENABLE, 2, 1)
            if vm == 3:
                s.hvc(3, YIELD)
                continue
            send(s, vm, 3, 8 * vm)  # VM 2's is received, VM 4's refused
            if vm == 2:
                continue
        for _ in range(2):
            send(s, vm, 3, 8, 1)
        s.hvc(vm, WAIT)
    send(s, 1, 3, 8, 1)
    for _ in range(2):
        s.hvc(1, WAITER, 3)
    run(s, 3)
    s.hvc(3, WAIT)
    s.row(3, Kind.LOAD, base_of(3) + RX)
    s.hvc(3, RX_RELEASE)
    for _ in range(4):
        s.hvc(1, WAITER, 3)
    s.hvc(1, WRITABLE)
    for vm in (2, 4):
        s.hvc(1, INJECT, vm, 0, 2)
        run(s, vm)
        s.hvc(vm, GET)
        s.hvc(vm, WRITABLE)
        s.hvc(vm, WRITABLE)
        s.hvc(vm, YIELD)
    send(s, 1, 3, 8)
    run(s, 3)
    s.hvc(3, POLL)
    send(s, 3, 2, 8)
    run(s)
    s.hvc(2, WAIT)
    run(s, 3)
    send(s, 3, 4, 8)
    run(s, 4)
    s.hvc(4, POLL)
    send(s, 4, 3, 8)
    run(s, 3)
    return s


def waiting_instruction() -> Scenario:
    s = Scenario("WFI", (1,), waits=True)
    map_mailbox(s, 1)
    run(s)
    s.row(2, Kind.INSTRUCTION, _WFI, 5)
    run(s)
    s.hvc(1, INJECT, 2, 0, 5)
    run(s)
    s.hvc(1, INJECT, 2, 0, 6)
    run(s)
    return s


def after_waiting() -> Scenario:
    s = Scenario("WFI, interrupted", (1,), waits=True)
    map_mailbox(s, 1)
    run(s)
    map_mailbox(s, 2)
    s.hvc(2, ENABLE, 5, 1)
    s.row(2, Kind.INSTRUCTION, _WFI, 5)
    send(s, 1, 2, 8)
    run(s)
    s.hvc(1, INJECT, 2, 0, 5)
    run(s)
    s.row(2, Kind.INSTRUCTION, _WFI, 6)  # one is pending, and masked
    s.hvc(2, GET)
    s.hvc(2, POLL)
    return s


SCENARIOS = (
    two_wait, started_again, restarted_registers, direct_with_two, three_vms, waiting_instruction,
    after_waiting,
)  # fmt: skip
