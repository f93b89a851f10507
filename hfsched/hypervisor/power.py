"""PSCI 1.1 for secondaries: further vCPUs on and off.  Source: DEN0022; Hafnium's psci_handler.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.abi.dialect import Power
from hfsched.hypervisor.interface import WaitForInterrupt, WakeUp
from hfsched.hypervisor.reply import Reply, Switch
from hfsched.hypervisor.vm import Vcpu, VcpuState

if TYPE_CHECKING:
    from hfsched.hypervisor.context import Context

__all__ = [
    "affinity_info",
    "cpu_off",
    "cpu_on",
    "cpu_suspend",
    "psci_features",
    "psci_not_supported",
    "psci_version",
]


def psci_version(_: Context, vcpu: Vcpu) -> Reply:
    """Return 1.1."""
    return vcpu.vm.dialect.psci_version()


def psci_features(_: Context, vcpu: Vcpu, function: int) -> Reply:
    """Return what PSCI_FEATURES answers for a function."""
    return vcpu.vm.dialect.psci_features(function)


def psci_not_supported(_: Context, vcpu: Vcpu) -> Reply:
    """Refuse: SYSTEM_OFF and the like are the primary's."""
    return vcpu.vm.dialect.power(Power.NOT_SUPPORTED)


def cpu_suspend(_: Context, vcpu: Vcpu) -> Reply:
    """Wait for an interrupt, and succeed: every suspend is downgraded to that."""
    success = vcpu.vm.dialect.power(Power.SUCCESS)
    with vcpu.vm.lock:
        if vcpu.interrupts.up:
            return success
    return Switch(success, WaitForInterrupt(None), VcpuState.BLOCKED_INTERRUPT)


def cpu_off(_: Context, vcpu: Vcpu) -> Reply:
    """Turn the calling vCPU off."""
    return Switch(vcpu.vm.dialect.power(Power.DENIED), WaitForInterrupt(None), VcpuState.OFF)


def cpu_on(_: Context, vcpu: Vcpu, index: int, entry: int, context: int) -> Reply:
    """Turn a vCPU of the same VM on: it will start at `entry` with x0 = `context`."""
    vm = vcpu.vm
    if index >= len(vm.vcpus):
        return vm.dialect.power(Power.INVALID_PARAMETERS)
    target = vm.vcpus[index]
    with vm.lock:
        if target.state is not VcpuState.OFF:
            return vm.dialect.power(Power.ALREADY_ON)
        target.start = (entry, context)  # the thread that runs it resets it
        target.state = VcpuState.READY
    return Switch(vm.dialect.power(Power.SUCCESS), WakeUp(vm.id, index))


def affinity_info(_: Context, vcpu: Vcpu, index: int, level: int) -> Reply:
    """Return whether a vCPU of the same VM is on."""
    vm = vcpu.vm
    if level != 0 or index >= len(vm.vcpus):
        return vm.dialect.power(Power.INVALID_PARAMETERS)
    with vm.lock:
        off = vm.vcpus[index].state is VcpuState.OFF
    return vm.dialect.power(Power.OFF if off else Power.SUCCESS)
