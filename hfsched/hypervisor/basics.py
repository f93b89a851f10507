"""The calls about the ABI and the partitions, interrupts of one's own VM, and the debug log."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from hfsched.abi.dialect import Error
from hfsched.abi.ffa import HYPERVISOR_ID, MAILBOX_SIZE
from hfsched.hypervisor.interface import WakeUp, Yield
from hfsched.hypervisor.reply import Reply, Switch
from hfsched.mailbox.mailbox import Header, RxState

if TYPE_CHECKING:
    from hfsched.hypervisor.context import Context
    from hfsched.hypervisor.vm import Vcpu

__all__ = [
    "debug_log",
    "features",
    "id_get",
    "interrupt_enable",
    "interrupt_get",
    "interrupt_inject",
    "not_supported",
    "partition_info_get",
    "run",
    "version",
    "yield_",
]


def version(_: Context, vcpu: Vcpu, requested: int) -> Reply:
    """Return the version of the dialect."""
    return vcpu.vm.dialect.version(requested)


def features(_: Context, vcpu: Vcpu, function: int) -> Reply:
    """Return what FEATURES answers for a function."""
    return vcpu.vm.dialect.features(function)


def debug_log(context: Context, vcpu: Vcpu, character: int) -> Reply:
    """Print one character of the VM's log."""
    context.console.put(vcpu, character)
    return vcpu.vm.dialect.value(0)


def not_supported(_: Context, vcpu: Vcpu) -> Reply:
    """Refuse what the specification knows and this hypervisor has not."""
    return vcpu.vm.dialect.error(Error.NOT_SUPPORTED)


def id_get(_: Context, vcpu: Vcpu) -> Reply:
    """Return the caller's VM id."""
    return vcpu.vm.dialect.success(vcpu.vm.id)


def partition_info_get(context: Context, vcpu: Vcpu, *words: int) -> Reply:
    """Write descriptors of the partitions with a UUID into the caller's RX, which is then READ."""
    vm = vcpu.vm
    abi = vm.dialect
    # A UUID's bytes 0..3 are the first word's, lowest first (DEN0077A 8.2).
    uuid = UUID(bytes=b"".join(word.to_bytes(4, "little") for word in words))
    partitions = context.registry.partitions(uuid)
    if not partitions:
        return abi.error(Error.INVALID_PARAMETERS)
    data = abi.partition_info(partitions)
    if len(data) > MAILBOX_SIZE:
        return abi.error(Error.NO_MEMORY)
    with vm.lock:
        if not vm.mailbox.writable:
            return abi.error(Error.BUSY)
        vm.store(data)
        vm.mailbox.write(Header(HYPERVISOR_ID, len(data)), RxState.READ)
    return abi.success(len(partitions))


def yield_(_: Context, vcpu: Vcpu) -> Reply:
    """Let others run."""
    abi = vcpu.vm.dialect
    if vcpu.direct_origin is not None:
        return abi.error(Error.DENIED)
    return Switch(abi.success(), Yield())


def run(_: Context, vcpu: Vcpu, vm: int, index: int) -> Reply:  # noqa: ARG001
    """Refuse: only the primary may, and it has its own interface."""
    return vcpu.vm.dialect.error(Error.DENIED)


def interrupt_enable(_: Context, vcpu: Vcpu, intid: int, on: int) -> Reply:
    """Enable or disable an interrupt id of the calling vCPU."""
    if not vcpu.interrupts.valid(intid):
        return vcpu.vm.dialect.value(-1)
    with vcpu.vm.lock:
        vcpu.interrupts.enable(intid, on=bool(on))
        vcpu.update_line()
    return vcpu.vm.dialect.value(0)


def interrupt_get(_: Context, vcpu: Vcpu) -> Reply:
    """Take the lowest enabled and pending interrupt of the calling vCPU."""
    vm = vcpu.vm
    lock = vm.lock
    lock.acquire()  # not `with`: guests ask at every interrupt, and here it counts
    try:
        intid = vcpu.interrupts.take()
        if intid is None:
            return vm.dialect.invalid_intid()
        vcpu.update_line()
    finally:
        lock.release()
    return vm.dialect.value(intid)


def interrupt_inject(_: Context, vcpu: Vcpu, vm: int, index: int, intid: int) -> Reply:
    """Make an interrupt pending in a vCPU of the caller's own VM."""
    own = vcpu.vm
    if not vcpu.interrupts.valid(intid) or vm != own.id or index >= len(own.vcpus):
        return own.dialect.value(-1)
    target = own.vcpus[index]
    with own.lock:
        rose = target.interrupts.inject(intid)
        target.update_line()
    done = own.dialect.value(0)
    return Switch(done, WakeUp(vm, index)) if rose and target is not vcpu else done
