"""Scenarios: what the hypervisor and the partitions are, unknown ids, how ids are compared."""

from __future__ import annotations

from fidelity_words import (
    DEBUG_LOG,
    FEATURES,
    HIGH,
    ID_GET,
    JUNK,
    PARTITION_INFO,
    RX_RELEASE,
    VERSION,
    WAYS,
    map_mailbox,
    scenario,
)
from probescript import RX, Kind, Scenario, base_of

from hfsched.abi.ffa import CONVENTION_64, FfaId, HfId, PsciId


def versions() -> Scenario:
    s = scenario("version and id")
    for version in (0, 1, 0xFFFF, 0x1_0000, 0x1_0001, 0x1_0002, 0x2_0000, 0x7FFF_FFFF):
        s.hvc(2, VERSION, version)
    for version in (
        0x8000_0000,
        0x8001_0000,
        0xFFFF_FFFF,
        HIGH,
        HIGH | 0x8000_0000,
        HIGH * HIGH - 1,
    ):
        s.hvc(2, VERSION, version)
    for conduit, convention in WAYS:
        s.row(2, conduit, VERSION | convention, 0x1_0000, *JUNK[2:])
        s.row(2, conduit, ID_GET | convention)
        s.row(2, conduit, ID_GET | convention, *JUNK[1:])
    return s


def features() -> Scenario:
    s = scenario("features")
    for low in range(0x60, 0xA0):
        s.hvc(2, FEATURES, 0x8400_0000 | low)
    for low in range(0x60, 0x92):
        s.hvc(2, FEATURES, 0xC400_0000 | low)
    others = [0, 1, 2, 3, 4, 0x60, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8400_005F, 0x8400_00FF, 0x8500_0063]
    others += [*HfId, *PsciId, PsciId.CPU_ON | CONVENTION_64, 0x8000_0000, 0x0400_0063, 0x4400_0063]
    for function in others:
        s.hvc(2, FEATURES, function)
    for function in (VERSION, FEATURES, FfaId.RXTX_MAP | CONVENTION_64, FfaId.MSG_SEND):
        s.hvc(2, FEATURES, HIGH | function)
        s.hvc(2, FEATURES, function, *JUNK[2:])
    for conduit, convention in WAYS:
        s.row(2, conduit, FEATURES | convention, VERSION, 1)
        s.row(2, conduit, FEATURES | convention, 0, *JUNK[2:])
    return s


def unknown_ids() -> Scenario:
    """No call, by each conduit: what is left in x0 to x7."""
    s = scenario("unknown ids")
    functions = [
        0,
        1,
        0xFF,
        0xFEFF,
        0xFF00,
        *range(0xFF06, 0xFF10),
        0xFF7F,
        0xFFAB,
        0xFFFF,
        0x1_0000,
    ]
    functions += [0x1_FF04, 0x4000_FF04, 0x7FFF_FFFF, 0x8000_0002, 0x8000_1234, 0x8000_8000]
    functions += [0x8100_0000, 0x8200_0000, 0x8300_0000, 0x8300_FFFF]
    functions += [*range(0x8400_0015, 0x8400_0020), 0x8400_005F]
    functions += [FfaId.ERROR, FfaId.SUCCESS, FfaId.INTERRUPT, FfaId.MEM_RETRIEVE_RESP]
    functions += [0x8400_0078, 0x8400_0079, *range(0x8400_007C, 0x8400_0090), 0x8400_0091]
    functions += [0x8400_00FF, 0x8400_0100, 0x8400_1063, 0x8400_FFFF, 0x8401_0063, 0x84FF_0063]
    functions += [0x8500_0000, 0x8600_0000, 0x8600_FF01, 0xAF00_0000, 0xB000_0000, 0xB200_0000]
    functions += [0xBC00_0000, 0xBD00_0001, 0xBDFF_FFFF, 0xBE00_0000, 0xBF00_FF01, 0xBFFF_FFFF]
    functions += [0xC000_1234, 0xC300_FFFF, 0xC400_0015, 0xC400_0060, 0xC400_0061, 0xC400_0062]
    functions += [0xC400_0075, 0xC400_0078, 0xC400_007C, 0xC400_0082, 0xC400_0090, 0xC400_00FF]
    functions += [
        0xFF00_0000,
        0xFFFF_FFFE,
        0xFFFF_FFFF,
        HIGH * HIGH - 1,
        HIGH << 31,
        HIGH << 31 | 1,
    ]
    for conduit in (Kind.HVC, Kind.SMC):
        for function in functions:
            s.row(2, conduit, function, *JUNK[1:])
    for function in (0x1234, 0x8400_00FF, 0xBF00_FF01):
        s.hvc(2, function)
        s.smc(2, function)
    return s


