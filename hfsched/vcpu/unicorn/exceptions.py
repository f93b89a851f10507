"""Exceptions of EL1, pure: syndromes decoded, and what taking one does to the registers.

Sources: Arm ARM D1.10 (entry), D17.2.37 (ESR); Hafnium f0701679c0, handler.c, for what a
hypervisor injects.
"""

from __future__ import annotations

from msgspec import Struct

__all__ = [
    "MASKED",
    "Access",
    "Ec",
    "abort_syndrome",
    "decode_access",
    "entry",
    "entry_pstate",
    "is_permission",
    "is_write",
    "sign_extend",
]

# PSTATE on entry: D, A, I, F set, EL1 with its own stack pointer.
MASKED = 0x3C5
_PAN = 1 << 22

_IL = 1 << 25
_ISV = 1 << 24
_S1PTW = 1 << 7
_WRITE = 1 << 6
_INJECTED_ISS = (1 << 22) - 1
_MASK64 = (1 << 64) - 1


class Ec:
    """Exception classes, ESR bits 31 to 26."""

    UNKNOWN = 0x00
    WFX = 0x01
    HVC = 0x16
    SMC = 0x17
    SYSREG = 0x18
    FETCH_LOWER = 0x20
    FETCH_SAME = 0x21
    PC_ALIGNMENT = 0x22
    DATA_LOWER = 0x24
    DATA_SAME = 0x25

    FETCHES = frozenset((FETCH_LOWER, FETCH_SAME))
    ABORTS = FETCHES | {DATA_LOWER, DATA_SAME}
    WITH_ADDRESS = ABORTS | {PC_ALIGNMENT}
    RETURN_BEHIND = frozenset((0x15,))  # SVC: ELR is the next instruction


_NAMES = {
    Ec.UNKNOWN: "undefined instruction",
    0x07: "access to floating-point registers that CPACR_EL1 traps",
    0x09: "trapped pointer authentication",
    0x0D: "branch target exception",
    0x0E: "illegal execution state",
    0x15: "system call (SVC)",
    Ec.HVC: "HVC",
    Ec.SMC: "SMC",
    Ec.SYSREG: "trapped MSR, MRS or system instruction",
    0x19: "trapped SVE instruction",
    0x1C: "pointer authentication failure",
    Ec.FETCH_LOWER: "instruction abort",
    Ec.FETCH_SAME: "instruction abort",
    Ec.PC_ALIGNMENT: "misaligned program counter",
    Ec.DATA_LOWER: "data abort",
    Ec.DATA_SAME: "data abort",
    0x26: "misaligned stack pointer",
    0x2C: "floating-point exception",
    0x2F: "SError interrupt",
    0x30: "hardware breakpoint",
    0x31: "hardware breakpoint",
    0x32: "software step",
    0x33: "software step",
    0x34: "watchpoint",
    0x35: "watchpoint",
    0x3C: "breakpoint instruction (BRK)",
}

# Fault status codes, ISS bits 5 to 0; the four of each with a level (bits 1 and 0) first.
_LEVELS = {0: "address size", 1: "translation", 2: "access flag", 3: "permission"}
_FAULTS = {
    0x10: "external abort",
    0x14: "external abort, level 0",
    0x15: "external abort, level 1",
    0x16: "external abort, level 2",
    0x17: "external abort, level 3",
    0x21: "alignment fault",
    0x30: "TLB conflict",
    0x35: "unsupported exclusive or atomic access",
}


def describe(esr: int, far: int) -> str:
    """Name the exception that ESR_EL1 and FAR_EL1 report, with what and where if it says so."""
    ec = esr >> 26
    name = _NAMES.get(ec, f"exception of class {ec:#x}")
    if ec in Ec.ABORTS:
        status = esr & 0x3F
        kind = _FAULTS.get(status, f"status {status:#x}")
        if status >> 2 in _LEVELS:
            kind = f"{_LEVELS[status >> 2]} fault, level {status & 3}"
        if ec not in Ec.FETCHES:
            kind = f"{'write' if esr & _WRITE else 'read'}, {kind}"
        name = f"{name} ({kind})"
    return f"{name} at {far:#x}" if ec in Ec.WITH_ADDRESS else name


class Access(Struct, frozen=True):
    """A load or store of one register, as its syndrome describes it: `size` bytes, register `target`.

    `signed` and `wide` say how a loaded value is extended, and to 64 or to 32 bits.
    """

    size: int
    target: int
    write: bool
    signed: bool
    wide: bool


def decode_access(esr: int) -> Access | None:
    """Decode the syndrome of a data abort; None if the syndrome does not describe the access."""
    if not esr & _ISV or esr & _S1PTW:
        return None
    return Access(
        size=1 << (esr >> 22 & 3),
        target=esr >> 16 & 31,
        write=bool(esr & _WRITE),
        signed=bool(esr >> 21 & 1),
        wide=bool(esr >> 15 & 1),
    )


def is_write(esr: int) -> bool:
    """Return whether a data abort was a write of the guest, not one of a table walk."""
    return bool(esr & _WRITE) and not esr & _S1PTW


def is_permission(esr: int) -> bool:
    """Return whether an abort was for a lack of permission: then there is memory."""
    return esr & 0x3C == 0x0C


def sign_extend(access: Access, value: int) -> int:
    """Return what a load leaves in the 64-bit register when memory held `value`."""
    bits = 8 * access.size
    value &= (1 << bits) - 1
    if access.signed and value >> (bits - 1):
        value -= 1 << bits
    return value & (_MASK64 if access.wide else 0xFFFF_FFFF)


def abort_syndrome(esr: int) -> int:
    """Return ESR_EL1 for the stage-2 abort whose syndrome at EL2 was `esr`.

    As Hafnium makes it: bits 0 to 21 of the ISS, so nothing of ISV, SAS and SSE, and the class of an
    abort without a change of the exception level, for EL0 too.
    """
    ec = Ec.FETCH_SAME if esr >> 26 == Ec.FETCH_LOWER else Ec.DATA_SAME
    return ec << 26 | esr & _IL | esr & _INJECTED_ISS


def entry(pstate: int, vbar: int, *, injected: bool) -> int:
    """Return the address of the synchronous vector for an exception taken at `pstate`.

    Hafnium injects at EL1's vector with its own stack pointer, whichever was in use.
    """
    if not pstate & 0xC:
        return vbar + 0x400 & _MASK64
    return vbar + (0x200 if injected or pstate & 1 else 0) & _MASK64


def entry_pstate(pstate: int, sctlr: int, *, has_pan: bool) -> int:
    """Return PSTATE after the hardware took an exception to EL1 at `pstate`."""
    # SPAN clear: PAN is set on every exception to EL1.
    if has_pan and (pstate & _PAN or not sctlr >> 23 & 1):
        return MASKED | _PAN
    return MASKED
