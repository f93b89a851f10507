"""What guests print: the debug log and the PL011's data register, line by line.

Source: TF-Hafnium/hafnium f0701679c0, api_debug_log; Arm DDI 0183 (PL011).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.hypervisor.vm import LOG_LINE_MAX

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.vcpu.engine import Mmio

__all__ = ["PL011_BASE", "Console"]

PL011_BASE = 0x0900_0000
PL011_SIZE = 0x1000
_DR = 0x000
_FR = 0x018
_FR_IDLE = 0x90  # transmit FIFO empty, receive FIFO empty
_ENDS = (ord("\n"), 0)


class Console:
    """Collects characters into lines and gives them to `sink(vm name, line)`.

    The sink must not block: it is called on the vCPU's thread.
    """

    def __init__(self, sink: Callable[[str, bytes], None]) -> None:
        self._sink = sink

    def put(self, vcpu: Vcpu, character: int) -> None:
        """Take one character of the VM's log; a newline or a NUL ends the line."""
        vm = vcpu.vm
        with vm.lock:
            if character not in _ENDS:
                vm.log.append(character)
                if len(vm.log) < LOG_LINE_MAX:
                    return
            line = bytes(vm.log)
            vm.log.clear()
        self._sink(vm.name, line)

    def flush(self, vcpu: Vcpu) -> None:
        """Give out a line that was begun and never ended."""
        if vcpu.vm.log:
            self.put(vcpu, 0)

    def mmio(self, vcpu: Vcpu, access: Mmio) -> int | None:
        """Do a PL011 access; return the value read (0 for a write), None if it is none."""
        offset = access.address - PL011_BASE
        if not 0 <= offset < PL011_SIZE:
            return None
        if access.write:
            if offset == _DR:
                self.put(vcpu, access.value & 0xFF)
            return 0
        return _FR_IDLE if offset == _FR else 0
