"""Scenarios of arm64 processors: registers at the start, what traps, what aborts say."""

from __future__ import annotations

from fidelity_words import MAP, map_mailbox, run, scenario
from probescript import PRIMARY, RX, SIZE, SPARE, TX, Kind, Scenario, base_of

from hfsched.abi.ffa import HfId, PsciId

_BASE = base_of(2)
_READ, _WRITE, _SYSTEM = 0xD530_0000, 0xD510_0000, 0xD508_0000

# {name: op0, op1, CRn, CRm, op2}, as the Arm architecture has them.
REGISTERS = {
    "MIDR_EL1": (3, 0, 0, 0, 0), "MPIDR_EL1": (3, 0, 0, 0, 5), "REVIDR_EL1": (3, 0, 0, 0, 6),
    "AIDR_EL1": (3, 1, 0, 0, 7), "CLIDR_EL1": (3, 1, 0, 0, 1), "CCSIDR_EL1": (3, 1, 0, 0, 0),
    "CTR_EL0": (3, 3, 0, 0, 1), "DCZID_EL0": (3, 3, 0, 0, 7),
    "ID_PFR0_EL1": (3, 0, 0, 1, 0), "ID_DFR0_EL1": (3, 0, 0, 1, 2), "ID_ISAR0_EL1": (3, 0, 0, 2, 0),
    "MVFR0_EL1": (3, 0, 0, 3, 0), "ID 0,3,3": (3, 0, 0, 3, 3), "ID 0,3,7": (3, 0, 0, 3, 7),
    "ID_AA64PFR0_EL1": (3, 0, 0, 4, 0), "ID_AA64PFR1_EL1": (3, 0, 0, 4, 1),
    "ID_AA64ZFR0_EL1": (3, 0, 0, 4, 4), "ID_AA64DFR0_EL1": (3, 0, 0, 5, 0),
    "ID_AA64DFR1_EL1": (3, 0, 0, 5, 1), "ID_AA64AFR0_EL1": (3, 0, 0, 5, 4),
    "ID_AA64ISAR0_EL1": (3, 0, 0, 6, 0), "ID_AA64ISAR1_EL1": (3, 0, 0, 6, 1),
    "ID_AA64MMFR0_EL1": (3, 0, 0, 7, 0), "ID_AA64MMFR1_EL1": (3, 0, 0, 7, 1),
    "ID_AA64MMFR2_EL1": (3, 0, 0, 7, 2), "ID 0,7,7": (3, 0, 0, 7, 7),
    "CurrentEL": (3, 0, 4, 2, 2), "DAIF": (3, 3, 4, 2, 1), "SPSel": (3, 0, 4, 2, 0),
    "ACTLR_EL1": (3, 0, 1, 0, 1), "CPACR_EL1": (3, 0, 1, 0, 2),
    "AFSR0_EL1": (3, 0, 5, 1, 0), "AFSR1_EL1": (3, 0, 5, 1, 1), "AMAIR_EL1": (3, 0, 10, 3, 0),
    "CONTEXTIDR_EL1": (3, 0, 13, 0, 1), "TPIDR_EL0": (3, 3, 13, 0, 2), "TPIDR_EL1": (3, 0, 13, 0, 4),
    "TPIDRRO_EL0": (3, 3, 13, 0, 3), "CSSELR_EL1": (3, 2, 0, 0, 0), "ISR_EL1": (3, 0, 12, 1, 0),
    "RVBAR_EL1": (3, 0, 12, 0, 1), "RMR_EL1": (3, 0, 12, 0, 2),
    "FPCR": (3, 3, 4, 4, 0), "FPSR": (3, 3, 4, 4, 1),
    "CNTFRQ_EL0": (3, 3, 14, 0, 0), "CNTPCT_EL0": (3, 3, 14, 0, 1), "CNTKCTL_EL1": (3, 0, 14, 1, 0),
    "CNTP_TVAL_EL0": (3, 3, 14, 2, 0), "CNTP_CTL_EL0": (3, 3, 14, 2, 1),
    "CNTP_CVAL_EL0": (3, 3, 14, 2, 2), "CNTV_CTL_EL0": (3, 3, 14, 3, 1),
    "CNTPS_CTL_EL1": (3, 7, 14, 2, 1),
    "LORC_EL1": (3, 0, 10, 4, 3), "LORSA_EL1": (3, 0, 10, 4, 0), "LORID_EL1": (3, 0, 10, 4, 7),
    "MDSCR_EL1": (2, 0, 0, 2, 2), "MDCCINT_EL1": (2, 0, 0, 2, 0), "OSLSR_EL1": (2, 0, 1, 1, 4),
    "OSLAR_EL1": (2, 0, 1, 0, 4), "OSDLR_EL1": (2, 0, 1, 3, 4), "DBGPRCR_EL1": (2, 0, 1, 4, 4),
    "MDCCSR_EL0": (2, 3, 0, 1, 0), "MDRAR_EL1": (2, 0, 1, 0, 0), "DBGBVR0_EL1": (2, 0, 0, 0, 4),
    "DBGBCR0_EL1": (2, 0, 0, 0, 5), "DBGWVR0_EL1": (2, 0, 0, 0, 6), "DBGWCR0_EL1": (2, 0, 0, 0, 7),
    "DBGAUTHSTATUS_EL1": (2, 0, 7, 14, 6), "DBGCLAIMSET_EL1": (2, 0, 7, 8, 6),
    "OSDTRRX_EL1": (2, 0, 0, 0, 2), "TRCOSLSR": (2, 1, 1, 1, 4),
    "PMCR_EL0": (3, 3, 9, 12, 0), "PMCNTENSET_EL0": (3, 3, 9, 12, 1), "PMCEID0_EL0": (3, 3, 9, 12, 6),
    "PMCCNTR_EL0": (3, 3, 9, 13, 0), "PMUSERENR_EL0": (3, 3, 9, 14, 0),
    "PMINTENSET_EL1": (3, 0, 9, 14, 1), "PMEVCNTR0_EL0": (3, 3, 14, 8, 0),
    "PMCCFILTR_EL0": (3, 3, 14, 15, 7), "PMSIDR_EL1": (3, 0, 9, 9, 7),
    "ICC_SRE_EL1": (3, 0, 12, 12, 5), "ICC_CTLR_EL1": (3, 0, 12, 12, 4),
    "ICC_IAR1_EL1": (3, 0, 12, 12, 0), "ICC_PMR_EL1": (3, 0, 4, 6, 0),
    "ICC_IGRPEN1_EL1": (3, 0, 12, 12, 7), "ICC_HPPIR1_EL1": (3, 0, 12, 12, 2),
    "ICC_BPR1_EL1": (3, 0, 12, 12, 3), "ICC_RPR_EL1": (3, 0, 12, 11, 3),
    "ICC_IAR0_EL1": (3, 0, 12, 8, 0), "ICC_IGRPEN0_EL1": (3, 0, 12, 12, 6),
    "HCR_EL2": (3, 4, 1, 1, 0), "SCTLR_EL2": (3, 4, 1, 0, 0), "VBAR_EL2": (3, 4, 12, 0, 0),
    "SCR_EL3": (3, 6, 1, 1, 0), "SP_EL1": (3, 4, 4, 1, 0), "SCTLR_EL12": (3, 5, 1, 0, 0),
    "ZCR_EL1": (3, 0, 1, 2, 0), "APIAKEYLO_EL1": (3, 0, 2, 1, 0), "SSBS": (3, 3, 4, 2, 6),
    "PAN": (3, 0, 4, 2, 3), "UAO": (3, 0, 4, 2, 4), "DIT": (3, 3, 4, 2, 5), "RNDR": (3, 3, 2, 4, 0),
    "ERRIDR_EL1": (3, 0, 5, 3, 0), "DISR_EL1": (3, 0, 12, 1, 1), "SCXTNUM_EL1": (3, 0, 13, 0, 7),
    "IMPLEMENTATION 11,0,0": (3, 1, 11, 0, 0),
    "CPUACTLR_EL1": (3, 1, 15, 2, 0), "L2CTLR_EL1": (3, 1, 11, 0, 2), "CBAR_EL1": (3, 1, 15, 3, 0),
}  # fmt: skip

