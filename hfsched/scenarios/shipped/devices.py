"""Devices of a VM: each one's own task raises a line, which is lowered when the guest answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.memory.ram import PAGE_SIZE
from hfsched.scenarios.shipped.guests import BELL, BELL_WINDOW

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.vmm.machine import Machine

__all__ = ["Doorbell"]


class Doorbell:
    """Rings `rings` times: it raises its line, and waits until the guest has written to it.

    They share an interrupt, and a guest that takes it writes to all of them.
    """

    def __init__(
        self, runtime: ExploreRuntime, machine: Machine, rings: int, number: int = 0
    ) -> None:
        self.name = f"doorbell.{number}" if number else "doorbell"
        self._runtime = runtime
        self._rings = rings
        vm = machine.assembly.vms[0]
        vm.record.mmio.claim(self, BELL_WINDOW + number * PAGE_SIZE, PAGE_SIZE)
        self._set_level = vm.interrupt_line(self.name, BELL)
        self._lock = runtime.lock(self.name, state=lambda: self._ringing)
        self._ringing = False
        self._answered = runtime.event(f"{self.name}.answered")
        self.stopped = False
        self.ended = False

    def run(self) -> None:
        """Be its task."""
        for count in range(self._rings):
            self._runtime.retain_only(count)
            self._answered.clear()
            with self._lock:
                self._ringing = True
                self._set_level(True)
            self._answered.wait()
        self.ended = True

    # The guest's side; see `hfsched.hypervisor.mmio.Device`.

    def read(self, vcpu: Vcpu, offset: int, size: int) -> int:
        """Refuse: it has nothing to read."""
        raise AssertionError(f"vCPU {vcpu.index} reads {size} bytes at {offset:#x} of the doorbell")

    def write(self, vcpu: Vcpu, offset: int, size: int, value: int) -> None:  # noqa: ARG002
        """Lower the line: a ring was heard, unless it was another device's."""
        with self._lock:
            self._set_level(False)
            if self._ringing:
                self._ringing = False
                self._answered.set()
