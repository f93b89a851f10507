"""A VM's MMIO bus: which device answers an access outside the VM's memory.

Filled before the VM's first RUN, constant afterwards, so it needs no lock.  All windows are
half-open: [base, base + size).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from hfsched.errors import ConfigError
from hfsched.memory.ram import PAGE_SIZE

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.memory.guestmemory import GuestMemory
    from hfsched.vcpu.engine import Mmio

__all__ = ["Device", "MmioBus", "Window"]


class Device(Protocol):
    """What answers accesses to a window.

    `read` and `write` are called on the thread of the accessing vCPU, which waits for them, and hold no
    lock; several vCPUs may call at once.  An access is within one window.
    """

    @property
    def name(self) -> str:
        """What messages to the user call it."""

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:
        """Return the value of `size` bytes (1, 2, 4 or 8) at `offset`."""

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:
        """Take the value of `size` bytes at `offset`."""


class Window(NamedTuple):
    """A device at IPAs [base, base + size)."""

    device: Device
    base: int
    size: int

    @property
    def end(self) -> int:
        """The first IPA behind it."""
        return self.base + self.size

    def __str__(self) -> str:
        return f"{self.device.name} [{self.base:#x}, {self.end:#x})"


class MmioBus:
    """The windows of VM `vm`, which has `memory`."""

    def __init__(self, vm: str, memory: GuestMemory) -> None:
        self._vm = vm
        self._memory = memory
        self._windows: list[Window] = []

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows in the order of their addresses."""
        return tuple(sorted(self._windows, key=lambda window: window.base))

    def claim(self, device: Device, base: int, size: int) -> None:
        """Give a device the accesses to [base, base + size).

        Raises ConfigError for a window that is not made of whole pages, or overlaps the VM's memory or
        another window.
        """
        window = Window(device, base, size)
        if base < 0 or size <= 0 or (base | size) % PAGE_SIZE:
            raise ConfigError(f"vm {self._vm}: {window}: not whole pages of {PAGE_SIZE} bytes")
        for other in self._windows:
            if base < other.end and other.base < window.end:
                raise ConfigError(f"vm {self._vm}: {window} overlaps {other}")
        for region in self._memory.regions:
            if base < region.end and region.ipa < window.end:
                memory = f"memory [{region.ipa:#x}, {region.end:#x})"
                raise ConfigError(f"vm {self._vm}: {memory} overlaps {window}")
        self._windows.append(window)

    def access(self, vcpu: Vcpu, access: Mmio) -> int | None:
        """Do an access; return the value read, 0 for a write, None if no device has all of it."""
        address, size = access.address, access.size
        for device, base, length in self._windows:
            offset = address - base
            if offset >= 0 and offset + size <= length:
                if not access.write:
                    return device.read(vcpu, offset, size) & ((1 << 8 * size) - 1)
                device.write(vcpu, offset, size, access.value)
                return 0
        return None