# Written with what they had, or 0; none of these changes how the guest runs.
WRITTEN = (
    "ACTLR_EL1", "AFSR0_EL1", "AFSR1_EL1", "AMAIR_EL1", "CONTEXTIDR_EL1", "TPIDR_EL1", "MIDR_EL1",
    "MPIDR_EL1", "ID_AA64PFR0_EL1", "CNTP_CTL_EL0", "CNTP_TVAL_EL0", "CNTPCT_EL0", "CNTFRQ_EL0",
    "LORC_EL1", "MDSCR_EL1", "OSLAR_EL1", "OSDLR_EL1", "DBGBVR0_EL1", "DBGBCR0_EL1", "PMCR_EL0",
    "PMUSERENR_EL0", "PMCCFILTR_EL0", "ICC_SRE_EL1", "ICC_CTLR_EL1", "ICC_PMR_EL1",
    "ICC_IGRPEN1_EL1", "CSSELR_EL1", "HCR_EL2", "CPUACTLR_EL1", "L2CTLR_EL1", "CNTKCTL_EL1",
    "ICC_SGI1R_EL1", "ICC_EOIR1_EL1", "PMSWINC_EL0", "MDCCINT_EL1", "ICC_DIR_EL1",
)  # fmt: skip
WRITE_ONLY = {
    "ICC_SGI1R_EL1": (3, 0, 12, 11, 5),
    "ICC_EOIR1_EL1": (3, 0, 12, 12, 1),
    "PMSWINC_EL0": (3, 3, 9, 12, 4),
    "ICC_DIR_EL1": (3, 0, 12, 11, 1),
}

