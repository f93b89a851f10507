"""A guest that runs any bytes as code, for `bench/instructions.py`, without a hypervisor around it.

A prelude loads every register from a table and enters the code in kernel or user mode; exceptions go
to vectors which skip the instruction (arm64) or make a hypercall (x86-64).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from typing import Protocol

import a64
import x64

__all__ = ["BASE", "CODE", "CODE_MAX", "SIZE", "X86", "Arm64", "Layout", "image"]

SIZE = 256 << 10
BASE = 0x7F00_0000  # in the GiB that the tables below map
CODE = 0x4000
CODE_MAX = 0x2000
TABLE = 0x8000  # registers
DATA = 0x10000  # to the end

_EDGES = (0, 1, (1 << 64) - 1, 1 << 63, (1 << 63) - 1, 0xFFFF_FFFF, 1 << 31, 0x7FFF_FFFF_F000)


class Layout(Protocol):
    """What differs between the architectures."""

    exits: int  # after so many a program ends

    def fixed(self) -> list[tuple[int, bytes]]:
        """Return what is in memory at each start, as (offset, bytes)."""

    def table(self, random: Random) -> list[tuple[int, bytes]]:
        """Return the registers of one program."""

    def ending(self) -> bytes:
        """Return what follows the program's code."""


def _value(random: Random) -> int:
    kind = random.random()
    if kind < 0.6:
        return BASE + random.randrange(DATA, SIZE)
    if kind < 0.75:
        return BASE + random.randrange(DATA, SIZE) & ~15
    if kind < 0.85:
        return random.choice(_EDGES)
    return random.getrandbits(64) >> random.randrange(64)


