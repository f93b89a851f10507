"""The machine's address space, divided among VMs: IPA = PA, without overlaps.

Hafnium places secondaries top-down below the end of memory; so do we, below 2 GiB as on the QEMU
platform with 1 GiB, and from 4 GiB up once that is full.  Devices are below 1 GiB, where no VM is
placed unless it asks for that address; their windows are the same in every VM.
"""

from __future__ import annotations

from hfsched.errors import ConfigError
from hfsched.hypervisor.pl011 import PL011_BASE, PL011_SIZE, Pl011

__all__ = ["ADDRESS_MAX", "Layout"]

ADDRESS_MAX = 1 << 40  # the IPA space of every engine
_LOW = (0x4000_0000, 0x8000_0000)
_HIGH = (0x1_0000_0000, ADDRESS_MAX)


class Layout:
    """Hands out regions of addresses; the PL011's window is reserved from the start."""

    def __init__(self) -> None:
        self._taken: list[tuple[int, int, str]] = []
        self._windows: list[tuple[int, int, str]] = []
        self.reserve_window(Pl011.name, PL011_BASE, PL011_SIZE)

    def reserve_window(self, device: str, base: int, size: int) -> None:
        """Keep VM memory out of [base, base + size), where a device is."""
        for start, end, name in self._taken:
            if base < end and start < base + size:
                memory = f"vm {name}: memory [{start:#x}, {end:#x})"
                raise ConfigError(f"{memory} overlaps {device} [{base:#x}, {base + size:#x})")
        for start, end, name in self._windows:
            if base < end and start < base + size:
                window = f"device {device} [{base:#x}, {base + size:#x})"
                raise ConfigError(f"{window} overlaps {name} [{start:#x}, {end:#x})")
        self._windows.append((base, base + size, device))

    def reserve(self, name: str, base: int, size: int) -> int:
        """Take [base, base + size) for a VM with a fixed address."""
        if base + size > ADDRESS_MAX:
            raise ConfigError(
                f"vm {name}: memory [{base:#x}, {base + size:#x}) is not below {ADDRESS_MAX:#x}"
            )
        for start, end, other in self._taken:
            if base < end and start < base + size:
                raise ConfigError(
                    f"vm {name}: memory [{base:#x}, {base + size:#x}) overlaps that of {other}"
                )
        for start, end, device in self._windows:
            if base < end and start < base + size:
                raise ConfigError(
                    f"vm {name}: memory [{base:#x}, {base + size:#x}) overlaps"
                    f" {device} [{start:#x}, {end:#x})"
                )
        self._taken.append((base, base + size, name))
        return base

    def place(self, name: str, size: int, alignment: int) -> int:
        """Take `size` bytes anywhere, at a multiple of `alignment` (a power of two)."""
        base = self._below(*_LOW, size, alignment)
        if base is None:
            base = self._above(*_HIGH, size, alignment)
        if base is None:
            raise ConfigError(f"vm {name}: no free {size} bytes of address space")
        return self.reserve(name, base, size)

    def _below(self, low: int, high: int, size: int, alignment: int) -> int | None:
        end = high
        while end - size >= low:
            base = (end - size) & -alignment
            clash = [start for start, stop, _ in self._taken if base < stop and start < base + size]
            if not clash:
                return base if base >= low else None
            end = min(clash)
        return None

    def _above(self, low: int, high: int, size: int, alignment: int) -> int | None:
        base = (low + alignment - 1) & -alignment
        while base + size <= high:
            clash = [stop for start, stop, _ in self._taken if base < stop and start < base + size]
            if not clash:
                return base
            base = (max(clash) + alignment - 1) & -alignment
        return None