# {name: {encoding, x0}}; x0 is an address where one is wanted.
INSTRUCTIONS = {
    "NOP": (0xD503_201F, 5), "SEV": (0xD503_209F, 5), "SEVL": (0xD503_20BF, 5),
    "DC ISW": (_SYSTEM | 0x7640, 0), "DC CSW": (_SYSTEM | 0x7A40, 0), "DC CISW": (_SYSTEM | 0x7E40, 0),
    "DC IVAC": (_SYSTEM | 0x7620, _BASE + SPARE), "DC CVAC": (_SYSTEM | 0x3_7A20, _BASE + SPARE),
    "DC CIVAC": (_SYSTEM | 0x3_7E20, _BASE + SPARE), "DC ZVA": (_SYSTEM | 0x3_7420, _BASE + SPARE),
    "IC IALLU": (_SYSTEM | 0x751F, 0), "IC IALLUIS": (_SYSTEM | 0x711F, 0),
    "TLBI VMALLE1": (_SYSTEM | 0x871F, 0), "TLBI VMALLE1IS": (_SYSTEM | 0x831F, 0),
    "TLBI ALLE2": (_SYSTEM | 0x4_871F, 0), "TLBI IPAS2E1": (_SYSTEM | 0x4_8420, 0),
    "AT S1E1R": (_SYSTEM | 0x7800, _BASE), "AT S12E1R": (_SYSTEM | 0x4_7880, _BASE),
    "AT S1E2R": (_SYSTEM | 0x4_7800, _BASE),
    "SVC 0": (0xD400_0001, 0), "SVC 0xffff": (0xD41F_FFE1, 0), "BRK 0": (0xD420_0000, 0),
    "BRK 0xffff": (0xD43F_FFE0, 0), "HLT 0": (0xD440_0000, 0), "UDF 0": (0, 0), "UDF 0xffff": (0xFFFF, 0),
    "DCPS1": (0xD4A0_0001, 0), "DCPS2": (0xD4A0_0002, 0), "DCPS3": (0xD4A0_0003, 0), "DRPS": (0xD6BF_03E0, 0),
    "FMOV x0, d0": (0x9E66_0000, 0), "MRS x0, S0": (0xD538_0000, 0), "PACIASP": (0xD503_233F, 9),
    "LDAR": (0xC8DF_FC00, _BASE + SPARE), "LDADD": (0xF820_0000, _BASE + SPARE),
    "CRC32X": (0x9AC0_4C00, 5), "ESB": (0xD503_221F, 5), "PSB CSYNC": (0xD503_223F, 5),
    "SB": (0xD503_30FF, 5), "SVE cntb": (0x0420_E3E0, 5), "LDRAA": (0xF820_0400, _BASE + SPARE),
}  # fmt: skip

# {name: {encoding}}: loads and stores of [x0], by an address that is not the VM's.
ACCESSES = {
    "LDR w0": 0xB940_0000, "LDR x0": 0xF940_0000, "LDRB w0": 0x3940_0000, "LDRH w0": 0x7940_0000,
    "LDRSW x0": 0xB980_0000, "LDRSB w0": 0x39C0_0000, "LDP x0, x2": 0xA940_0800, "LDR x0, +8": 0xF840_8400,
    "LDXR x0": 0xC85F_7C00, "LDAR x0": 0xC8DF_FC00, "LDUR x0, -1": 0xF85F_F000,
    "STR w0": 0xB900_0000, "STR x0": 0xF900_0000, "STRB w0": 0x3900_0000, "STP x0, x2": 0xA900_0800,
    "STXR w2, x0": 0xC802_7C00, "STLR x0": 0xC89F_FC00, "DC CIVAC": _SYSTEM | 0x3_7E20,
    "DC ZVA": _SYSTEM | 0x3_7420, "IC IVAU": _SYSTEM | 0x3_7520, "PRFM": 0xF980_0000,
}  # fmt: skip


def encoding(fields: tuple[int, int, int, int, int], *, write: bool = False) -> int:
    """Return the MRS or MSR of a register, with x0."""
    op0, op1, crn, crm, op2 = fields
    return (
        (_WRITE if write else _READ) | (op0 - 2) << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5
    )


def at_the_start() -> Scenario:
    s = scenario("registers at the start", (2,))
    for index in range(0, 64, 8):
        s.row(2, Kind.ENTRY, index)
    return s


