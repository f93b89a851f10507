"""Scenarios: PSCI, several vCPUs, interrupts."""

from __future__ import annotations

from fidelity_words import (
    ENABLE,
    GET,
    HIGH,
    INJECT,
    JUNK,
    RUN,
    WAIT,
    WAYS,
    YIELD,
    map_mailbox,
    run,
    scenario,
    send,
)
from probescript import Kind, Scenario

from hfsched.abi.ffa import CONVENTION_64, FfaId, PsciId

_KNOWN = (PsciId.VERSION, PsciId.FEATURES, PsciId.AFFINITY_INFO)
_SLEEPS = (PsciId.CPU_SUSPEND, PsciId.CPU_OFF, PsciId.CPU_ON)


def psci() -> Scenario:
    s = scenario("PSCI", (2,))
    for conduit, convention in WAYS:
        for function in PsciId:
            if function not in _KNOWN and function not in _SLEEPS:
                s.row(2, conduit, function | convention, *JUNK[1:])
        s.row(2, conduit, PsciId.VERSION | convention, *JUNK[1:])
        s.row(2, conduit, PsciId.FEATURES | convention, PsciId.CPU_ON, *JUNK[2:])
        s.row(2, conduit, PsciId.AFFINITY_INFO | convention, 0, 0, *JUNK[3:])
    return s


def psci_features() -> Scenario:
    s = scenario("PSCI features")
    asked = [*range(0x8400_0000, 0x8400_0020), *range(0xC400_0000, 0xC400_0015)]
    asked += [0, 1, 0x8000_0000, 0x8000_0001, 0x8400_0063, 0xC400_0066, 0xFF04, 0xBD00_0000]
    asked += [0xFFFF_FFFF, HIGH, HIGH | PsciId.CPU_ON, HIGH << 31 | PsciId.VERSION]
    for function in asked:
        s.smc(2, PsciId.FEATURES, function)
    return s


def affinity() -> Scenario:
    s = scenario("AFFINITY_INFO", (2,))
    targets = [0, 1, 2, 7, 8, 0xFF, 0x100, 0x101, 0xFFFF, 0x1_0000, 0x1_0001, 0x7FFF_FFFF]
    targets += [0x8000_0000, 0x8000_0001, 0xFFFF_FFFF, HIGH, HIGH | 1, HIGH << 8, HIGH * HIGH - 1]
    for target in targets:
        s.smc(2, PsciId.AFFINITY_INFO | CONVENTION_64, target)
        s.hvc(2, PsciId.AFFINITY_INFO, target)
    for level in (1, 2, 3, 4, 0x8000_0000, 0xFFFF_FFFF, HIGH, HIGH | 1):
        for target in (0, 1, 2):
            s.smc(2, PsciId.AFFINITY_INFO | CONVENTION_64, target, level)
    return s


def turning_on() -> Scenario:
    s = scenario("CPU_ON", (2,))
    for conduit, convention in WAYS:
        for target in (0, 2, 8, 0xFF, 0x100, 0xFFFF, 0x1_0000, 0x8000_0000, 0xFFFF_FFFF, HIGH):
            s.row(2, conduit, PsciId.CPU_ON | convention, target, 0x1000, 5, *JUNK[4:])
    s.row(2, Kind.START, 1)
    s.smc(2, PsciId.AFFINITY_INFO, 1)
    s.smc(2, PsciId.CPU_ON | CONVENTION_64, 1, 0x1000, 5)  # on, and not yet run
    s.smc(2, PsciId.CPU_ON | CONVENTION_64, HIGH | 1, 0x1000, 5)
    s.hvc(2, YIELD)
    run(s)
    run(s, vcpu=1)
    s.smc((2, 1), PsciId.AFFINITY_INFO, 0)
    s.smc((2, 1), PsciId.AFFINITY_INFO, 1)
    s.smc((2, 1), PsciId.CPU_ON | CONVENTION_64, 0, 0x1000, 5)
    s.hvc((2, 1), FfaId.ID_GET)
    s.hvc((2, 1), GET)
    s.hvc((2, 1), YIELD)
    run(s)
    s.smc(2, PsciId.AFFINITY_INFO, 1)
    for vcpu, intid in ((0, 5), (1, 5), (1, 5), (2, 5), (0xFFFF, 5), (1, 64)):
        s.hvc(2, INJECT, 2, vcpu, intid, *JUNK[4:])
    s.hvc(2, INJECT, 3, 1, 5)
    s.hvc(2, INJECT, 1, 0, 5)
    s.hvc(2, YIELD)
    run(s, vcpu=1)
    s.hvc((2, 1), ENABLE, 5, 1)
    s.hvc((2, 1), ENABLE, 6, 1)
    s.hvc((2, 1), GET)
    s.hvc((2, 1), GET)
    s.hvc((2, 1), WAIT)
    run(s)
    s.hvc(2, INJECT, 2, 1, 5)  # enabled: the scheduler is to wake it
    run(s)
    s.hvc(2, INJECT, 2, 1, 6)
    s.hvc(2, INJECT, 2, 1, 5)
    s.hvc(2, YIELD)
    run(s, vcpu=1)
    s.row((2, 1), Kind.INTERRUPTS)
    s.hvc((2, 1), GET)
    run(s, vcpu=1)
    s.hvc(1, INJECT, 2, 1, 5, 0xF)  # it is off
    run(s)
    s.smc(2, PsciId.AFFINITY_INFO, 1)
    s.hvc(2, INJECT, 2, 1, 9)
    run(s)
    run(s, vcpu=1)
    return s


