"""A small x86-64 guest for tests of the engine: code at its start, an IDT, a stack."""

from __future__ import annotations

import struct
from types import TracebackType
from typing import Self

import pytest
import x64

from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Exit, Permissions
from hfsched.vcpu.kvm import device
from hfsched.vcpu.kvm.cpu import KvmVcpu
from hfsched.vcpu.kvm.engine import KvmEngine

BASE = 0x7F00_0000
SIZE = 1 << 20
GDT, IDT, HANDLERS, STACK = 0x8000, 0x9000, 0xA000, 0xC000

WHY_NOT = device.problem() if device.MACHINE == "x86_64" else "this is no x86-64 machine"
needs_kvm = pytest.mark.skipif(WHY_NOT is not None, reason=f"engine kvm: {WHY_NOT}")


class Guest:
    """One VM with its code; `prologue` sets up descriptor tables and a stack."""

    def __init__(
        self, code: bytes = b"", *, vcpus: int = 1, handlers: dict[int, bytes] | None = None
    ) -> None:
        self.runtime = ThreadRuntime()
        self.engine = KvmEngine(self.runtime)
        self.ram = Ram("test", SIZE)
        self.space = self.engine.space("test", vcpus)
        self.space.map(BASE, self.ram, 0, SIZE, Permissions.RWX)
        setup = b""
        if handlers is not None:
            setup = self._tables(handlers)
        self.ram.write(0, setup + code)
        self.start = BASE + len(setup)
        self.vcpus = [self._vcpu(index) for index in range(vcpus)]
        self.cpu = self.vcpus[0]

    def _vcpu(self, index: int) -> KvmVcpu:
        vcpu = self.space.vcpu(index)
        assert isinstance(vcpu, KvmVcpu)
        vcpu.reset(BASE, 0x1234)
        return vcpu

    def _tables(self, handlers: dict[int, bytes]) -> bytes:
        """Write a GDT, an IDT with these handlers, and return code that loads them."""
        self.ram.write(GDT, struct.pack("<QQQ", 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF))
        place = HANDLERS
        for vector, code in handlers.items():
            address = BASE + place
            self.ram.write(place, code)
            place += len(code)
            gate = struct.pack(
                "<HHBBHII", address & 0xFFFF, 8, 0, 0x8E, address >> 16 & 0xFFFF, address >> 32, 0
            )
            self.ram.write(IDT + 16 * vector, gate)
        self.ram.write(GDT + 0x100, struct.pack("<HQ", 23, BASE + GDT))
        self.ram.write(GDT + 0x110, struct.pack("<HQ", 4095, BASE + IDT))
        return (
            x64.mov("rsp", BASE + STACK)
            + x64.mov("rax", BASE + GDT + 0x100)
            + x64.lgdt("rax")
            + x64.mov("rax", BASE + GDT + 0x110)
            + x64.lidt("rax")
        )

    def enter(self) -> Exit:
        return self.cpu.enter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.engine.close()
        self.ram.close()
