"""System registers and operations by name: what an abort says of the instruction."""

from __future__ import annotations

import re

import a64
import pytest

from hfsched.vcpu.arm64_names import instruction_text
from hfsched.vcpu.registers import ARM64_SYSTEM

XZR = 31


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0xD510_0240, "MSR MDSCR_EL1, X0"),
        (0xD530_0241, "MRS X1, MDSCR_EL1"),
        (0xD538_0000, "MRS X0, MIDR_EL1"),
        (0xD518_105F, "MSR CPACR_EL1, XZR"),
        (0xD51B_E320, "MSR CNTV_CTL_EL0, X0"),
        (0xD53B_E023, "MRS X3, CNTPCT_EL0"),
        (0xD510_00BE, "MSR DBGBCR0_EL1, X30"),
        (0xD510_0FC4, "MSR DBGWVR15_EL1, X4"),
        (0xD53B_EBC2, "MRS X2, PMEVCNTR30_EL0"),
        (0xD51B_9C00, "MSR PMCR_EL0, X0"),
        (0xD538_CCA0, "MRS X0, ICC_SRE_EL1"),
        (0xD51C_1100, "MSR HCR_EL2, X0"),
        (0xD533_0500, "MRS X0, DBGDTRRX_EL0"),
        (0xD513_0500, "MSR DBGDTRTX_EL0, X0"),
        (0xD538_1020, "MRS X0, ACTLR_EL1"),
        (0xD518_1001, "MSR SCTLR_EL1, X1"),
        # System instructions.
        (0xD508_7640, "DC ISW, X0"),
        (0xD508_7A40, "DC CSW, X0"),
        (0xD50B_7421, "DC ZVA, X1"),
        (0xD508_751F, "IC IALLU"),
        (0xD50B_7520, "IC IVAU, X0"),
        (0xD508_7800, "AT S1E1R, X0"),
        (0xD508_871F, "TLBI VMALLE1"),
        (0xD508_8325, "TLBI VAE1IS, X5"),
        (0xD508_971F, "TLBI VMALLE1NXS"),
        (0xD50C_871F, "TLBI ALLE2"),
        # PSTATE.
        (0xD500_4DFF, None),  # CRn 4 with op2 7 and op1 0: no field
        (0xD503_4FDF, "MSR DAIFSET, #15"),
        (0xD500_419F, "MSR PAN, #1"),
        # What has no name.
        (0xD538_1F00, "MRS X0, S3_0_C1_C15_0"),
        (0xD518_B021, "MSR S3_0_C11_C0_1, X1"),
        (0xD50B_F124, "SYS #3, C15, C1, #1, X4"),
        (0xD52B_F124, "SYSL X4, #3, C15, C1, #1"),
        # What is no such instruction.
        (0xD503_201F, None),  # NOP
        (0xD400_0002, None),  # HVC
        (0x0000_0000, None),
        (0xF940_0022, None),
    ],
)
def test_an_instruction_in_words(word: int, text: str | None) -> None:
    assert instruction_text(word) == f"{word:#010x}" + ("" if text is None else f" ({text})")


@pytest.mark.parametrize("name", ARM64_SYSTEM)
def test_the_registers_of_every_engine_have_their_names(name: str) -> None:
    word = a64.mrs(7, a64.sysreg(*ARM64_SYSTEM[name]))
    assert instruction_text(word) == f"{word:#010x} (MRS X7, {name.upper()})"


def test_no_name_means_two_encodings() -> None:
    texts = [
        instruction_text(0xD500_0000 | encoding << 5 | XZR) for encoding in range(1 << 14, 1 << 16)
    ]
    names = [found[1] for text in texts if (found := re.search(r"\((?:MSR )?(.*?)[,)]", text))]
    named = [name for name in names if not re.match(r"S\d_|SYS|X", name)]
    assert len(named) > 600
    assert len({*named}) == len(named)
