"""The machine's address space, divided among VMs: IPA = PA, without overlaps.

Hafnium places secondaries top-down below the end of memory; so do we, below 2 GiB as on the QEMU
platform with 1 GiB, and from 4 GiB up once that is full.  Devices are below 1 GiB, where no VM is
placed unless it asks for that address; their windows are the same in every VM.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import NamedTuple

from hfsched.abi.vmgenid import GENERATION_BASE
from hfsched.errors import ConfigError
from hfsched.hypervisor.pl011 import PL011_BASE, PL011_SIZE, Pl011
from hfsched.vmm.generation import GENERATION_PAGE

__all__ = ["ADDRESS_MAX", "Layout"]

ADDRESS_MAX = 1 << 40  # the IPA space of every engine
_LOW = (0x4000_0000, 0x8000_0000)
_HIGH = (0x1_0000_0000, ADDRESS_MAX)


class _Taken(NamedTuple):
    """[start, end) of the VM `name`, the `order`-th of all."""

    start: int
    end: int
    order: int
    name: str


class _Free:
    """What is free of [low, high): gaps, sorted by address; nothing taken is ever given back.

    So where a size and an alignment did not fit once they never will, and no search looks there again.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._gaps = [(low, high)]
        self._limits: dict[tuple[int, int], int] = {}  # {size, alignment}: no base is beyond

    def take(self, start: int, end: int) -> None:
        """Take [start, end), of which no part in here is taken."""
        start, end = max(start, self._low), min(end, self._high)
        if start >= end:
            return
        index = self._gap_at(start)
        first, last = self._gaps[index]
        left = [gap for gap in ((first, start), (end, last)) if gap[0] < gap[1]]
        self._gaps[index : index + 1] = left

    def highest(self, size: int, alignment: int) -> int | None:
        """Return the highest base where `size` bytes are free, None without one."""
        limit = self._limits.get((size, alignment), self._high)
        found = None
        index = self._gap_at(limit)
        while found is None and index >= 0:
            start, end = self._gaps[index]
            base = (min(end - size, limit)) & -alignment
            found = base if base >= start else None
            index -= 1
        self._limits[size, alignment] = self._low - 1 if found is None else found
        return found

    def lowest(self, size: int, alignment: int) -> int | None:
        """Return the lowest base where `size` bytes are free, None without one."""
        limit = self._limits.get((size, alignment), self._low)
        found = None
        index = max(0, self._gap_at(limit))
        while found is None and index < len(self._gaps):
            start, end = self._gaps[index]
            base = (max(start, limit) + alignment - 1) & -alignment
            found = base if base + size <= end else None
            index += 1
        self._limits[size, alignment] = self._high if found is None else found
        return found

    def _gap_at(self, address: int) -> int:
        """Return the index of the last gap that starts at or below an address, -1 without one."""
        return bisect_right(self._gaps, (address, self._high)) - 1


class Layout:
    """Hands out regions of addresses; what is in every VM is reserved from the start."""

    def __init__(self) -> None:
        self._taken: list[_Taken] = []  # sorted, apart
        self._low, self._high = _Free(*_LOW), _Free(*_HIGH)
        self._windows: list[tuple[int, int, str]] = []
        self.reserve_window(Pl011.name, PL011_BASE, PL011_SIZE)
        self.reserve_window("generation id", GENERATION_BASE, GENERATION_PAGE)

    def reserve_window(self, device: str, base: int, size: int) -> None:
        """Keep VM memory out of [base, base + size), where a device is."""
        taken = self._overlapping(base, base + size)
        if taken is not None:
            memory = f"vm {taken.name}: memory [{taken.start:#x}, {taken.end:#x})"
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
        taken = self._overlapping(base, base + size)
        if taken is not None:
            raise ConfigError(
                f"vm {name}: memory [{base:#x}, {base + size:#x}) overlaps that of {taken.name}"
            )
        for start, end, device in self._windows:
            if base < end and start < base + size:
                raise ConfigError(
                    f"vm {name}: memory [{base:#x}, {base + size:#x}) overlaps"
                    f" {device} [{start:#x}, {end:#x})"
                )
        insort(self._taken, _Taken(base, base + size, len(self._taken), name))
        self._low.take(base, base + size)
        self._high.take(base, base + size)
        return base

    def place(self, name: str, size: int, alignment: int) -> int:
        """Take `size` bytes anywhere, at a multiple of `alignment` (a power of two)."""
        base = self._low.highest(size, alignment)
        if base is None:
            base = self._high.lowest(size, alignment)
        if base is None:
            raise ConfigError(f"vm {name}: no free {size} bytes of address space")
        return self.reserve(name, base, size)

    def _overlapping(self, base: int, end: int) -> _Taken | None:
        """Return which region overlaps [base, end), of several the one taken first."""
        first = None
        index = bisect_left(self._taken, (end,)) - 1
        while index >= 0 and self._taken[index].end > base:
            if first is None or self._taken[index].order < first.order:
                first = self._taken[index]
            index -= 1
        return first
