"""A guest of one or more CPUs for the tests: RAM at 1 GiB, vectors that make a hypercall each."""

from __future__ import annotations

from typing import Self

import a64

from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Exit, Hypercall, Permissions
from hfsched.vcpu.unicorn import UnicornEngine

BASE = 0x4000_0000
SIZE = 4 << 20
VECTORS = BASE + 0x8000
DATA = BASE + 0x20_0000


class Guest:
    """`ram` is mapped RWX at `BASE`; programs go to `BASE` unless said otherwise."""

    def __init__(self, vcpus: int = 1, runtime: ThreadRuntime | None = None) -> None:
        self.runtime = runtime or ThreadRuntime()
        self.engine = UnicornEngine(self.runtime)
        self.ram = Ram("guest", SIZE)
        self.space = self.engine.space("guest", vcpus)
        self.space.map(BASE, self.ram, 0, SIZE, Permissions.RWX)
        self.cpu = self.space.vcpu(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.engine.close()
        self.ram.close()

    def load(self, *items: a64.Item | list[int], at: int = BASE) -> None:
        self.ram.write(at - BASE, a64.program(at, *items))

    def start(self, *items: a64.Item | list[int], arg: int = 0) -> None:
        """Load a program and put CPU 0 at its beginning."""
        self.load(*items)
        self.cpu.reset(BASE, arg)

    def vectors(self) -> None:
        """At each of the 16 vectors: x0 = offset, then x1..x4 = ESR, FAR, ELR, SPSR, hvc #0xee."""
        for i in range(16):
            self.load(
                a64.mov(0, i * 0x80)[0],
                a64.mrs(1, a64.ESR),
                a64.mrs(2, a64.FAR),
                a64.mrs(3, a64.ELR),
                a64.mrs(4, a64.SPSR),
                a64.hvc(0xEE),
                a64.ERET,
                at=VECTORS + i * 0x80,
            )

    def word(self, address: int) -> int:
        return int.from_bytes(self.ram.read(address - BASE, 8), "little")


def use_vectors() -> list[int]:
    return [*a64.mov(9, VECTORS), a64.msr(a64.VBAR, 9)]


def args(stop: Exit) -> tuple[int, ...]:
    assert isinstance(stop, Hypercall), stop
    return stop.args
