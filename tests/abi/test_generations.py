"""What is said of a function that a dialect lacks: its names, and the generations that have it."""

from __future__ import annotations

import pytest

from hfsched.abi.ffa import CONVENTION_64
from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.abi.generations import _names, unknown_function

CLASSIC = "classic (Hafnium early 2019)"
ALPHA2 = "spci-alpha2 (Hafnium mid-2019)"
BETA = "spci-beta (Hafnium end of 2019)"
FFA_1_2 = "ffa-1.2 (Hafnium v2.11 to v2.13)"
OLD = f"{CLASSIC}, {ALPHA2}"
NEW = f"ffa-1.1 (Hafnium v2.6 to v2.10), {FFA_1_2}"


@pytest.mark.parametrize(
    ("x0", "smc", "why"),
    [
        (0xC400_008A, False, f"FFA_CONSOLE_LOG, 64-bit, in {NEW}"),
        (0x8400_008A, True, f"FFA_CONSOLE_LOG in {NEW}"),
        (0xC400_008D, False, f"FFA_MSG_SEND_DIRECT_REQ2, 64-bit, in {FFA_1_2}"),
        (0x8400_0086, False, f"FFA_MSG_SEND2 in {NEW}"),
        (0xFF07, False, f"HF_MAILBOX_RECEIVE in {CLASSIC}; HF_INTERRUPT_INJECT in {BETA}"),
        (0xFF06, False, f"HF_MAILBOX_SEND in {CLASSIC}; HF_INTERRUPT_GET in {BETA}"),
        (0xFF00, False, f"HF_VM_GET_ID in {OLD}"),
        (0xFF0E, False, f"HF_SHARE_MEMORY in {OLD}"),
        (0x8400_0060, False, f"SPCI_VERSION in {ALPHA2}"),
        (0x8400_0062, False, f"SPCI_MSG_RECV in {ALPHA2}; FFA_INTERRUPT in {NEW}"),
        (0x8400_0061, False, "FFA_SUCCESS in no generation"),
        (0x8400_0090, False, "FFA_ABORT in no generation"),
        (0x8000_0000, False, "SMCCC_VERSION in no generation"),
        (0x8600_FF01, False, "in no generation; the vendor hypervisor's range"),
        (0xB200_0001, True, "in no generation; a trusted OS's range"),
        (0x8400_0015, False, "in no generation; standard secure services' range"),
        (0x0000_1234, False, "in no generation"),
        (1 << 63 | 0x1234, False, "in no generation"),
        # Known, but not like this.
        (0xFF04, True, "HF_INTERRUPT_GET, not by SMC"),
        (0xFD00_0000, False, "HF_DEBUG_LOG, not by HVC"),
        (0x1_0000_FF04, False, "HF_INTERRUPT_GET is 0xff04, in all 64 bits of x0"),
    ],
)
def test_an_unknown_function_in_words(x0: int, smc: bool, why: str) -> None:
    assert unknown_function(FFA_1_0, x0, smc=smc) == (
        f"unknown function {x0:#x}: {why}; this VM speaks ffa-1.0"
    )


def test_ffa_1_0_is_in_the_table_as_it_is() -> None:
    calls = {
        number: call.name
        for number, call in FFA_1_0.calls.items()
        if number & 0xFF00_0000 != 0x8400_0000 or number & 0xFF >= 0x60
        if not number & CONVENTION_64 or call.exact
        if call.hvc
    }
    known = {
        number: name
        for number, names in _names().items()
        for name, generations in names.items()
        if "ffa-1.0" in generations
    }
    # Served here though f0701679c0 has it not: in later generations' rows.
    assert calls.pop(0x8400_0067) == "FFA_RXTX_UNMAP"
    assert known == {number: name for number, name in calls.items() if number >> 30 != 3}


def test_a_generation_has_one_name_for_an_id() -> None:
    for number, names in _names().items():
        every = [generation for generations in names.values() for generation in generations]
        assert len(every) == len({*every}), hex(number)
