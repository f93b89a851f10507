"""A small arm64 guest for tests of the engine: code at its start, vectors that make a hypercall."""

from __future__ import annotations

import a64
import kvm_guest
import pytest
from kvm_guest import BASE, DATA, HOLE, SECOND, WITHIN, args, storm

from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.kvm import device

__all__ = [
    "ARGUMENT",
    "BASE",
    "DATA",
    "HOLE",
    "SECOND",
    "VECTORS",
    "WITHIN",
    "Guest",
    "args",
    "needs_kvm",
    "set_timer",
    "storm",
    "use_vectors",
]

WHY_NOT = device.problem() if device.MACHINE == "aarch64" else "this is no arm64 machine"
needs_kvm = pytest.mark.skipif(WHY_NOT is not None, reason=f"engine kvm: {WHY_NOT}")

ARGUMENT = 0x1234  # x0 of every CPU at the start
VECTORS = BASE + 0x8000


class Guest(kvm_guest.Guest):
    """One VM, all of whose CPUs are at the first of `items`, with the MMU off."""

    def __init__(self, *items: a64.Item | list[int], vcpus: int = 1) -> None:
        super().__init__(a64.program(BASE, *items), vcpus=vcpus)
        self._vectors()

    def _vectors(self) -> None:
        """At each of the 16: x0 = offset, x1 to x4 = ESR, FAR, ELR, SPSR, hvc, eret."""
        for offset in range(0, 0x800, 0x80):
            at = VECTORS + offset
            code = a64.program(
                at,
                a64.mov(0, offset)[0],
                a64.mrs(1, a64.ESR),
                a64.mrs(2, a64.FAR),
                a64.mrs(3, a64.ELR),
                a64.mrs(4, a64.SPSR),
                a64.hvc(),
                a64.ERET,
            )
            self.ram.write(at - BASE, code)

    def map_second(self, ipa: int, permissions: Permissions = Permissions.RWX) -> None:
        """Let the page at `DATA` be seen at `ipa`, too."""
        self.space.map(ipa, self.ram, DATA - BASE, 4096, permissions)


def use_vectors() -> list[int]:
    return [*a64.mov(9, VECTORS), a64.msr(a64.VBAR, 9), a64.ISB]


def set_timer(ticks: int) -> list[int]:
    """The virtual timer fires after so many ticks of its counter."""
    return [
        *a64.mov(9, ticks),
        a64.msr(a64.CNTV_TVAL, 9),
        *a64.mov(9, 1),
        a64.msr(a64.CNTV_CTL, 9),
        a64.ISB,
    ]
