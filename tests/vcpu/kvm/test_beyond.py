"""Which registers of arm64 KVM no other engine knows, in states that are made up here."""

from __future__ import annotations

import struct

from hfsched.vcpu.kvm.beyond import beyond

FIRST = {
    "MDSCR_EL1": 0,
    "PIR_EL1": 0x1DE7EC7EDBADC0DE,  # a pattern of the kernel
    "MPIDR_EL1": 1 << 31,
    "CNTP_CTL_EL0": 0,
    "CNTP_CVAL_EL0": 0,
    "CNTPCT_EL0": 5,
    "OSLSR_EL1": 8,
    "TTBR0_EL1": 0,
    "S3_0_C5_C9_7": 1,
}
KEYS = {
    "MDSCR_EL1": (2, 0, 0, 2, 2),
    "PIR_EL1": (3, 0, 10, 2, 3),
    "MPIDR_EL1": (3, 0, 0, 0, 5),
    "CNTP_CTL_EL0": (3, 3, 14, 2, 1),
    "CNTP_CVAL_EL0": (3, 3, 14, 2, 2),
    "CNTPCT_EL0": (3, 3, 14, 0, 1),
    "OSLSR_EL1": (2, 0, 1, 1, 4),
    "TTBR0_EL1": (3, 0, 2, 0, 0),
    "S3_0_C5_C9_7": (3, 0, 5, 9, 7),
}
CORE = 0x6030_0000_0010_0000  # x0


def number(name: str) -> int:
    op0, op1, crn, crm, op2 = KEYS[name]
    return 0x6030_0000_0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


def saved(**values: int) -> bytes:
    """Return what the C core saves: magic, count, {number, value}."""
    entries = [(CORE, 7)] + [(number(name), value) for name, value in (FIRST | values).items()]
    return struct.pack("<8sQ", b"hfs-ka1", len(entries)) + b"".join(
        struct.pack("<QQQ", *entry, 0) for entry in entries
    )


def found(**values: int) -> tuple[str, ...]:
    return beyond(saved(**values), {number(n): v.to_bytes(16, "little") for n, v in FIRST.items()})


def test_nothing_is_used_at_the_start_and_by_what_has_a_name_or_advances() -> None:
    assert found() == ()
    assert found(TTBR0_EL1=0x5000, MPIDR_EL1=1, CNTPCT_EL0=9, OSLSR_EL1=0xA, CNTP_CVAL_EL0=7) == ()


def test_what_was_written_is_named() -> None:
    assert found(MDSCR_EL1=1 << 12, PIR_EL1=1, S3_0_C5_C9_7=2) == (
        "MDSCR_EL1",
        "S3_0_C5_C9_7",
        "PIR_EL1",
    )


def test_the_other_timer_counts_while_it_is_on_and_0_is_no_use() -> None:
    assert found(CNTP_CTL_EL0=2) == ()
    assert found(CNTP_CTL_EL0=5) == ("CNTP_CTL_EL0",)
    assert found(PIR_EL1=0) == ()
