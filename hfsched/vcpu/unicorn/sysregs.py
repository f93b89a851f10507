"""System registers and instructions that a guest reaches through a trap or a hook: pure.

Hafnium f0701679c0 is the source of what a secondary VM may not see: feature_id.c, debug_el1.c,
perfmon.c.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["SysAccess", "decode_trap", "id_mask", "timer_instructions"]

# MRS and MSR of S3_3_C14_C0_x, _C2_x and _C3_x, in memory order: counters and timers.
_TIMER = re.compile(rb"[\x00-\xff][\xe0\xe2\xe3][\x1b\x3b]\xd5", re.DOTALL)


class SysAccess(NamedTuple):
    """An access by MRS (`read`), MSR or SYS, of general register `target`."""

    op0: int
    op1: int
    crn: int
    crm: int
    op2: int
    target: int
    read: bool

    @property
    def key(self) -> tuple[int, int, int, int, int]:
        """Return (op0, op1, CRn, CRm, op2)."""
        return self[:5]

    @property
    def is_id(self) -> bool:
        """Return whether it is an identification register of group 3 (Arm ARM, HCR_EL2.TID3)."""
        return (self.op0, self.op1, self.crn) == (3, 0, 0) and 1 <= self.crm <= 7

    @property
    def is_tlb(self) -> bool:
        """Return whether it is a TLB invalidation."""
        return self.op0 == 1 and self.crn == 8

    @property
    def is_broadcast(self) -> bool:
        """Return whether that invalidation is for every CPU (inner or outer shareable)."""
        return self.crm in (1, 2, 3, 5)

    @property
    def is_cache(self) -> bool:
        """Return whether it is an instruction cache invalidation or a clean to that point."""
        return self.op0 == 1 and self.crn == 7 and not self.is_set_way

    @property
    def is_set_way(self) -> bool:
        """Return whether it is a data cache operation by set and way, which no VM may do."""
        return (self.op0, self.op1, self.crn, self.op2) == (1, 0, 7, 2) and self.crm in (6, 10, 14)

    @property
    def is_code(self) -> bool:
        """Return whether it invalidates instructions (IC, not DC)."""
        return self.is_cache and self.crm in (1, 5)


def decode_trap(esr: int) -> SysAccess:
    """Decode the ISS of exception class 0x18."""
    return SysAccess(
        op0=esr >> 20 & 3,
        op1=esr >> 14 & 7,
        crn=esr >> 10 & 15,
        crm=esr >> 1 & 15,
        op2=esr >> 17 & 7,
        target=esr >> 5 & 31,
        read=bool(esr & 1),
    )


def _field(*shifts: int) -> int:
    """Return a mask without the 4-bit fields at `shifts`."""
    mask = (1 << 64) - 1
    for shift in shifts:
        mask &= ~(0xF << shift)
    return mask


_ID_MASKS = {
    # ID_AA64PFR0: RAS, SVE, and half precision (0 is floating point without it)
    (3, 0, 0, 4, 0): _field(16, 20, 28, 32),
    (3, 0, 0, 2, 7): 0,  # ID_ISAR6, which Hafnium does not know
    (3, 0, 0, 4, 4): 0,  # ID_AA64ZFR0: no SVE
    (3, 0, 0, 5, 0): _field(4, 8, 32, 36, 40),  # ID_AA64DFR0: trace, PMU, SPE, double lock, filter
    (3, 0, 0, 7, 1): _field(16, 24),  # ID_AA64MMFR1: LORegions, SpecSEI
}


def id_mask(key: tuple[int, int, int, int, int]) -> int:
    """Return the bits of an identification register that a guest sees."""
    return _ID_MASKS.get(key, (1 << 64) - 1)


def timer_instructions(code: bytes) -> list[tuple[int, bool]]:
    """Return (offset, is MRS) of every instruction in `code` that names a counter or a timer."""
    return [
        (match.start(), code[match.start() + 2] == 0x3B)
        for match in _TIMER.finditer(code)
        if not match.start() % 4
    ]
