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

CPUs are saved in two forms, the engine's own and, where there are several engines for such guests, the portable one,
by register names: the machine of a `spec_of(record, engine)` with another engine is restored from that.

What host programs had under way is theirs: a message that none of them has sent completely, a direct request.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from hfsched.errors import InternalError, UserError
from hfsched.mailbox.records import check
from hfsched.scheduler.owners import OwnerGoneError
from hfsched.vcpu.portable import PORTABLE, PortableVm
from hfsched.vmm.manifest import MachineSpec
from hfsched.vmm.records import READABLE, MachineRecord, VmMachineRecord

if TYPE_CHECKING:
    from hfsched.vcpu.engine import Space, Vcpu
    from hfsched.vcpu.engines import EngineId
    from hfsched.vcpu.portable import PortableCpu
    from hfsched.vmm.assembly import AssembledVm
    from hfsched.vmm.machine import Machine
    from hfsched.vmm.manifest import EngineName

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
        space = vm.record.space
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
                cpus=tuple(native for native, _ in cpus),
                counter=space.counter(),
                services=machine.services.save(vm.name),
                generation=made.generation,
                portable=_portable(space, made.architecture, [each for _, each in cpus]),
                devices=machine.devices.save(vm.name, deadline),
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


def _portable(space: Space, architecture: str, cpus: list[PortableCpu | None]) -> PortableVm | None:
    """Return a VM's CPUs and counter as any engine takes them, None for guests that one engine alone runs."""
    if architecture not in PORTABLE:
        return None
    return PortableVm(counter_hz=space.counter_hz, counter=space.ticks(), cpus=tuple(cpus))


def _save_cpu(cpu: Vcpu) -> tuple[bytes, PortableCpu | None]:
    return cpu.save(), cpu.portable()


def _save_cpus(
    machine: Machine, vm: AssembledVm, deadline: int | None
) -> list[tuple[bytes, PortableCpu | None]]:
    """Return each CPU's registers in both forms, {empty, None} for one whose thread has ended with its VM."""
    posted = [
        machine.driver.owners.post(vm.driven, index, partial(_save_cpu, vcpu.cpu))
        for index, vcpu in enumerate(vm.record.vcpus)
    ]
    saved: list[tuple[bytes, PortableCpu | None]] = []
    for index, each in enumerate(posted):
        try:
            saved.append(each.result(deadline))
        except OwnerGoneError:
            saved.append((b"", None))
        except TimeoutError as exc:
            raise UserError(f"vm {vm.name}: vCPU {index}: {exc}") from None
    return saved


def spec_of(record: MachineRecord, engine: EngineName = "auto") -> MachineSpec:
    """Return the description of a saved machine, from what is known of it alone.

    It is for the engine that saved it ("auto"), or another one.
    """
    return MachineSpec(vm=[each.spec for each in record.vms], name=record.name, engine=engine)


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
        if machine.made[vm.name].engine == saved.engine:
            _restore_cpus(vm, saved)
        else:
            _adopt_cpus(vm, saved)
        with vm.record.lock:
            vm.record.restore(saved.state)
        vm.record.space.set_back(-passed)
        vm.record.space.thaw()
        if saved.state.abort_reason is not None:
            machine.aborts[vm.name] = saved.state.abort_reason
        machine.services.restore(vm.name, saved.services)
        machine.devices.restore(vm.name, saved.devices)
    primary = machine.hypervisor.registry.primary
    with primary.lock:
        primary.restore(record.primary)
    machine.ports.restore(record.ports)


def _restore_cpus(vm: AssembledVm, saved: VmMachineRecord) -> None:
    """Put a VM's counter and CPUs back on the engine that saved them."""
    # Before the registers: KVM on x86-64 has the time that is left to a timer there.
    vm.record.space.set_counter(saved.counter & _COUNTER)
    for vcpu, registers in zip(vm.record.vcpus, saved.cpus, strict=True):
        if registers:
            vcpu.cpu.restore(registers)


def _adopt_cpus(vm: AssembledVm, saved: VmMachineRecord) -> None:
    """Put a VM's counter and CPUs, which another engine has saved, on this one; raises UserError."""
    portable = saved.portable
    assert portable is not None  # else the builder has refused it
    check(len(portable.cpus) == len(saved.cpus), f"vm {vm.name} has {len(portable.cpus)} CPUs")
    vm.record.space.set_ticks(portable.counter)
    for vcpu, state, native in zip(vm.record.vcpus, portable.cpus, saved.cpus, strict=True):
        where = f"vm {vm.name}: vCPU {vcpu.index}"
        check((state is None) == (not native), f"{where} is in one of its two records alone")
        if state is not None:
            try:
                vcpu.cpu.adopt(state)
            except UserError as exc:
                raise UserError(f"{where}: {exc}") from None
