"""The state of a suspended machine as one record, and a machine with that state again.

Saved are the hypervisor's records, every CPU's registers, what lies in the host's ports, the utility services'
transactions, and the guests' counters, which go on from there.  A mirror needs no saving: after a restore each vCPU counts as
running, and its first RUN tells what it waits for.  Guest memory is copied by the caller, which holds the
suspension meanwhile::

    with machine.suspension.held("snapshot", deadline, frozen=True):
        record = save(machine, deadline)
        memory = {name: ram.read(0, ram.size) for name, ram in machine.rams.items()}

    with Machine(spec_of(record), runtime, log, saved=record) as again:
        for name, ram in again.rams.items():
            ram.write(0, memory[name])
        restore(again, record)
        again.start()

What host programs had under way is theirs: a message that none of them has sent completely, a direct request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from hfsched.errors import InternalError, UserError
from hfsched.mailbox.records import check
from hfsched.scheduler.owners import OwnerGoneError
from hfsched.vmm.manifest import MachineSpec
from hfsched.vmm.records import READABLE, MachineRecord, VmMachineRecord

if TYPE_CHECKING:
    from hfsched.vcpu.engines import EngineId
    from hfsched.vmm.assembly import AssembledVm
    from hfsched.vmm.machine import Machine

__all__ = ["restore", "save", "spec_of"]

_COUNTER = (1 << 64) - 1


def save(machine: Machine, deadline: int | None = None) -> MachineRecord:
    """Return the record of a machine whose suspension the caller holds.

    Raises UserError if a CPU cannot be saved, or its thread does not do it by the deadline (ns).
    """
    if not machine.suspended_by():
        raise InternalError("a machine is saved that is not suspended")
    specs = {vm.name: vm for vm in machine.spec.vm}
    vms = []
    for vm in machine.assembly.vms:
        made = machine.made[vm.name]
        cpus = _save_cpus(machine, vm, deadline)
        with vm.record.lock:
            state = vm.record.save()
        vms.append(
            VmMachineRecord(
                spec=specs[vm.name],
                engine=cast("EngineId", made.engine),
                architecture=made.architecture,
                base=made.base,
                state=state,
                cpus=cpus,
                counter=vm.record.space.counter(),
                services=machine.services.save(vm.name),
                generation=made.generation,
            )
        )
    primary = machine.hypervisor.registry.primary
    with primary.lock:
        saved = primary.save()
    return MachineRecord(
        name=machine.spec.name,
        vms=tuple(vms),
        primary=saved,
        ports=machine.ports.save(),
        held=machine.user_hold.held(),
    )


def _save_cpus(machine: Machine, vm: AssembledVm, deadline: int | None) -> tuple[bytes, ...]:
    """Return each CPU's registers, empty for one whose thread has ended with its VM."""
    posted = [
        machine.driver.owners.post(vm.driven, index, vcpu.cpu.save)
        for index, vcpu in enumerate(vm.record.vcpus)
    ]
    saved = []
    for index, each in enumerate(posted):
        try:
            saved.append(each.result(deadline))
        except OwnerGoneError:
            saved.append(b"")
        except TimeoutError as exc:
            raise UserError(f"vm {vm.name}: vCPU {index}: {exc}") from None
    return tuple(saved)


def spec_of(record: MachineRecord) -> MachineSpec:
    """Return the description of a saved machine, from what is known of it alone."""
    return MachineSpec(vm=[each.spec for each in record.vms], name=record.name)


def restore(machine: Machine, record: MachineRecord, passed: int = 0) -> None:
    """Put a saved state into a machine made with it (`saved`), whose memory is filled; before its start.

    The guests' counters go on `passed` ns after where they were.
    Raises UserError for a record of another machine, and for state that no machine can have.
    """
    check(record.version in READABLE, f"a machine's record of version {record.version}")
    names = [each.spec.name for each in record.vms]
    check(names == machine.vm_names(), f"it is of the VMs {', '.join(names)}")
    for vm, saved in zip(machine.assembly.vms, record.vms, strict=True):
        check(len(saved.cpus) == len(vm.record.vcpus), f"vm {vm.name} has {len(saved.cpus)} CPUs")
        vm.record.space.freeze()
        # Before the registers: KVM on x86-64 has the time that is left to a timer there.
        vm.record.space.set_counter(saved.counter & _COUNTER)
        for vcpu, registers in zip(vm.record.vcpus, saved.cpus, strict=True):
            if registers:
                vcpu.cpu.restore(registers)
        with vm.record.lock:
            vm.record.restore(saved.state)
        vm.record.space.set_back(-passed)
        vm.record.space.thaw()
        if saved.state.abort_reason is not None:
            machine.aborts[vm.name] = saved.state.abort_reason
        machine.services.restore(vm.name, saved.services)
    primary = machine.hypervisor.registry.primary
    with primary.lock:
        primary.restore(record.primary)
    machine.ports.restore(record.ports)
