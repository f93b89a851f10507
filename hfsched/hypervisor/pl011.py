"""The PL011 UART of every VM: what is written to its data register is printed.

It only transmits, and has no interrupt: the flag register always says "idle".
Source: Arm DDI 0183; the address is that of QEMU's machine `virt`, as Hafnium's images expect it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.hypervisor.console import Console
    from hfsched.hypervisor.vm import Vcpu

__all__ = ["PL011_BASE", "PL011_SIZE", "Pl011"]

PL011_BASE = 0x0900_0000
PL011_SIZE = 0x1000
_DR = 0x000
_FR = 0x018
_FR_IDLE = 0x90  # transmit FIFO empty, receive FIFO empty


class Pl011:
    """One for all VMs: it has no state of its own, a VM's line is in the VM's record."""

    name = "PL011"

    def __init__(self, console: Console) -> None:
        self._console = console

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:  # noqa: ARG002
        """Return "idle" for the flag register, 0 for any other."""
        return _FR_IDLE if offset == _FR else 0

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:  # noqa: ARG002
        """Print the low byte that is written to the data register; ignore all other registers."""
        if offset == _DR:
            self._console.put(vcpu, value & 0xFF)
