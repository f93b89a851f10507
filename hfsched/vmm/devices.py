"""The virtio devices of a machine's VMs: registers on the bus, an interrupt line, and a front-end behind them.

The n-th device of a VM has the n-th window and interrupt id (`hfsched.abi.virtio`).  Its back-end has all of the VM's memory
mapped, and no way to be told of pages that are elsewhere: a machine with one has its memory in RAM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from hfsched.abi.virtio import FIRST_INTID, WINDOW_BASE, WINDOW_SIZE
from hfsched.errors import ConfigError
from hfsched.hypervisor.virtio_mmio import VirtioMmio
from hfsched.mailbox.records import check
from hfsched.scheduler.suspension import Step
from hfsched.vhost.frontend.backend import SharedRegion
from hfsched.vhost.frontend.frontend import FrontEnd
from hfsched.vmm.records import DeviceRecord

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vhost.frontend.peers import Peers
    from hfsched.vmm.assembly import AssembledVm
    from hfsched.vmm.devicespec import DeviceSpec
    from hfsched.vmm.manifest import MachineSpec

__all__ = ["MachineDevices", "first_device", "refuse_swap", "windows_of"]

_CLOSE_WITHIN = 10_000_000_000  # ns; closing ends each wait of a device's task


def windows_of(devices: int) -> list[tuple[int, int, int]]:
    """Return {base, size, interrupt id} of a VM's devices."""
    return [
        (WINDOW_BASE + number * WINDOW_SIZE, WINDOW_SIZE, FIRST_INTID + number)
        for number in range(devices)
    ]


def first_device(spec: MachineSpec) -> str | None:
    """Return what a machine's first device is called, None if it has none."""
    return next((f"vm {vm.name}: {each}" for vm in spec.vm for each in vm.device), None)


def refuse_swap(spec: MachineSpec) -> None:
    """Raise ConfigError if guest memory has to stay where it is."""
    named = first_device(spec)
    if named is not None:
        raise ConfigError(
            f"{named}: no swap: its back-end would read zeros where memory is swapped out"
        )


class MachineDevices:
    """All of them: connected when this is made, started and closed with the machine.

    `peers(runtime, path)` opens what a front-end needs.  Raises UserError for a back-end that is not there.
    """

    def __init__(
        self,
        runtime: Runtime,
        peers: Callable[[Runtime, str], Peers],
        notice: Callable[[str], None],
    ) -> None:
        self._runtime = runtime
        self._peers = peers
        self._notice = notice
        self._frontends: list[FrontEnd] = []
        self._registers: dict[str, list[tuple[VirtioMmio, FrontEnd]]] = {}  # by VM
        self.step = Step("devices", self._pause, self._resume)

    def add(self, vms: Sequence[AssembledVm], devices: Mapping[str, Sequence[DeviceSpec]]) -> None:
        """Make the devices of VMs, by the VMs' names; before the machine starts."""
        for vm in vms:
            wanted = devices.get(vm.name, ())
            for spec, where in zip(wanted, windows_of(len(wanted)), strict=True):
                self._add(vm, spec, where)

    def _add(self, vm: AssembledVm, spec: DeviceSpec, where: tuple[int, int, int]) -> None:
        base, size, intid = where
        memory = vm.record.memory
        regions = [SharedRegion(each.ipa, each.size, each.ram.fd) for each in memory.regions]
        frontend = FrontEnd(
            self._runtime,
            f"vm {vm.name}: {spec}",
            self._peers(self._runtime, spec.socket),
            regions,
            memory.read,
            self._notice,
        )
        self._frontends.append(frontend)
        frontend.connect()
        registers = VirtioMmio(
            self._runtime,
            frontend.name,
            spec.type_number,
            frontend,
            vm.interrupt_line(f"virtio@{base:x}", intid),
        )
        frontend.driver = registers
        vm.record.mmio.claim(registers, base, size)
        self._registers.setdefault(vm.name, []).append((registers, frontend))

    def save(self, vm: str, deadline: int | None) -> tuple[DeviceRecord, ...]:
        """Return the state of a VM's devices, suspended; raises UserError."""
        return tuple(
            DeviceRecord(registers.save(), frontend.save(deadline))
            for registers, frontend in self._registers.get(vm, ())
        )

    def restore(self, vm: str, records: Sequence[DeviceRecord]) -> None:
        """Put back what `save` returned, before `start`; raises UserError."""
        devices = self._registers.get(vm, ())
        check(len(devices) == len(records), f"vm {vm} has {len(records)} devices")
        for (registers, frontend), record in zip(devices, records, strict=True):
            registers.restore(record.registers)
            frontend.restore(record.frontend)

    def start(self) -> None:
        """Start their tasks, before any vCPU runs."""
        for each in self._frontends:
            each.open()

    def _pause(self, deadline: int | None) -> bool:
        return all(each.suspend(deadline) for each in self._frontends)

    def _resume(self) -> None:
        for each in self._frontends:
            each.resume()

    def close(self) -> bool:
        """End the connections; return False if a task did not end, and may still use guest memory."""
        deadline = self._runtime.now() + _CLOSE_WITHIN
        ended = [each.close(deadline) for each in self._frontends]
        return all(ended)
