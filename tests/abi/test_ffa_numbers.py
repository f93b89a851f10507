"""The numbers of FF-A 1.0, PSCI 1.1 and Hafnium's calls, written down a second time.

Sources: DEN0077A table 3.1 and 13.x, DEN0022 5.1, Hafnium f0701679c0 inc/vmapi/hf/{abi,ffa}.h.
"""

from __future__ import annotations

from hfsched.abi import ffa
from hfsched.abi.ffa import FfaError, FfaId, HfId, Intid, PsciError, PsciId

FFA = {
    0x60: "ERROR",
    0x61: "SUCCESS",
    0x62: "INTERRUPT",
    0x63: "VERSION",
    0x64: "FEATURES",
    0x65: "RX_RELEASE",
    0x66: "RXTX_MAP",
    0x67: "RXTX_UNMAP",
    0x68: "PARTITION_INFO_GET",
    0x69: "ID_GET",
    0x6A: "MSG_POLL",
    0x6B: "MSG_WAIT",
    0x6C: "YIELD",
    0x6D: "RUN",
    0x6E: "MSG_SEND",
    0x6F: "MSG_SEND_DIRECT_REQ",
    0x70: "MSG_SEND_DIRECT_RESP",
    0x71: "MEM_DONATE",
    0x72: "MEM_LEND",
    0x73: "MEM_SHARE",
    0x74: "MEM_RETRIEVE_REQ",
    0x75: "MEM_RETRIEVE_RESP",
    0x76: "MEM_RELINQUISH",
    0x77: "MEM_RECLAIM",
    0x7A: "MEM_FRAG_RX",
    0x7B: "MEM_FRAG_TX",
}


def test_ffa_ids() -> None:
    for number, name in FFA.items():
        assert FfaId[name] == 0x8400_0000 | number


def test_ffa_error_codes() -> None:
    names = "NOT_SUPPORTED INVALID_PARAMETERS NO_MEMORY BUSY INTERRUPTED DENIED RETRY ABORTED"
    for position, name in enumerate(names.split()):
        assert FfaError[name] == -1 - position


def test_hafniums_ids() -> None:
    names = (
        "MAILBOX_WRITABLE_GET MAILBOX_WAITER_GET INTERRUPT_ENABLE INTERRUPT_GET INTERRUPT_INJECT"
    )
    for position, name in enumerate(names.split()):
        assert HfId[name] == 0xFF01 + position
    assert HfId["DEBUG_LOG"] == 0xBD00_0000


def test_psci_ids_and_codes() -> None:
    names = [
        "VERSION",
        "CPU_SUSPEND",
        "CPU_OFF",
        "CPU_ON",
        "AFFINITY_INFO",
        "MIGRATE",
        "MIGRATE_INFO_TYPE",
        "MIGRATE_INFO_UP_CPU",
        "SYSTEM_OFF",
        "SYSTEM_RESET",
        "FEATURES",
        "CPU_FREEZE",
        "CPU_DEFAULT_SUSPEND",
        "NODE_HW_STATE",
        "SYSTEM_SUSPEND",
        "SET_SUSPEND_MODE",
        "STAT_RESIDENCY",
        "STAT_COUNT",
        "SYSTEM_RESET2",
        "MEM_PROTECT",
        "MEM_PROTECT_CHECK_RANGE",
    ]
    assert [PsciId[name] for name in names] == [0x8400_0000 + i for i in range(0x15)]
    codes = ["SUCCESS", "NOT_SUPPORTED", "INVALID_PARAMETERS", "DENIED", "ALREADY_ON"]
    assert [PsciError[name] for name in codes] == [0, -1, -2, -3, -4]


def test_constants() -> None:
    assert ffa.CONVENTION_64 == 0x4000_0000
    assert ffa.SMCCC_UNKNOWN == (1 << 64) - 1
    assert ffa.MAILBOX_SIZE == 4096
    assert ffa.INVALID_INTID == 0xFFFF_FFFF
    assert ffa.INTERRUPT_IDS == 64
    assert (ffa.HYPERVISOR_ID, ffa.PRIMARY_ID, ffa.FIRST_SECONDARY_ID) == (0, 1, 2)
    assert (ffa.OTHER_WORLD_ID, ffa.PRIMARY_VCPUS) == (0x8000, 8)
    assert (ffa.VERSION_1_0, ffa.PSCI_VERSION_1_1) == (0x1_0000, 0x1_0001)
    assert ffa.PARTITION_INDIRECT_MSG == 4
    assert [*Intid] == [1, 2, 3]
