"""What a script guest yields, and the abort that may be raised in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from hfsched.vcpu.engine import Conduit
from hfsched.vcpu.registers import ARGUMENTS, ARM64_ARGUMENTS

__all__ = ["REGISTERS", "Abort", "Action", "Hvc", "Load", "Smc", "Step", "Store", "Wfi"]

REGISTERS = ARGUMENTS  # x0..x7; a call that has more passes x0..x17
WORD = 0xFFFF_FFFF_FFFF_FFFF


class Abort(Exception):  # noqa: N818 - the architecture's word
    """A synchronous external abort, as the guest takes it; the address is its IPA."""

    def __init__(self, address: int) -> None:
        super().__init__(f"abort at {address:#x}")
        self.address = address


class Hvc:
    """HVC with x0, x1, ... x17; the others are 0.

    Sent back: x0..x7, or x0..x17 if the call or its answer has more than these eight.
    """

    __slots__ = ("args",)
    conduit = Conduit.HVC

    def __init__(self, *args: int) -> None:
        count = REGISTERS if len(args) <= REGISTERS else ARM64_ARGUMENTS
        if len(args) > count:
            raise TypeError(f"{len(args)} arguments: a hypercall has x0 to x{count - 1}")
        self.args = tuple(arg & WORD for arg in args) + (0,) * (count - len(args))


class Smc(Hvc):
    """SMC, likewise."""

    __slots__ = ()
    conduit = Conduit.SMC


@dataclass(frozen=True, slots=True)
class Wfi:
    """Wait for an interrupt; over at once while the line is up, masked or not."""


@dataclass(frozen=True, slots=True)
class Step:
    """Some instructions that no one else sees; interrupts and kicks are looked at."""


@dataclass(frozen=True, slots=True)
class Load:
    """Read `size` bytes (at most 8) at an IPA through stage 2.  Sent back: {value}."""

    address: int
    size: int = 8


@dataclass(frozen=True, slots=True)
class Store:
    """Write a value of `size` bytes (at most 8) at an IPA through stage 2."""

    address: int
    value: int
    size: int = 8

    def masked(self) -> int:
        """Return the value, cut to its size."""
        return self.value & ((1 << 8 * self.size) - 1)


Action: TypeAlias = Hvc | Wfi | Step | Load | Store
