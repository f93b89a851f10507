"""The typed record of a whole machine, but for its guests' memory."""

from __future__ import annotations

import msgspec

from hfsched.hypervisor.records import PrimaryRecord, VirtioRecord, VmRecord
from hfsched.mailbox.records import PortsRecord
from hfsched.services.host import GuestServicesRecord
from hfsched.vcpu.engines import EngineId
from hfsched.vcpu.portable import PortableVm
from hfsched.vhost.frontend.state import FrontEndRecord
from hfsched.vmm.manifest import VmSpec

__all__ = ["MACHINE_RECORD", "READABLE", "DeviceRecord", "MachineRecord", "VmMachineRecord"]

# The version: 1 has neither generation ids, portable records nor `held`, and 2 no devices.
MACHINE_RECORD = 3
READABLE = range(1, MACHINE_RECORD + 1)
"""The versions that can be read."""


class DeviceRecord(msgspec.Struct, frozen=True):
    """One virtio device of a VM: its registers, and what its front-end and its back-end have of it."""

    registers: VirtioRecord
    frontend: FrontEndRecord


class VmMachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One VM: how it was made (of a `spec` whose image is not loaded again), and its state.

    `services` is None for a guest that has offered none, and in records from before there were any.
    `base` is the IPA of its memory, `cpus` what the engine's `Vcpu.save` returned, one each, and `counter`
    what the guests' counters showed (`Space.counter`).  `generation`: the guest can read a generation id
    (`hfsched.vmm.generation`).  `portable` has the CPUs and the counter as any engine takes
    them; None: no other engine runs such guests, or it was saved before there were portable records.
    """

    spec: VmSpec
    engine: EngineId
    architecture: str
    base: int
    state: VmRecord
    cpus: tuple[bytes, ...]
    counter: int
    services: GuestServicesRecord | None = None
    generation: bool = False
    portable: PortableVm | None = None
    devices: tuple[DeviceRecord, ...] = ()


class MachineRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A suspended machine; `name` is what the user called it.  Its guests' memory is kept apart, by VM.

    `held`: the user had suspended it, and has not resumed it.
    """

    version: int = MACHINE_RECORD
    name: str | None
    vms: tuple[VmMachineRecord, ...]
    primary: PrimaryRecord
    ports: PortsRecord
    held: bool = False
