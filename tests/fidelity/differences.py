"""What differs from Hafnium, and why: each rule names rows, and each row that it names differs.

A rule holds on the engines in `targets`; `rows`, `hafnium` and `ours` are regular expressions for the
whole text of a row, of Hafnium's answer and of ours.  `docs/engines.md` has every reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fidelity_processor import INSTRUCTIONS, REGISTERS, WRITE_ONLY, encoding

if TYPE_CHECKING:
    from probescript import Scenario

UNICORN, KVM_ARM64, KVM_X86, SCRIPT = "unicorn aarch64", "kvm aarch64", "kvm x86_64", "script"
ALL = (UNICORN, KVM_ARM64, KVM_X86, SCRIPT)
ARM64 = (UNICORN, KVM_ARM64)


@dataclass(frozen=True)
class Difference:
    """Rows that differ, for one reason; `varies`: with the host's processor, so they may also be equal."""

    why: str
    scenario: str
    rows: str = ".*"
    hafnium: str = ".*"
    ours: str = ".*"
    targets: tuple[str, ...] = ALL
    varies: bool = False

    def concerns(self, target: str, scenario: Scenario) -> bool:
        """Whether it may name rows of a scenario."""
        return target in self.targets and re.fullmatch(self.scenario, scenario.name) is not None

    def names(self, row: str, recorded: str) -> bool:
        """Whether this row of such a scenario, and answer of Hafnium's, is said to differ."""
        return bool(re.fullmatch(self.rows, row) and re.fullmatch(self.hafnium, recorded))


KVM = (KVM_ARM64, KVM_X86)
_SHARING = "memory sharing.*"
_REGISTERS = "registers (read|written)"
_CALLS = "[0-9a-f. ]+ (hvc|smc) "


def _reads(*names: str) -> str:
    """Return what matches the rows that read these registers."""
    words = [f"{encoding(REGISTERS[name]):x}" for name in names]
    return f"2.[01] instruction ({'|'.join(words)}) 55"


def _writes(*names: str) -> str:
    words = [f"{encoding((REGISTERS | WRITE_ONLY)[name], write=True):x}" for name in names]
    return f"2.0 instruction ({'|'.join(words)})"


def _instructions(*names: str) -> str:
    words = [f"{INSTRUCTIONS[name][0]:x}" for name in names]
    return f"2.0 instruction ({'|'.join(words)})( [0-9a-f]+)?"


_NO_SHARING = "Memory sharing is refused as a whole: NOT_SUPPORTED, and FFA_FEATURES says so too."
_UNMAP = "FFA_RXTX_UNMAP is served; f0701679c0 does not know it."
_KERNELS_CALLS = "The kernel answers the Arm architecture's calls itself, and clears x1 to x3 of one that it has not."
_OTHER_CPU = "The processor is another than Hafnium's under QEMU, a Cortex-A57."
_OFF = "An injection into a vCPU that is off wakes none."
_STAYS_EXECUTABLE = "KVM's memory has no execute permission: RX and TX stay executable."
_EXTERNAL = "The kernel makes the abort, always an external one, and says no more of the access."
_KERNELS_TRAPS = (
    "The kernel emulates EL1's debug registers, the limited ordering regions, ACTLR_EL1, the physical"
    " counter and timer, and DC by set and way; nobody can tell it to refuse them."
)