def arm_calls() -> Scenario:
    """The architecture's own calls, which KVM's kernel answers itself."""
    s = scenario("calls of the architecture")
    for conduit in (Kind.HVC, Kind.SMC):
        for function in (0x8000_0000, 0x8000_0001, 0x8000_3FFF, 0x8000_7FFF, 0xC000_0000):
            s.row(2, conduit, function, *JUNK[1:])
    return s


def wide_ids() -> Scenario:
    """Ids with bits above the 32 of a function id."""
    s = scenario("ids of 64 bits")
    calls: list[int] = [
        VERSION,
        FEATURES,
        RX_RELEASE,
        PARTITION_INFO,
        ID_GET,
        FfaId.MSG_POLL,
        FfaId.RUN,
    ]
    calls += [FfaId.MSG_SEND, FfaId.MSG_SEND_DIRECT_REQ, FfaId.MSG_SEND_DIRECT_RESP]
    calls += [PsciId.VERSION, PsciId.FEATURES, PsciId.AFFINITY_INFO, PsciId.CPU_ON]
    calls += [PsciId.SYSTEM_OFF, PsciId.MIGRATE]
    for conduit in (Kind.HVC, Kind.SMC):
        for high in (HIGH, HIGH << 31):
            for function in calls:
                s.row(2, conduit, high | function, 0, 0, 0, 0, 5, 6, 7)
        for own in HfId:
            for high in (HIGH, HIGH << 31, 0x4000_0000, 0x8000_0000):
                argument = 0x41 if own is HfId.DEBUG_LOG else 63
                s.row(2, conduit, high | own, argument, 0, 0, 0, 5, 6, 7)
    s.hvc(2, HfId.INTERRUPT_ENABLE, HIGH | 5, 1)
    s.hvc(2, HfId.INTERRUPT_ENABLE, 5, HIGH)
    s.hvc(2, HfId.INTERRUPT_INJECT, 2, 0, 5)
    s.hvc(2, HfId.INTERRUPT_GET)
    s.hvc(2, HfId.INTERRUPT_INJECT, HIGH | 2, 0, 5)
    s.hvc(2, HfId.INTERRUPT_INJECT, 0x1_0002, 0, 5)
    s.hvc(2, HfId.INTERRUPT_INJECT, 2, HIGH, 5)
    s.hvc(2, HfId.INTERRUPT_INJECT, 2, 0x1_0000, 5)
    s.hvc(2, HfId.INTERRUPT_INJECT, 2, 0, HIGH | 5)
    s.hvc(2, HfId.INTERRUPT_GET)
    return s


def debug_log() -> Scenario:
    s = scenario("debug log")
    for conduit in (Kind.HVC, Kind.SMC):
        for character in (0x61, 0, 0x7F, 0xFF, 0x141, HIGH | 0x42, 0x0A):
            s.row(2, conduit, DEBUG_LOG, character)
        s.row(2, conduit, DEBUG_LOG, 0x63, *JUNK[2:])
        s.row(2, conduit, DEBUG_LOG | CONVENTION_64, 0x64, *JUNK[2:])
        s.row(2, conduit, DEBUG_LOG, 0x0A)
    return s


def partitions() -> Scenario:
    """PARTITION_INFO_GET, and the descriptors that it leaves in RX."""
    s = scenario("partition info", (1, 2))
    s.hvc(2, PARTITION_INFO)  # no mailbox
    s.hvc(2, PARTITION_INFO, 1, 2, 3, 4)
    map_mailbox(s, 2)
    rx = base_of(2) + RX
    for conduit, convention in WAYS:
        s.row(2, conduit, PARTITION_INFO | convention)
        s.row(2, Kind.LOAD, rx)
        s.hvc(2, PARTITION_INFO)  # not released
        s.hvc(2, PARTITION_INFO, 1)  # an unknown UUID is refused first
        s.hvc(2, FfaId.MSG_POLL)
        s.hvc(2, RX_RELEASE)
        s.hvc(2, RX_RELEASE)
    for uuid in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0xFFFF_FFFF,) * 4):
        s.hvc(2, PARTITION_INFO, *uuid)
    for uuid in ((HIGH, 0, 0, 0), (0, HIGH, 0, 0), (0, 0, 0, HIGH << 31)):
        s.hvc(2, PARTITION_INFO, *uuid)
        s.hvc(2, RX_RELEASE)
    s.hvc(2, PARTITION_INFO, 0, 0, 0, 0, *JUNK[5:])
    return s


SCENARIOS = (
    versions, features, unknown_ids, arm_calls, wide_ids, debug_log, partitions,
)  # fmt: skip