def suspending() -> Scenario:
    s = scenario("CPU_SUSPEND")
    s.hvc(2, ENABLE, 9, 1)
    for conduit, convention in WAYS:
        s.row(2, conduit, PsciId.CPU_SUSPEND | convention, *JUNK[1:])
        run(s)
        s.hvc(1, INJECT, 2, 0, 9)
        run(s)
        s.hvc(2, GET)
        s.hvc(2, YIELD)
        run(s)
    s.hvc(2, INJECT, 2, 0, 9)
    s.hvc(2, PsciId.CPU_SUSPEND)  # with one pending
    s.hvc(2, GET)
    s.hvc(1, RUN, 2 << 16, 1)  # x2 marks it: here it is off, or has just suspended
    run(s)
    return s


def turning_off() -> Scenario:
    s = scenario("CPU_OFF")
    map_mailbox(s, 2)
    s.hvc(2, ENABLE, 9, 1)
    s.hvc(2, PsciId.CPU_OFF | CONVENTION_64, *JUNK[1:])
    run(s)
    send(s, 1, 2, 8)
    run(s)
    return s


def interrupts() -> Scenario:
    """Every id: enabled, injected by the VM itself, taken."""
    s = scenario("interrupts")
    for intid in range(66):
        s.hvc(2, ENABLE, intid, 1)
        s.hvc(2, INJECT, 2, 0, intid)
        s.hvc(2, GET)
    for intid in (67, 127, 128, 255, 256, 1023, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF):
        s.hvc(2, ENABLE, intid, 1)
        s.hvc(2, ENABLE, intid, 0)
        s.hvc(2, INJECT, 2, 0, intid)
    s.hvc(2, GET, *JUNK[1:])
    for vm, vcpu in ((0, 0), (1, 0), (3, 0), (0xFFFF, 0), (0x8000, 0), (2, 1), (2, 8), (2, 0xFFFF)):
        s.hvc(2, INJECT, vm, vcpu, 5)
    for on in (0, 1, 2, 0x8000_0000, 0xFFFF_FFFF, HIGH):
        s.hvc(2, ENABLE, 5, 0)
        s.hvc(2, ENABLE, 5, on, *JUNK[3:])
        s.hvc(2, INJECT, 2, 0, 5, *JUNK[4:])
        if on:
            s.hvc(2, WAIT)
        s.hvc(2, GET)
        s.row(2, Kind.INTERRUPTS)
        s.hvc(2, ENABLE, 5, 1)
        s.hvc(2, GET)
    for intid in (63, 5, 0, 31, 32):
        s.hvc(2, INJECT, 2, 0, intid)
    s.row(2, Kind.INTERRUPTS)
    for intid in (63, 5):
        s.hvc(2, INJECT, 2, 0, intid)
        s.hvc(2, INJECT, 2, 0, intid)
    for _ in range(3):
        s.hvc(2, GET)
    for _ in range(8):
        run(s)
    return s


def injections() -> Scenario:
    """What INJECT by the primary says, of each id."""
    s = scenario("interrupts of the primary", enter=False)
    for intid in range(66):
        s.hvc(1, INJECT, 2, 0, intid)
    run(s)
    s.hvc(2, GET)
    for intid in range(64):
        s.hvc(2, ENABLE, intid, 1)
    for _ in range(9):
        s.row(2, Kind.INTERRUPTS)
    for _ in range(65):
        s.hvc(2, GET)
    s.hvc(2, WAIT)
    for intid in (63, 63, 0, 17):
        s.hvc(1, INJECT, 2, 0, intid)
    run(s)
    s.hvc(2, GET)
    s.hvc(2, GET)
    s.hvc(2, ENABLE, 63, 0)
    s.hvc(2, GET)
    s.hvc(2, YIELD)
    for intid in (63, 17, 63):
        s.hvc(1, INJECT, 2, 0, intid, *JUNK[4:])
    run(s)
    s.hvc(2, GET)
    s.hvc(2, GET)
    return s


SCENARIOS = (
    psci, psci_features, affinity, turning_on, suspending, turning_off, interrupts, injections,
)  # fmt: skip