DIFFERENCES: tuple[Difference, ...] = (
    Difference(_NO_SHARING, "features", "2.0 hvc 84000064 8400007[1-7]", ours="84000060 0 f{16}"),
    Difference(_NO_SHARING, _SHARING, _CALLS + "[8c]400007[1-7ab].*", ours="84000060 0 f{16}"),
    Difference(_NO_SHARING, _SHARING, "3.0 (load 7fe81000|hvc 84000065)"),
    Difference(_NO_SHARING, "memory sharing", "3.0 load 7ff82000", "0", "fault .*"),
    Difference(_NO_SHARING, "memory sharing", "2.0 load 7ff82000", "fault .*", "0"),
    Difference(_UNMAP, "unmap the mailbox", _CALLS + "[8c]4000067.*", ours="8400006(0 0 f{15}e|1)"),
    Difference(_UNMAP, "unmap the mailbox", "2.0 store 7ff81000 1 1", ours="7ff81000 kept"),
    Difference(_UNMAP, "unmap the mailbox", "2.0 hvc c4000066 .* 1 1", ours="84000061"),
    Difference(
        "CPU_SUSPEND with an interrupt pending returns at once.",
        "CPU_SUSPEND",
        "1.0 hvc 8400006d 20000 1",
        "ff06 20000",
    ),
    Difference(_OFF, "run|CPU_ON", "1.0 hvc ff05 2 [01] [59] f", "1 kept", "0 kept"),
    Difference(
        "The host's scheduler has no interrupts of its own to inject.",
        "run",
        "1.0 hvc ff05 1 0 1",
        "0 kept",
        "f{16} kept",
    ),
    Difference(
        "The host's scheduler is not told by which convention a direct request was answered.",
        "direct messages",
        "1.0 hvc 8400006f 10002 .*",
        "c4000070 .*",
        "84000070 .*",
    ),
    Difference(
        "Every VM has a PL011 at 0x09000000.", "aborts", "2.0 store 9000000 a", ours="9000000 kept"
    ),
    # Unicorn.
    Difference(
        _OTHER_CPU,
        _REGISTERS,
        _reads(
            "MIDR_EL1",
            "ID_DFR0_EL1",
            "ID_AA64PFR0_EL1",
            "ID_AA64PFR1_EL1",
            "ID_AA64ISAR0_EL1",
            "ID_AA64ISAR1_EL1",
            "ID_AA64MMFR1_EL1",
            "ID_AA64MMFR2_EL1",
            "ZCR_EL1",
            "APIAKEYLO_EL1",
            "PAN",
            "UAO",
            "RNDR",
            "CPUACTLR_EL1",
            "L2CTLR_EL1",
            "CBAR_EL1",
        ),
        targets=(UNICORN,),
    ),
    Difference(
        _OTHER_CPU, _REGISTERS, _writes("CPUACTLR_EL1", "L2CTLR_EL1"), targets=ARM64, varies=True
    ),
    Difference(_OTHER_CPU, "exceptions", "2.0 instruction d5384000", targets=ARM64, varies=True),
    Difference(_OTHER_CPU, "registers at the start", "2.0 entry 38", targets=ARM64, varies=True),
    Difference(
        _OTHER_CPU,
        "instructions",
        _instructions("MRS x0, S0", "LDADD", "SB", "LDRAA"),
        targets=(UNICORN,),
    ),
    Difference(
        "ICC_SRE_EL1 is an unknown register; Hafnium lets a VM read 7.",
        _REGISTERS,
        f"{_reads('ICC_SRE_EL1')}|{_writes('ICC_SRE_EL1')}",
        ours="fault 2000000",
        targets=(UNICORN,),
    ),
    Difference(
        "The emulator reports a register and its width with a load that writes its address back.",
        "kinds of access",
        "2.0 instruction f8408400 20000000",
        targets=(UNICORN,),
    ),
    # KVM.
    Difference(
        _KERNELS_CALLS,
        "unknown ids",
        _CALLS + "(8000|c000)(0002|1234|8000) .*",
        targets=(KVM_ARM64,),
    ),
    Difference(
        _KERNELS_CALLS, "calls of the architecture", _CALLS + "[8c]000.*", targets=(KVM_ARM64,)
    ),
    Difference(_KERNELS_CALLS, "ids of 64 bits", _CALLS + "8000ff0.*", targets=(KVM_ARM64,)),
    Difference(
        _STAYS_EXECUTABLE,
        "map the mailbox, 32 bits|aborts",
        "2.0 execute 7ff8[01]000",
        ours="fault 0|fault 2000000",
        targets=KVM,
    ),
    Difference(
        _EXTERNAL,
        "map the mailbox, 32 bits|unmap the mailbox|aborts|kinds of access|exceptions|memory sharing",
        "[23].0 (?!execute 7ff8|store 7ff81000 1 1).*",
        "fault (96....|860000)[04][567f].*",
        "fault (960000[15]0|86000010).*|9000000 kept|0",
        (KVM_ARM64,),
    ),
    Difference(
        _OTHER_CPU,
        _REGISTERS,
        _reads(
            "MIDR_EL1",
            "CLIDR_EL1",
            "CCSIDR_EL1",
            "CTR_EL0",
            "ID_PFR0_EL1",
            "ID_DFR0_EL1",
            "ID_AA64PFR0_EL1",
            "ID_AA64PFR1_EL1",
            "ID_AA64DFR0_EL1",
            "ID_AA64ISAR0_EL1",
            "ID_AA64ISAR1_EL1",
            "ID_AA64MMFR0_EL1",
            "ID_AA64MMFR1_EL1",
            "ID_AA64MMFR2_EL1",
            "SSBS",
            "ZCR_EL1",
            "RNDR",
            "DIT",
            "PAN",
            "UAO",
            "ERRIDR_EL1",
            "DISR_EL1",
            "CPUACTLR_EL1",
            "L2CTLR_EL1",
        ),
        targets=(KVM_ARM64,),
        varies=True,
    ),
    Difference(
        _OTHER_CPU,
        "instructions",
        _instructions("MRS x0, S0", "LDADD", "SB", "SVE cntb", "LDRAA"),
        targets=(KVM_ARM64,),
        varies=True,
    ),
    Difference(
        _KERNELS_TRAPS,
        _REGISTERS,
        _reads(
            "MDSCR_EL1",
            "MDCCINT_EL1",
            "OSLSR_EL1",
            "OSDLR_EL1",
            "MDCCSR_EL0",
            "MDRAR_EL1",
            "DBGBVR0_EL1",
            "DBGBCR0_EL1",
            "DBGWVR0_EL1",
            "DBGWCR0_EL1",
            "ACTLR_EL1",
            "CNTPCT_EL0",
            "CNTP_TVAL_EL0",
            "CNTP_CTL_EL0",
            "CNTP_CVAL_EL0",
        ),
        targets=(KVM_ARM64,),
    ),
    Difference(
        _KERNELS_TRAPS,
        _REGISTERS,
        _writes(
            "MDSCR_EL1",
            "MDCCINT_EL1",
            "OSLAR_EL1",
            "OSDLR_EL1",
            "DBGBVR0_EL1",
            "DBGBCR0_EL1",
            "ACTLR_EL1",
            "CNTP_CTL_EL0",
            "CNTP_TVAL_EL0",
        ),
        targets=(KVM_ARM64,),
    ),
    Difference(
        _KERNELS_TRAPS,
        _REGISTERS,
        f"{_reads('LORC_EL1', 'LORSA_EL1', 'LORID_EL1')}|{_writes('LORC_EL1')}",
        targets=(KVM_ARM64,),
        varies=True,
    ),
    Difference(
        "The kernel refuses an SMC with an immediate other than 0.",
        "immediates of calls",
        "2.0 instruction (d4000023|d40fffe3|d41fffe3) 84000000",
        ours="f{16}",
        targets=(KVM_ARM64,),
    ),
    Difference(
        _KERNELS_TRAPS,
        "exceptions",
        "2.0 instruction (d5087640|d5381020) 20000000",
        targets=(KVM_ARM64,),
    ),
    Difference(
        _KERNELS_TRAPS,
        "instructions",
        _instructions("DC ISW", "DC CSW", "DC CISW"),
        targets=(KVM_ARM64,),
    ),
)