def registers() -> Scenario:
    s = scenario("registers read", (2,))
    for fields in REGISTERS.values():
        s.row(2, Kind.INSTRUCTION, encoding(fields), 0x55)
    s.row(2, Kind.START, 1)
    run(s)
    run(s, vcpu=1)
    for name in ("MPIDR_EL1", "CurrentEL", "DAIF", "ACTLR_EL1", "TPIDR_EL1", "CONTEXTIDR_EL1"):
        s.row((2, 1), Kind.INSTRUCTION, encoding(REGISTERS[name]), 0x55)
    return s


def written_registers() -> Scenario:
    s = scenario("registers written")
    for name in WRITTEN:
        fields = (REGISTERS | WRITE_ONLY)[name]
        s.row(2, Kind.INSTRUCTION, encoding(fields, write=True), 0)
        if name in REGISTERS and name != "CNTPCT_EL0":
            s.row(2, Kind.INSTRUCTION, encoding(fields), 0x55)
    return s


def instructions() -> Scenario:
    s = scenario("instructions")
    for instruction, value in INSTRUCTIONS.values():
        s.row(2, Kind.INSTRUCTION, instruction, value)
    return s


def exceptions() -> Scenario:
    """What SPSR_EL1 has after each kind of exception, by whom ever it was taken."""
    s = scenario("exceptions")
    status = encoding((3, 0, 4, 0, 0))
    causes = [INSTRUCTIONS[name][0] for name in ("SVC 0", "BRK 0", "UDF 0", "DC ISW", "HLT 0")]
    causes += [
        encoding(REGISTERS[name]) for name in ("ACTLR_EL1", "PMCR_EL0", "ICC_CTLR_EL1", "SCTLR_EL2")
    ]
    causes += [ACCESSES["LDR x0"], ACCESSES["STR x0"]]
    for cause in causes:
        s.row(2, Kind.INSTRUCTION, cause, 0x2000_0000)
        s.row(2, Kind.INSTRUCTION, status)
    s.row(2, Kind.EXECUTE, 0x2000_0000)
    s.row(2, Kind.INSTRUCTION, status)
    return s


def calls_with_immediates() -> Scenario:
    """HVC and SMC with an immediate that is not 0."""
    s = scenario("immediates of calls")
    for instruction in (0xD400_0002, 0xD400_0003):
        for immediate in (0, 1, 0x7FFF, 0xFFFF):
            for function in (PsciId.VERSION, HfId.INTERRUPT_GET, 0xFF7F):
                s.row(2, Kind.INSTRUCTION, instruction | immediate << 5, function)
    return s


def aborts() -> Scenario:
    """Accesses to what the VM does not have, or not so."""
    s = scenario("aborts")
    s.hvc(2, MAP, _BASE + TX, _BASE + RX, 1)
    outside = (0, 0x1000, 0x0800_0000, 0x4000_0000, base_of(PRIMARY), _BASE - 4, _BASE + SIZE)
    for address in (*outside, 0x8000_0000, 0x1_0000_0000, (1 << 39) - 4):
        s.row(2, Kind.LOAD, address)
        s.row(2, Kind.STORE, address, 5)
        s.row(2, Kind.EXECUTE, address & ~3)
    s.row(2, Kind.LOAD, 1 << 39)  # past the guest's own tables
    s.row(2, Kind.EXECUTE, 1 << 39)
    for offset in (0, 4, 0xFFC):
        s.row(2, Kind.STORE, _BASE + RX + offset, 5)
    s.row(2, Kind.EXECUTE, _BASE + RX)
    s.row(2, Kind.EXECUTE, _BASE + TX)
    s.row(2, Kind.LOAD, _BASE + RX)
    s.row(2, Kind.STORE, _BASE + TX, 5, 2)
    s.row(2, Kind.LOAD, _BASE + TX)
    s.row(2, Kind.STORE, 0x0900_0000, 0x0A)  # the PL011
    return s


def kinds_of_access() -> Scenario:
    """How the syndrome tells them apart, at an address of nobody's and in RX."""
    s = scenario("kinds of access")
    map_mailbox(s, 2)
    for address in (0x2000_0000, _BASE + RX):
        for instruction in ACCESSES.values():
            s.row(2, Kind.INSTRUCTION, instruction, address)
    for instruction in (ACCESSES["LDR x0"], ACCESSES["STR x0"]):
        for address in (
            _BASE - 4,
            _BASE + SIZE - 4,
            _BASE + RX - 4,
            _BASE + RX + 0xFFC,
        ):  # half of it
            s.row(2, Kind.INSTRUCTION, instruction, address)
    return s


SCENARIOS = (
    at_the_start, registers, written_registers, instructions, exceptions, calls_with_immediates, aborts, kinds_of_access,
)  # fmt: skip
