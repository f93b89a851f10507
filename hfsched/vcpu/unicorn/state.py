"""The architectural state of a CPU, and a digest of it, equal for equal states."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hfsched.vcpu.unicorn.library import Reg

if TYPE_CHECKING:
    from hfsched.vcpu.unicorn.machine import Machine

__all__ = ["digest"]

_PLAIN = (Reg.PC, Reg.PSTATE, Reg.ELR_EL1, Reg.ESR_EL1, Reg.FAR_EL1, Reg.VBAR_EL1)
_FLOAT = (Reg.FPCR, Reg.FPSR)

_SYSTEM = (
    (3, 0, 1, 0, 0),  # SCTLR_EL1
    (3, 0, 1, 0, 2),  # CPACR_EL1
    (3, 0, 2, 0, 0),  # TTBR0_EL1
    (3, 0, 2, 0, 1),  # TTBR1_EL1
    (3, 0, 2, 0, 2),  # TCR_EL1
    *((3, 0, 2, crm, op2) for crm in (1, 2) for op2 in range(4)),  # pointer authentication keys
    *((3, 0, 2, 3, op2) for op2 in (0, 1)),  # APGAKey
    (3, 0, 4, 0, 0),  # SPSR_EL1
    (3, 0, 7, 4, 0),  # PAR_EL1
    (3, 0, 10, 2, 0),  # MAIR_EL1
    (3, 0, 10, 3, 0),  # AMAIR_EL1
    (3, 0, 13, 0, 1),  # CONTEXTIDR_EL1
    (3, 0, 13, 0, 4),  # TPIDR_EL1
    (3, 0, 14, 1, 0),  # CNTKCTL_EL1
    (3, 2, 0, 0, 0),  # CSSELR_EL1
    (3, 3, 13, 0, 2),  # TPIDR_EL0
    (3, 3, 13, 0, 3),  # TPIDRRO_EL0
)


def digest(machine: Machine, more: tuple[int, ...]) -> bytes:
    """Return 16 bytes, equal for equal registers and equal `more`.

    Left out: whether an exclusive load is pending, and the caches of translations.
    """
    pstate = machine.read(Reg.PSTATE)
    current = machine.x[31]
    el1h = pstate & 0xF == 5
    # The current SP is kept apart from the banked one, which is then stale.
    sp_el0 = machine.read(Reg.SP_EL0) if el1h else current
    sp_el1 = current if el1h else machine.read(Reg.SP_EL1)
    words = [
        *machine.x[:31],
        sp_el0,
        sp_el1,
        *(machine.read(register) for register in _PLAIN),
        *(machine.read(register) & 0xFFFF_FFFF for register in _FLOAT),
        *(machine.read_system(key) for key in _SYSTEM),
        *(value & (1 << 64) - 1 for value in more),
    ]
    import hashlib  # noqa: PLC0415 - it loads OpenSSL, and only explorers come here

    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(struct.pack(f"<{len(words)}Q", *words))
    for i in range(32):
        hasher.update(machine.read_vector(i))
    return hasher.digest()
