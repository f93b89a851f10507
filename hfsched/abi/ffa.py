"""Function ids, error codes and constants of FF-A 1.0, PSCI 1.1 and Hafnium's own calls.

Sources: Arm DEN0077A (FF-A), DEN0022 (PSCI), DEN0028 (SMCCC); TF-Hafnium/hafnium f0701679c0 for
what begins with HF.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "CONVENTION_64",
    "INVALID_INTID",
    "MAILBOX_SIZE",
    "SMCCC_UNKNOWN",
    "FfaError",
    "FfaId",
    "HfId",
    "Intid",
    "PsciError",
    "PsciId",
]

CONVENTION_64 = 1 << 30  # bit 30 of a function id: the SMC64/HVC64 convention
SMCCC_UNKNOWN = 0xFFFF_FFFF_FFFF_FFFF  # x0 after an unknown call
MAILBOX_SIZE = 4096  # bytes of RX and of TX
INVALID_INTID = 0xFFFF_FFFF
INTERRUPT_IDS = 64  # interrupt ids a vCPU
HYPERVISOR_ID = 0
PRIMARY_ID = 1
PRIMARY_VCPUS = 8  # what PARTITION_INFO_GET says of it: as many as Hafnium's CPUs at most
FIRST_SECONDARY_ID = 2
OTHER_WORLD_ID = 0x8000  # the secure world's, which no VM has
VERSION_1_0 = 0x1_0000
PSCI_VERSION_1_1 = 0x1_0001
PARTITION_INDIRECT_MSG = 1 << 2  # a partition's property: messages through the mailbox


class FfaId(IntEnum):
    """FF-A function ids, 32-bit convention."""

    ERROR = 0x84000060
    SUCCESS = 0x84000061
    INTERRUPT = 0x84000062
    VERSION = 0x84000063
    FEATURES = 0x84000064
    RX_RELEASE = 0x84000065
    RXTX_MAP = 0x84000066
    RXTX_UNMAP = 0x84000067
    PARTITION_INFO_GET = 0x84000068
    ID_GET = 0x84000069
    MSG_POLL = 0x8400006A
    MSG_WAIT = 0x8400006B
    YIELD = 0x8400006C
    RUN = 0x8400006D
    MSG_SEND = 0x8400006E
    MSG_SEND_DIRECT_REQ = 0x8400006F
    MSG_SEND_DIRECT_RESP = 0x84000070
    MEM_DONATE = 0x84000071
    MEM_LEND = 0x84000072
    MEM_SHARE = 0x84000073
    MEM_RETRIEVE_REQ = 0x84000074
    MEM_RETRIEVE_RESP = 0x84000075
    MEM_RELINQUISH = 0x84000076
    MEM_RECLAIM = 0x84000077
    MEM_FRAG_RX = 0x8400007A
    MEM_FRAG_TX = 0x8400007B


class FfaError(IntEnum):
    """The codes in w2 of FFA_ERROR."""

    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    NO_MEMORY = -3
    BUSY = -4
    INTERRUPTED = -5
    DENIED = -6
    RETRY = -7
    ABORTED = -8


class HfId(IntEnum):
    """Hafnium's own calls (HVC alone, but for the debug log)."""

    MAILBOX_WRITABLE_GET = 0xFF01
    MAILBOX_WAITER_GET = 0xFF02
    INTERRUPT_ENABLE = 0xFF03
    INTERRUPT_GET = 0xFF04
    INTERRUPT_INJECT = 0xFF05
    DEBUG_LOG = 0xBD000000


class PsciId(IntEnum):
    """PSCI 1.1 function ids, 32-bit convention."""

    VERSION = 0x84000000
    CPU_SUSPEND = 0x84000001
    CPU_OFF = 0x84000002
    CPU_ON = 0x84000003
    AFFINITY_INFO = 0x84000004
    MIGRATE = 0x84000005
    MIGRATE_INFO_TYPE = 0x84000006
    MIGRATE_INFO_UP_CPU = 0x84000007
    SYSTEM_OFF = 0x84000008
    SYSTEM_RESET = 0x84000009
    FEATURES = 0x8400000A
    CPU_FREEZE = 0x8400000B
    CPU_DEFAULT_SUSPEND = 0x8400000C
    NODE_HW_STATE = 0x8400000D
    SYSTEM_SUSPEND = 0x8400000E
    SET_SUSPEND_MODE = 0x8400000F
    STAT_RESIDENCY = 0x84000010
    STAT_COUNT = 0x84000011
    SYSTEM_RESET2 = 0x84000012
    MEM_PROTECT = 0x84000013
    MEM_PROTECT_CHECK_RANGE = 0x84000014


class PsciError(IntEnum):
    """PSCI return codes."""

    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    DENIED = -3
    ALREADY_ON = -4


class Intid(IntEnum):
    """Interrupt ids that the hypervisor raises by itself."""

    MAILBOX_READABLE = 1
    MAILBOX_WRITABLE = 2
    VIRTUAL_TIMER = 3
