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
from hfsched.swap.report.footprint import held
from hfsched.text import one_line
from hfsched.vmm import saving
from hfsched.vmm.records import MACHINE_RECORD, MachineRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.memory.ram import Ram
    from hfsched.vmm.assembly import AssembledVm
    from hfsched.vmm.machine import Machine

__all__ = ["record_of", "restore", "subject_of", "write", "write_layer"]

MACHINE = "machine"  # the component that has the machine's record
_PART = 256  # pages that are copied at once


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


def write_layer(
    machine: Machine,
    files: tuple[int, int],
    name: str,
    codec: str,
    created: int,
    deadline: int | None = None,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] = lambda _done: None,
) -> tuple[bytes, tuple[str, ...]]:
    """Write a machine into the open files {pages, index}; the caller holds its suspension, frozen.

    Return the index's hash, and what the user may want to know.  `created` is in ns since 1970, the others are as
    `LayerWriter` has them.  Raises UserError (SnapshotError) if it cannot be saved by the deadline (ns),
    or written.
    """
    for vm, made in machine.made.items():
        if made.engine == "script":
            raise SnapshotError(f"vm {vm}: a Python guest cannot be saved: give a guest image")
    subject = subject_of(machine, created)
    writer = LayerWriter(name, *files, subject, codec=codec, cancelled=cancelled, progress=progress)
    found = write(machine, writer, deadline)
    return found, () if writer.warning is None else (writer.warning,)


def write(machine: Machine, writer: LayerWriter, deadline: int | None = None) -> bytes:
    """Write a machine, whose suspension the caller holds with its memory frozen; return the layer's hash.

    Raises UserError (SnapshotError) if it cannot be saved by the deadline (ns), or written.
    """
    record = saving.save(machine, deadline)
    for number, vm in enumerate(machine.assembly.vms):
        _write_memory(machine.rams[vm.name], number, writer, sparse=machine.swap is None)
    return writer.finish({MACHINE: Component(MACHINE_RECORD, msgspec.msgpack.encode(record))})


def _write_memory(ram: Ram, vm: int, writer: LayerWriter, *, sparse: bool) -> None:
    """Write a VM's memory; `sparse`: what is not allocated is zero, and is not read, which would allocate it."""
    pages, done = ram.size // PAGE_SIZE, 0
    for first, end in held(ram.fd, pages) if sparse else [(0, pages)]:
        if done < first:
            writer.put_zeros(vm, done, first - done)
        for part in range(first, end, _PART):
            size = min(_PART, end - part) * PAGE_SIZE
            writer.put(vm, part, ram.read(part * PAGE_SIZE, size))
        done = end
    if done < pages:
        writer.put_zeros(vm, done, pages - done)


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
    chain: Chain, record: MachineRecord, make: Callable[[MachineRecord], Machine], passed: int = 0
) -> Machine:
    """Return the machine of a snapshot, ready to be started.

    `record` is that of `record_of`; `make` makes a machine with it (`Machine(..., saved=record)`).  The guests'
    counters go on from where they were, `passed` ns later.  Raises
    SnapshotError (UserError) for a snapshot of something else, or a damaged one; then it is closed.
    """
    machine = make(record)
    try:
        subject = subject_of(machine, 0)
        chain.check_machine(subject.machine, subject.vms)
        for vm in machine.assembly.vms:
            _fill(machine.rams[vm.name], chain, chain.number(vm.name))
        saving.restore(machine, record, passed)
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
