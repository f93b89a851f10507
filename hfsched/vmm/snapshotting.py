"""A suspended machine as a layer of a snapshot, and a machine of a snapshot again.

Here memory is copied while the machine stands still, and read whole before it runs: a layer is a full one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hfsched import __version__
from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import ZERO_PAGE, Chain
from hfsched.snapshot.index import Component, MachineIdentity
from hfsched.snapshot.layer import LayerWriter, Subject, Vm
from hfsched.text import one_line
from hfsched.vmm import saving
from hfsched.vmm.machine import Machine
from hfsched.vmm.records import MACHINE_RECORD, MachineRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.memory.ram import Ram
    from hfsched.vmm.assembly import AssembledVm

__all__ = ["record_of", "restore", "subject_of", "write"]

MACHINE = "machine"  # the component that has the machine's record
_PART = 1 << 20  # bytes of memory that are copied at once


def subject_of(machine: Machine, created: int) -> Subject:
    """Return what a layer is of that is made at a time (ns since 1970); the VMs are of one architecture.

    Raises SnapshotError for a machine of several.
    """
    architectures = {made.architecture for made in machine.made.values()}
    if len(architectures) != 1:
        raise SnapshotError(f"guests of {' and '.join(sorted(architectures))} in one machine")
    space = machine.assembly.vms[0].record.space
    identity = MachineIdentity(architectures.pop(), space.counter_hz)
    vms = tuple(_vm(machine, vm) for vm in machine.assembly.vms)
    return Subject(__version__, created, identity, vms)


def _vm(machine: Machine, vm: AssembledVm) -> Vm:
    return Vm(
        vm.name, vm.record.dialect.name, machine.made[vm.name].base, machine.rams[vm.name].size
    )


def write(machine: Machine, writer: LayerWriter, deadline: int | None = None) -> bytes:
    """Write a machine, whose suspension the caller holds with its memory frozen; return the layer's hash.

    Raises UserError (SnapshotError) if it cannot be saved by the deadline (ns), or written.
    """
    record = saving.save(machine, deadline)
    for number, vm in enumerate(machine.assembly.vms):
        ram = machine.rams[vm.name]
        for offset in range(0, ram.size, _PART):
            writer.put(number, offset // PAGE_SIZE, ram.read(offset, min(_PART, ram.size - offset)))
    return writer.finish({MACHINE: Component(MACHINE_RECORD, msgspec.msgpack.encode(record))})


def record_of(chain: Chain) -> MachineRecord:
    """Return the record of the machine that a snapshot is of; raises SnapshotError."""
    name = chain.newest.name
    component = chain.state.get(MACHINE)
    if component is None:
        raise SnapshotError(f"{name}: it has no machine's state")
    if component.version != MACHINE_RECORD:
        raise SnapshotError(
            f"{name}: a machine's state of version {component.version}: {MACHINE_RECORD} is known here"
        )
    try:
        return msgspec.msgpack.decode(component.data, type=MachineRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise SnapshotError(f"{name}: not a machine's state: {one_line(str(exc), 200)}") from None


def restore(
    chain: Chain, record: MachineRecord, make: Callable[[MachineRecord], Machine]
) -> Machine:
    """Return the machine of a snapshot, ready to be started.

    `record` is that of `record_of`; `make` makes a machine with it (`Machine(..., saved=record)`).  Raises
    SnapshotError (UserError) for a snapshot of something else, or a damaged one; then it is closed.
    """
    machine = make(record)
    try:
        subject = subject_of(machine, 0)
        chain.check_machine(subject.machine, subject.vms)
        for vm in machine.assembly.vms:
            _fill(machine.rams[vm.name], chain, chain.number(vm.name))
        saving.restore(machine, record)
    except BaseException:
        machine.close()
        raise
    return machine


def _fill(ram: Ram, chain: Chain, vm: int) -> None:
    """Write a VM's stored pages; what is zero is zero in new memory."""
    for first, count, place in chain.places(vm):
        if place == ZERO_PAGE:
            continue
        offset = first * PAGE_SIZE
        for part in chain.parts(place, count):
            ram.write(offset, bytes(part))
            offset += len(part)
