"""What guests print, by the debug log and the PL011, line by line.

Source: TF-Hafnium/hafnium f0701679c0, api_debug_log.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.hypervisor.vm import LOG_LINE_MAX

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu

__all__ = ["Console"]

_NEWLINE = ord("\n")
_ENDS = (_NEWLINE, 0)


class Console:
    """Collects characters into lines and gives them to `sink(vm name, line)`.

    The sink must not block: it is called on the vCPU's thread.
    """

    def __init__(self, sink: Callable[[str, bytes], None]) -> None:
        self._sink = sink

    def put(self, vcpu: Vcpu, character: int) -> None:
        """Take one character of the VM's log; LF, CR LF or a NUL ends the line."""
        vm = vcpu.vm
        with vm.lock:
            if character not in _ENDS:
                vm.log.append(character)
                if len(vm.log) < LOG_LINE_MAX:
                    return
            if character == _NEWLINE and vm.log.endswith(b"\r"):
                del vm.log[-1]
            line = bytes(vm.log)
            vm.log.clear()
        self._sink(vm.name, line)

    def flush(self, vcpu: Vcpu) -> None:
        """Give out a line that was begun and never ended."""
        if vcpu.vm.log:
            self.put(vcpu, 0)
