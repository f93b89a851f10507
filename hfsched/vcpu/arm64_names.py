"""What an arm64 MSR, MRS or system instruction names, for messages: pure.

Source: Arm ARM (DDI 0487) D17 "AArch64 System Register Encoding", C5 "The A64 System Instruction
Class".  All that EL0 and EL1 may name, and what a kernel written for EL2 begins with.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

__all__ = ["instruction_text", "register_name"]

# op0 op1 CRn CRm: the names of op2 = 0, 1, ...; "-": none; READ|WRITE where the two differ.
_REGISTERS = """
2 0 0 0: - - OSDTRRX_EL1
2 0 0 2: MDCCINT_EL1 - MDSCR_EL1
2 0 0 3: - - OSDTRTX_EL1
2 0 0 4: - - MDSELR_EL1
2 0 0 6: - - OSECCR_EL1
2 0 1 0: MDRAR_EL1 - - - OSLAR_EL1
2 0 1 1: - - - - OSLSR_EL1
2 0 1 3: - - - - OSDLR_EL1
2 0 1 4: - - - - DBGPRCR_EL1
2 0 7 8: - - - - - - DBGCLAIMSET_EL1
2 0 7 9: - - - - - - DBGCLAIMCLR_EL1
2 0 7 14: - - - - - - DBGAUTHSTATUS_EL1
2 1 0 0: - TRCTRACEIDR TRCVICTLR - - - TRCIDR8 TRCIMSPEC0
2 1 0 1: TRCPRGCTLR TRCQCTLR TRCVIIECTLR - - - TRCIDR9 TRCIMSPEC1
2 1 0 2: - TRCITEEDCR TRCVISSCTLR - - - TRCIDR10 TRCIMSPEC2
2 1 0 3: TRCSTATR - TRCVIPCSSCTLR - - - TRCIDR11 TRCIMSPEC3
2 1 0 4: TRCCONFIGR - - - - - TRCIDR12
2 1 0 5: - - - - - - TRCIDR13
2 1 0 6: TRCAUXCTLR - - - TRCSEQRSTEVR
2 1 0 7: - - - - TRCSEQSTR
2 1 0 8: TRCEVENTCTL0R - - - - - - TRCIDR0
2 1 0 9: TRCEVENTCTL1R - - - - - - TRCIDR1
2 1 0 10: TRCRSR - - - - - - TRCIDR2
2 1 0 11: TRCSTALLCTLR - - - - - - TRCIDR3
2 1 0 12: TRCTSCTLR - - - - - - TRCIDR4
2 1 0 13: TRCSYNCPR - - - - - - TRCIDR5
2 1 0 14: TRCCCCTLR - - - - - - TRCIDR6
2 1 0 15: TRCBBCTLR - - - - - - TRCIDR7
2 1 1 0: - - - - TRCOSLAR
2 1 1 1: - - - - TRCOSLSR
2 1 7 8: - - - - - - TRCCLAIMSET
2 1 7 9: - - - - - - TRCCLAIMCLR
2 1 7 14: - - - - - - TRCAUTHSTATUS
2 1 7 15: - - - - - - TRCDEVARCH
2 1 9 0: BRBCR_EL1 BRBFCR_EL1 BRBTS_EL1
2 1 9 1: BRBINFINJ_EL1 BRBSRCINJ_EL1 BRBTGTINJ_EL1
2 1 9 2: BRBIDR0_EL1
2 3 0 1: MDCCSR_EL0
2 3 0 4: DBGDTR_EL0
2 3 0 5: DBGDTRRX_EL0|DBGDTRTX_EL0
3 0 0 0: MIDR_EL1 - - - - MPIDR_EL1 REVIDR_EL1
3 0 0 1: ID_PFR0_EL1 ID_PFR1_EL1 ID_DFR0_EL1 ID_AFR0_EL1 ID_MMFR0_EL1 ID_MMFR1_EL1 ID_MMFR2_EL1 ID_MMFR3_EL1
3 0 0 2: ID_ISAR0_EL1 ID_ISAR1_EL1 ID_ISAR2_EL1 ID_ISAR3_EL1 ID_ISAR4_EL1 ID_ISAR5_EL1 ID_MMFR4_EL1 ID_ISAR6_EL1
3 0 0 3: MVFR0_EL1 MVFR1_EL1 MVFR2_EL1 - ID_PFR2_EL1 ID_DFR1_EL1 ID_MMFR5_EL1
3 0 0 4: ID_AA64PFR0_EL1 ID_AA64PFR1_EL1 ID_AA64PFR2_EL1 - ID_AA64ZFR0_EL1 ID_AA64SMFR0_EL1 - ID_AA64FPFR0_EL1
3 0 0 5: ID_AA64DFR0_EL1 ID_AA64DFR1_EL1 ID_AA64DFR2_EL1 - ID_AA64AFR0_EL1 ID_AA64AFR1_EL1
3 0 0 6: ID_AA64ISAR0_EL1 ID_AA64ISAR1_EL1 ID_AA64ISAR2_EL1 ID_AA64ISAR3_EL1
3 0 0 7: ID_AA64MMFR0_EL1 ID_AA64MMFR1_EL1 ID_AA64MMFR2_EL1 ID_AA64MMFR3_EL1 ID_AA64MMFR4_EL1
3 0 1 0: SCTLR_EL1 ACTLR_EL1 CPACR_EL1 SCTLR2_EL1 - RGSR_EL1 GCR_EL1
3 0 1 2: ZCR_EL1 TRFCR_EL1 - TRCITECR_EL1 SMPRI_EL1 - SMCR_EL1
3 0 2 0: TTBR0_EL1 TTBR1_EL1 TCR_EL1 TCR2_EL1
3 0 2 1: APIAKEYLO_EL1 APIAKEYHI_EL1 APIBKEYLO_EL1 APIBKEYHI_EL1
3 0 2 2: APDAKEYLO_EL1 APDAKEYHI_EL1 APDBKEYLO_EL1 APDBKEYHI_EL1
3 0 2 3: APGAKEYLO_EL1 APGAKEYHI_EL1
3 0 2 5: GCSCR_EL1 GCSPR_EL1 GCSCRE0_EL1
3 0 4 0: SPSR_EL1 ELR_EL1
3 0 4 1: SP_EL0
3 0 4 2: SPSEL - CURRENTEL PAN UAO
3 0 4 3: ALLINT PM
3 0 4 6: ICC_PMR_EL1
3 0 5 1: AFSR0_EL1 AFSR1_EL1
3 0 5 2: ESR_EL1
3 0 5 3: ERRIDR_EL1 ERRSELR_EL1 ERXGSR_EL1
3 0 5 4: ERXFR_EL1 ERXCTLR_EL1 ERXSTATUS_EL1 ERXADDR_EL1 ERXPFGF_EL1 ERXPFGCTL_EL1 ERXPFGCDN_EL1
3 0 5 5: ERXMISC0_EL1 ERXMISC1_EL1 ERXMISC2_EL1 ERXMISC3_EL1
3 0 5 6: TFSR_EL1 TFSRE0_EL1
3 0 6 0: FAR_EL1 - - - - PFAR_EL1
3 0 7 4: PAR_EL1
3 0 9 9: PMSCR_EL1 PMSNEVFR_EL1 PMSICR_EL1 PMSIRR_EL1 PMSFCR_EL1 PMSEVFR_EL1 PMSLATFR_EL1 PMSIDR_EL1
3 0 9 10: PMBLIMITR_EL1 PMBPTR_EL1 - PMBSR_EL1 - - - PMBIDR_EL1
3 0 9 11: TRBLIMITR_EL1 TRBPTR_EL1 TRBBASER_EL1 TRBSR_EL1 TRBMAR_EL1 - TRBTRG_EL1 TRBIDR_EL1
3 0 9 13: - - - PMSSCR_EL1
3 0 9 14: - PMINTENSET_EL1 PMINTENCLR_EL1 - PMUACR_EL1 PMECR_EL1 PMMIR_EL1 PMIAR_EL1
3 0 10 2: MAIR_EL1 MAIR2_EL1 PIRE0_EL1 PIR_EL1 POR_EL1 S2POR_EL1
3 0 10 3: AMAIR_EL1 AMAIR2_EL1
3 0 10 4: LORSA_EL1 LOREA_EL1 LORN_EL1 LORC_EL1 MPAMIDR_EL1 - - LORID_EL1
3 0 10 5: MPAM1_EL1 MPAM0_EL1 - MPAMSM_EL1
3 0 12 0: VBAR_EL1 RVBAR_EL1 RMR_EL1
3 0 12 1: ISR_EL1 DISR_EL1
3 0 12 8: ICC_IAR0_EL1 ICC_EOIR0_EL1 ICC_HPPIR0_EL1 ICC_BPR0_EL1 ICC_AP0R0_EL1 ICC_AP0R1_EL1 ICC_AP0R2_EL1 ICC_AP0R3_EL1
3 0 12 9: ICC_AP1R0_EL1 ICC_AP1R1_EL1 ICC_AP1R2_EL1 ICC_AP1R3_EL1 - ICC_NMIAR1_EL1
3 0 12 11: - ICC_DIR_EL1 - ICC_RPR_EL1 - ICC_SGI1R_EL1 ICC_ASGI1R_EL1 ICC_SGI0R_EL1
3 0 12 12: ICC_IAR1_EL1 ICC_EOIR1_EL1 ICC_HPPIR1_EL1 ICC_BPR1_EL1 ICC_CTLR_EL1 ICC_SRE_EL1 ICC_IGRPEN0_EL1 ICC_IGRPEN1_EL1
3 0 13 0: - CONTEXTIDR_EL1 - RCWSMASK_EL1 TPIDR_EL1 ACCDATA_EL1 RCWMASK_EL1 SCXTNUM_EL1
3 0 14 1: CNTKCTL_EL1
3 1 0 0: CCSIDR_EL1 CLIDR_EL1 CCSIDR2_EL1 - GMID_EL1 - SMIDR_EL1 AIDR_EL1
3 2 0 0: CSSELR_EL1
3 3 0 0: - CTR_EL0 - - - - - DCZID_EL0
3 3 2 4: RNDR RNDRRS
3 3 2 5: - GCSPR_EL0
3 3 4 2: NZCV DAIF SVCR - - DIT SSBS TCO
3 3 4 4: FPCR FPSR FPMR
3 3 4 5: DSPSR_EL0 DLR_EL0
3 3 9 12: PMCR_EL0 PMCNTENSET_EL0 PMCNTENCLR_EL0 PMOVSCLR_EL0 PMSWINC_EL0 PMSELR_EL0 PMCEID0_EL0 PMCEID1_EL0
3 3 9 13: PMCCNTR_EL0 PMXEVTYPER_EL0 PMXEVCNTR_EL0 - PMZR_EL0
3 3 9 14: PMUSERENR_EL0 - - PMOVSSET_EL0
3 3 10 2: - - - - POR_EL0
3 3 13 0: - - TPIDR_EL0 TPIDRRO_EL0 - TPIDR2_EL0 - SCXTNUM_EL0
3 3 13 2: AMCR_EL0 AMCFGR_EL0 AMCGCR_EL0 AMUSERENR_EL0 AMCNTENCLR0_EL0 AMCNTENSET0_EL0 AMCG1IDR_EL0
3 3 13 3: AMCNTENCLR1_EL0 AMCNTENSET1_EL0
3 3 14 0: CNTFRQ_EL0 CNTPCT_EL0 CNTVCT_EL0 - - CNTPCTSS_EL0 CNTVCTSS_EL0
3 3 14 2: CNTP_TVAL_EL0 CNTP_CTL_EL0 CNTP_CVAL_EL0
3 3 14 3: CNTV_TVAL_EL0 CNTV_CTL_EL0 CNTV_CVAL_EL0
3 3 14 15: - - - - - - - PMCCFILTR_EL0
3 4 0 0: VPIDR_EL2 - - - - VMPIDR_EL2
3 4 1 0: SCTLR_EL2 ACTLR_EL2
3 4 1 1: HCR_EL2 MDCR_EL2 CPTR_EL2 HSTR_EL2 HFGRTR_EL2 HFGWTR_EL2 HFGITR_EL2 HACR_EL2
3 4 1 2: ZCR_EL2 TRFCR_EL2 HCRX_EL2
3 4 2 0: TTBR0_EL2 TTBR1_EL2 TCR_EL2
3 4 2 1: VTTBR_EL2 - VTCR_EL2
3 4 4 0: SPSR_EL2 ELR_EL2
3 4 4 1: SP_EL1
3 4 5 1: AFSR0_EL2 AFSR1_EL2
3 4 5 2: ESR_EL2 - - VSESR_EL2
3 4 6 0: FAR_EL2 - - - HPFAR_EL2
3 4 10 2: MAIR_EL2
3 4 10 3: AMAIR_EL2
3 4 12 0: VBAR_EL2 RVBAR_EL2 RMR_EL2
3 4 12 9: - - - - - ICC_SRE_EL2
3 4 12 11: ICH_HCR_EL2 ICH_VTR_EL2 ICH_MISR_EL2 ICH_EISR_EL2 - ICH_ELRSR_EL2 - ICH_VMCR_EL2
3 4 13 0: - CONTEXTIDR_EL2 TPIDR_EL2
3 4 14 0: - - - CNTVOFF_EL2
3 4 14 1: CNTHCTL_EL2
3 4 14 2: CNTHP_TVAL_EL2 CNTHP_CTL_EL2 CNTHP_CVAL_EL2
3 4 14 3: CNTHV_TVAL_EL2 CNTHV_CTL_EL2 CNTHV_CVAL_EL2
3 6 1 0: SCTLR_EL3 ACTLR_EL3
3 6 1 1: SCR_EL3 - CPTR_EL3
3 6 4 0: SPSR_EL3 ELR_EL3
3 6 4 1: SP_EL2
3 6 12 0: VBAR_EL3
3 6 12 12: - - - - ICC_CTLR_EL3 ICC_SRE_EL3
"""

# The same for system instructions, whose op0 is 1.  Those of CRn 8 are TLBI's, which has each with the
# suffix NXS too (CRn 9).
_OPERATIONS = """
0 7 1: IC_IALLUIS
0 7 5: IC_IALLU
0 7 6: - DC_IVAC DC_ISW DC_IGVAC DC_IGSW DC_IGDVAC DC_IGDSW
0 7 8: AT_S1E1R AT_S1E1W AT_S1E0R AT_S1E0W
0 7 9: AT_S1E1RP AT_S1E1WP AT_S1E1A
0 7 10: - - DC_CSW - DC_CGSW - DC_CGDSW
0 7 14: - - DC_CISW - DC_CIGSW - DC_CIGDSW
1 7 2: - - - - BRB_IALL BRB_INJ
3 7 3: - - - - CFP_RCTX DVP_RCTX COSP_RCTX CPP_RCTX
3 7 4: - DC_ZVA - DC_GVA DC_GZVA
3 7 5: - IC_IVAU
3 7 10: - DC_CVAC - DC_CGVAC - DC_CGDVAC
3 7 11: - DC_CVAU
3 7 12: - DC_CVAP - DC_CGVAP - DC_CGDVAP
3 7 13: - DC_CVADP - DC_CGVADP - DC_CGDVADP
3 7 14: - DC_CIVAC - DC_CIGVAC - DC_CIGDVAC
4 7 8: AT_S1E2R AT_S1E2W - - AT_S12E1R AT_S12E1W AT_S12E0R AT_S12E0W
0 8 1: VMALLE1OS VAE1OS ASIDE1OS VAAE1OS - VALE1OS - VAALE1OS
0 8 2: - RVAE1IS - RVAAE1IS - RVALE1IS - RVAALE1IS
0 8 3: VMALLE1IS VAE1IS ASIDE1IS VAAE1IS - VALE1IS - VAALE1IS
0 8 5: - RVAE1OS - RVAAE1OS - RVALE1OS - RVAALE1OS
0 8 6: - RVAE1 - RVAAE1 - RVALE1 - RVAALE1
0 8 7: VMALLE1 VAE1 ASIDE1 VAAE1 - VALE1 - VAALE1
4 8 0: - IPAS2E1IS - - - IPAS2LE1IS
4 8 3: ALLE2IS VAE2IS - - ALLE1IS VALE2IS VMALLS12E1IS
4 8 4: IPAS2E1OS IPAS2E1 - - IPAS2LE1OS IPAS2LE1
4 8 7: ALLE2 VAE2 - - ALLE1 VALE2 VMALLS12E1
"""

# MSR (immediate): {(op1, op2): field of PSTATE}.
_FIELDS = {
    (0, 3): "UAO",
    (0, 4): "PAN",
    (0, 5): "SPSEL",
    (1, 0): "ALLINT",
    (3, 1): "SSBS",
    (3, 2): "DIT",
    (3, 3): "SVCR",
    (3, 4): "TCO",
    (3, 6): "DAIFSET",
    (3, 7): "DAIFCLR",
}

_Key = tuple[int, int, int, int, int]


def _rows(text: str) -> Iterator[tuple[_Key, str]]:
    for line in text.strip().splitlines():
        where, _, names = line.partition(": ")
        op0, op1, crn, crm = (int(each) for each in where.split())
        for op2, name in enumerate(names.split()):
            if name != "-":
                yield (op0, op1, crn, crm, op2), name


def _numbered() -> Iterator[tuple[_Key, str]]:
    """Yield the registers that come in numbers."""
    for n in range(16):
        for op2, kind in enumerate(("BVR", "BCR", "WVR", "WCR"), 4):
            yield (2, 0, 0, n, op2), f"DBG{kind}{n}_EL1"
        for op2, kind in ((0, "CNTR"), (2, "TYPER")):
            yield (3, 3, 13, 12 + op2 + n // 8, n % 8), f"AMEV{kind}1{n}_EL0"
    for n in range(4):
        yield (3, 3, 13, 4, n), f"AMEVCNTR0{n}_EL0"
        yield (3, 3, 13, 6, n), f"AMEVTYPER0{n}_EL0"
    for n in range(31):
        yield (3, 3, 14, 8 + n // 8, n % 8), f"PMEVCNTR{n}_EL0"
        yield (3, 3, 14, 12 + n // 8, n % 8), f"PMEVTYPER{n}_EL0"
    for n in range(32):
        for op2, kind in enumerate(("INF", "SRC", "TGT")):
            yield (2, 1, 8, n % 16, n // 16 * 4 + op2), f"BRB{kind}{n}_EL1"


@cache
def _names() -> dict[_Key, str]:
    names = {**dict(_rows(_REGISTERS)), **dict(_numbered())}
    for (_, op1, crn, crm, op2), name in _rows(
        "\n".join(f"1 {row}" for row in _OPERATIONS.split("\n") if row)
    ):
        if crn == 8:
            names[1, op1, 9, crm, op2] = f"TLBI {name}NXS"
            names[1, op1, 8, crm, op2] = f"TLBI {name}"
        else:
            names[1, op1, crn, crm, op2] = name.replace("_", " ")
    return names


def register_name(key: _Key) -> str:
    """Return the name of a system register by {op0, op1, CRn, CRm, op2}; ``S3_0_C1_C0_1`` where it has none here."""
    op0, op1, crn, crm, op2 = key
    return _names().get(key) or f"S{op0}_{op1}_C{crn}_C{crm}_{op2}"


def instruction_text(word: int) -> str:
    """Return an instruction word in hexadecimal; MSR, MRS and system instructions also in assembler.

    A register without a name here is ``S3_0_C1_C0_1``, an operation ``SYS #0, C7, C1, #2``.
    """
    text = _system(word)
    return f"{word:#010x}" if text is None else f"{word:#010x} ({text})"


def _system(word: int) -> str | None:
    if word & 0xFFC0_0000 != 0xD500_0000:
        return None
    read = bool(word >> 21 & 1)
    key = op0, op1, crn, crm, op2 = (
        word >> 19 & 3,
        word >> 16 & 7,
        word >> 12 & 15,
        word >> 8 & 15,
        word >> 5 & 7,
    )
    rt = word & 31
    general = "XZR" if rt == 31 else f"X{rt}"
    if op0 == 0:
        field = _FIELDS.get((op1, op2)) if crn == 4 and rt == 31 and not read else None
        return None if field is None else f"MSR {field}, #{crm}"
    name = _names().get(key)
    if op0 == 1:
        if read:
            return f"SYSL {general}, #{op1}, C{crn}, C{crm}, #{op2}"
        what = name or f"SYS #{op1}, C{crn}, C{crm}, #{op2}"
        return what if rt == 31 else f"{what}, {general}"
    if name is None:
        name = register_name(key)
    name = name.partition("|")[0] if read else name.rpartition("|")[2]
    return f"MRS {general}, {name}" if read else f"MSR {name}, {general}"