class Arm64:
    """Kernel mode at CODE, or user mode by ERET; the table has x0..x30, SP, v0..v31, mode."""

    exits = 24
    _VECTORS = 0x2000
    # Kernel mode, user mode, and its A32 and T32, which a guest can enter though no engine runs them.
    _MODES, _OFTEN = (0x3C5, 0x3C0, 0x1D0, 0x1F0), (75, 15, 5, 5)

    def fixed(self) -> list[tuple[int, bytes]]:
        vector = a64.program(
            0,
            a64.mrs(27, a64.ELR),
            a64.add(27, 27, 4),
            a64.msr(a64.ELR, 27),
            0xD34DFF7C,  # lsr x28, x27, #13
            *a64.mov(26, (BASE + CODE) >> 13),
            0xCB1A039C,  # sub x28, x28, x26
            a64.cbnz(28, "out"),
            a64.ERET,
            "out:",
            a64.hvc(1),
            a64.b("out"),
        )
        return [
            (0, self._prelude()),
            *((self._VECTORS + 0x80 * index, vector) for index in range(16)),
        ]

    def _prelude(self) -> bytes:
        def pair(rt: int, offset: int) -> int:
            return 0xA9400000 | (offset // 8 & 0x7F) << 15 | (rt + 1) << 10 | 30 << 5 | rt

        return a64.program(
            BASE,
            *a64.mov(0, BASE + self._VECTORS),
            a64.msr(a64.VBAR, 0),
            *a64.mov(0, 3 << 20),
            a64.msr(a64.sysreg(3, 0, 1, 0, 2), 0),  # CPACR_EL1: floating point
            a64.ISB,
            *a64.mov(0, BASE + CODE),
            a64.msr(a64.ELR, 0),
            *a64.mov(30, BASE + TABLE),
            a64.ldr(0, 30, 256 + 512),
            a64.msr(a64.SPSR, 0),
            a64.ldr(0, 30, 31 * 8),
            a64.mov_sp(31, 0),
            a64.msr(a64.SP_EL0, 0),
            a64.add(0, 30, 256),
            *(0x4CDF2C00 | 4 * index for index in range(8)),  # ld1 {v0.2d-v3.2d}, [x0], #64
            *(pair(index, 8 * index) for index in range(0, 28, 2)),
            a64.ldr(28, 30, 28 * 8),
            a64.ldr(29, 30, 29 * 8),
            a64.ldr(30, 30, 30 * 8),
            a64.ERET,
        )

    def table(self, random: Random) -> list[tuple[int, bytes]]:
        values = [_value(random) for _ in range(31)]
        values.append(BASE + random.randrange(DATA, SIZE) & ~15)
        vectors = random.randbytes(512)
        mode = random.choices(self._MODES, self._OFTEN)[0]
        return [(TABLE, struct.pack("<32Q", *values) + vectors + struct.pack("<Q", mode))]

    def ending(self) -> bytes:
        return struct.pack("<2I", a64.hvc(2), 0x17FFFFFF)  # and back to it


class X86:
    """Kernel or user mode at CODE, by IRETQ, with every exception a hypercall."""

    exits = 6
    _GDT, _TSS, _IDT, _HANDLER, _TABLES, _STACK = 0x2000, 0x2100, 0x3000, 0x2800, 0x9000, 0xE000

    def fixed(self) -> list[tuple[int, bytes]]:
        handler = x64.out(x64.HVC) + b"\xeb\xfc"
        at = BASE + self._HANDLER
        gate = struct.pack("<HHBBHII", at & 0xFFFF, 8, 0, 0xEE, at >> 16 & 0xFFFF, at >> 32, 0)
        tss = BASE + self._TSS
        descriptors = struct.pack(
            "<7Q",
            0,
            0x00AF9A000000FFFF,
            0x00CF92000000FFFF,
            0x00CFF2000000FFFF,
            0x00AFFA000000FFFF,
            0x67 | (tss & 0xFFFFFF) << 16 | 0x89 << 40 | (tss >> 24 & 0xFF) << 56,
            tss >> 32,
        )
        limits = struct.pack("<HQ6xHQ", 55, BASE + self._GDT, 4095, BASE + self._IDT)
        root = BASE + self._TABLES
        gib = BASE >> 30
        flags = 0b1100111  # present, writable, user, accessed, dirty
        blocks = struct.pack("<512Q", *(gib << 30 | n << 21 | 0x80 | flags for n in range(512)))
        return [
            (0, self._prelude()),
            (self._GDT, descriptors),
            (self._GDT + 0x80, limits),
            (self._TSS, struct.pack("<IQ", 0, BASE + self._STACK) + bytes(92)),
            (self._IDT, gate * 256),
            (self._HANDLER, handler),
            (self._TABLES, struct.pack("<Q", root + 0x1000 | flags)),
            (self._TABLES + 0x1000 + 8 * gib, struct.pack("<Q", root + 0x2000 | flags)),
            (self._TABLES + 0x2000, blocks),
        ]

    def _prelude(self) -> bytes:
        limits = BASE + self._GDT + 0x80
        return b"".join(
            (
                x64.mov("rax", BASE + self._TABLES) + b"\x0f\x22\xd8",  # CR3
                x64.mov("rsp", BASE + self._STACK),
                x64.mov("rax", limits) + x64.lgdt("rax"),
                x64.mov("rax", limits + 16) + x64.lidt("rax"),
                x64.mov("rax", 0x28) + b"\x0f\x00\xd8",  # ltr %ax
                b"\x0f\x20\xc0\x48\x83\xe0\xfb\x48\x83\xc8\x02\x0f\x22\xc0",  # CR0: EM 0, MP 1
                b"\x0f\x20\xe0\x48\x0d\x00\x06\x00\x00\x0f\x22\xe0",  # CR4: OSFXSR, OSXMMEXCPT
                x64.mov("rsp", BASE + TABLE),
                b"".join(x64.pop(name) for name in x64.LOW + x64.HIGH if name != "rsp"),
                x64.IRETQ,
            )
        )

    def table(self, random: Random) -> list[tuple[int, bytes]]:
        values = [_value(random) for _ in range(15)]
        user = random.random() < 0.5
        flags = 2 | 3 << 12 | random.getrandbits(12) & 0xCD5
        stack = BASE + random.randrange(DATA, SIZE) & ~15
        frame = (BASE + CODE, 0x23 if user else 8, flags, stack, 0x1B if user else 0x10)
        return [(TABLE, struct.pack("<20Q", *values, *frame))]

    def ending(self) -> bytes:
        return x64.out(x64.HVC) + b"\xeb\xfc"


def image(layout: Layout, parts: Sequence[tuple[int, bytes]]) -> bytes:
    """Return the whole of a guest's memory."""
    memory = bytearray(SIZE)
    for offset, data in (*layout.fixed(), *parts):
        memory[offset : offset + len(data)] = data
    return bytes(memory)
