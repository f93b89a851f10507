"""A few arm64 instructions as words, and a tiny assembler with labels.

`program(...)` takes words, label names (a string ending in ":"), and callables `at(here, labels)`
for branches; everything lands at `base`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

Item: TypeAlias = "int | str | Callable[[int, dict[str, int]], int]"

NOP = 0xD503201F
WFI = 0xD503207F
WFE = 0xD503205F
YIELD = 0xD503203F
ISB = 0xD5033FDF
DSB = 0xD5033F9F
ERET = 0xD69F03E0
UDF = 0x00000000
IRQ_OFF = 0xD50342DF  # msr daifset, #2
IRQ_ON = 0xD50342FF  # msr daifclr, #2
XZR = 31


def hvc(imm: int = 0) -> int:
    return 0xD4000002 | imm << 5


def smc(imm: int = 0) -> int:
    return 0xD4000003 | imm << 5


def svc(imm: int = 0) -> int:
    return 0xD4000001 | imm << 5


def brk(imm: int = 0) -> int:
    return 0xD4200000 | imm << 5


def mov(rd: int, value: int) -> list[int]:
    """MOVZ and three MOVK: always four words."""
    words = [0xD2800000 | (value & 0xFFFF) << 5 | rd]
    words += [0xF2800000 | i << 21 | (value >> 16 * i & 0xFFFF) << 5 | rd for i in (1, 2, 3)]
    return words


def movr(rd: int, rn: int) -> int:
    return 0xAA0003E0 | rn << 16 | rd


def mov_sp(rd: int, rn: int) -> int:
    """MOV to or from SP (31)."""
    return 0x91000000 | rn << 5 | rd


def add(rd: int, rn: int, imm: int) -> int:
    return 0x91000000 | imm << 10 | rn << 5 | rd


def sub(rd: int, rn: int, imm: int) -> int:
    return 0xD1000000 | imm << 10 | rn << 5 | rd


def _load_store(size: int, opc: int, rt: int, rn: int, offset: int) -> int:
    assert offset % (1 << size) == 0
    return 0x39000000 | size << 30 | opc << 22 | (offset >> size) << 10 | rn << 5 | rt


def ldr(rt: int, rn: int, offset: int = 0, *, size: int = 3) -> int:
    """Zero-extending load of 1 << size bytes."""
    return _load_store(size, 1, rt, rn, offset)


def ldrs(rt: int, rn: int, offset: int = 0, *, size: int, wide: bool = True) -> int:
    """Sign-extending load, to 64 bits or to 32."""
    return _load_store(size, 2 if wide else 3, rt, rn, offset)


def store(rt: int, rn: int, offset: int = 0, *, size: int = 3) -> int:
    return _load_store(size, 0, rt, rn, offset)


def ldp(rt: int, rt2: int, rn: int) -> int:
    return 0xA9400000 | rt2 << 10 | rn << 5 | rt


def ldxr(rt: int, rn: int) -> int:
    return 0xC85F7C00 | rn << 5 | rt


def stxr(rs: int, rt: int, rn: int) -> int:
    return 0xC8007C00 | rs << 16 | rn << 5 | rt


def ldadd(rs: int, rt: int, rn: int) -> int:
    return 0xF8200000 | rs << 16 | rn << 5 | rt


def br(rn: int) -> int:
    return 0xD61F0000 | rn << 5


def sysreg(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    return op0 << 19 | op1 << 16 | crn << 12 | crm << 8 | op2 << 5


def mrs(rt: int, register: int) -> int:
    return 0xD5200000 | register | rt


def msr(register: int, rt: int) -> int:
    return 0xD5000000 | register | rt


def b(label: str) -> Callable[[int, dict[str, int]], int]:
    return lambda here, labels: 0x14000000 | (labels[label] - here) // 4 & 0x3FFFFFF


def bcond(condition: int, label: str) -> Callable[[int, dict[str, int]], int]:
    return lambda here, labels: (
        0x54000000 | ((labels[label] - here) // 4 & 0x7FFFF) << 5 | condition
    )


def cbnz(rt: int, label: str) -> Callable[[int, dict[str, int]], int]:
    return lambda here, labels: 0xB5000000 | ((labels[label] - here) // 4 & 0x7FFFF) << 5 | rt


def cbz(rt: int, label: str) -> Callable[[int, dict[str, int]], int]:
    return lambda here, labels: 0xB4000000 | ((labels[label] - here) // 4 & 0x7FFFF) << 5 | rt


SCTLR = sysreg(3, 0, 1, 0, 0)
TTBR0 = sysreg(3, 0, 2, 0, 0)
TCR = sysreg(3, 0, 2, 0, 2)
MAIR = sysreg(3, 0, 10, 2, 0)
VBAR = sysreg(3, 0, 12, 0, 0)
ESR = sysreg(3, 0, 5, 2, 0)
FAR = sysreg(3, 0, 6, 0, 0)
ELR = sysreg(3, 0, 4, 0, 1)
SPSR = sysreg(3, 0, 4, 0, 0)
SP_EL0 = sysreg(3, 0, 4, 1, 0)
SPSEL = sysreg(3, 0, 4, 2, 0)
DAIF = sysreg(3, 3, 4, 2, 1)
MPIDR = sysreg(3, 0, 0, 0, 5)
CNTVCT = sysreg(3, 3, 14, 0, 2)
CNTPCT = sysreg(3, 3, 14, 0, 1)
CNTFRQ = sysreg(3, 3, 14, 0, 0)
CNTV_TVAL = sysreg(3, 3, 14, 3, 0)
CNTV_CTL = sysreg(3, 3, 14, 3, 1)
CNTV_CVAL = sysreg(3, 3, 14, 3, 2)
CNTP_CTL = sysreg(3, 3, 14, 2, 1)
FPCR = sysreg(3, 3, 4, 4, 0)
TPIDR = sysreg(3, 0, 13, 0, 4)
APIAKEYLO = sysreg(3, 0, 2, 1, 0)
IC_IVAU = sysreg(1, 3, 7, 5, 1)
DC_CVAU = sysreg(1, 3, 7, 11, 1)
TLBI_ALL = sysreg(1, 0, 8, 7, 0)
TLBI_ALL_IS = sysreg(1, 0, 8, 3, 0)


def program(base: int, *items: Item | list[int]) -> bytes:
    """Return the words of `items` for address `base`."""
    flat: list[Item] = []
    for item in items:
        if isinstance(item, list):
            flat += item
        else:
            flat.append(item)
    labels: dict[str, int] = {}
    here = base
    for one in flat:
        if isinstance(one, str):
            labels[one.removesuffix(":")] = here
        else:
            here += 4
    words = []
    for one in flat:
        if isinstance(one, int):
            words.append(one)
        elif not isinstance(one, str):
            words.append(one(base + 4 * len(words), labels) & 0xFFFFFFFF)
    return struct.pack(f"<{len(words)}I", *words)
