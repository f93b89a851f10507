"""The device tree of a VM whose manifest says ``fdt = "auto"``.

    /chosen            bootargs, and stdout-path: the PL011
    /memory@BASE       all of the VM's memory
    /cpus/cpu@N        `reg` is what CPU_ON takes; enable-method "psci"
    /psci              PSCI 1.x by HVC
    /apb-pclk          the PL011's clock, as its binding wants one
    /pl011@9000000     transmits only, no interrupt
    /hf-interrupts     where there are devices with interrupts: their parent
    /rng@90f0000       the VM's generation id (`hfsched.vmm.generation`)
    /NAME@BASE         each other device

No GIC and no architected timer are in it: a VM's interrupts are Hafnium's para-virtual ones.  Their
controller has no binding of its own elsewhere; here it is compatible with "hfsched,hf-interrupts",
and an interrupt is one cell, the id that HF_INTERRUPT_ENABLE takes.

x86-64 guests have neither /psci nor an enable-method (docs/x86-abi.md has how they call).
Source: the Devicetree Specification 0.4, chapter 3; Linux's bindings arm/cpus, arm/psci, serial/pl011,
virtio/mmio, rng/microsoft,vmgenid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hfsched.abi.vmgenid import GENERATION_BASE, GENERATION_INTID, GENERATION_SIZE
from hfsched.hypervisor.pl011 import PL011_BASE, PL011_SIZE
from hfsched.memory.fdtbuilder import FdtBuilder

__all__ = ["DeviceNode", "device_tree"]

_CLOCK, _INTERRUPTS = 1, 2  # phandles
_PL011 = f"pl011@{PL011_BASE:x}"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device at IPAs [base, base + size), with an interrupt id or none.

    `flags` are further properties, without a value.
    """

    name: str
    compatible: tuple[str, ...]
    base: int
    size: int
    interrupt: int | None = None
    flags: tuple[str, ...] = ()

    @classmethod
    def virtio_mmio(cls, base: int, size: int, interrupt: int) -> DeviceNode:
        """Return the node of a virtio-mmio transport."""
        return cls("virtio_mmio", ("virtio,mmio",), base, size, interrupt, ("dma-coherent",))

    @classmethod
    def generation_id(cls) -> DeviceNode:
        """Return the node of a VM's generation id."""
        compatible = ("microsoft,vmgenid",)
        return cls("rng", compatible, GENERATION_BASE, GENERATION_SIZE, GENERATION_INTID)


def device_tree(
    base: int,
    size: int,
    vcpus: int,
    *,
    machine: str = "aarch64",
    bootargs: str = "",
    devices: Sequence[DeviceNode] = (),
) -> bytes:
    """Return the blob for a VM with memory at IPAs [base, base + size)."""
    tree = FdtBuilder()
    interrupts = any(device.interrupt is not None for device in devices)
    tree.cells("#address-cells", 2)
    tree.cells("#size-cells", 2)
    tree.strings("compatible", "hfsched,vm")
    tree.strings("model", "hfsched VM")
    if interrupts:
        tree.cells("interrupt-parent", _INTERRUPTS)
    with tree.node("chosen"):
        tree.strings("bootargs", bootargs)
        tree.strings("stdout-path", f"/{_PL011}")
    with tree.node(f"memory@{base:x}"):
        tree.strings("device_type", "memory")
        tree.pairs("reg", base, size)
    _cpus(tree, vcpus, psci=machine != "x86_64")
    with tree.node("apb-pclk"):
        tree.strings("compatible", "fixed-clock")
        tree.cells("#clock-cells", 0)
        tree.cells("clock-frequency", 24_000_000)
        tree.cells("phandle", _CLOCK)
    with tree.node(_PL011):
        tree.strings("compatible", "arm,pl011", "arm,primecell")
        tree.pairs("reg", PL011_BASE, PL011_SIZE)
        tree.cells("clocks", _CLOCK, _CLOCK)
        tree.strings("clock-names", "uartclk", "apb_pclk")
    if interrupts:
        with tree.node("hf-interrupts"):
            tree.strings("compatible", "hfsched,hf-interrupts")
            tree.value("interrupt-controller")
            tree.cells("#interrupt-cells", 1)
            tree.cells("#address-cells", 0)
            tree.cells("phandle", _INTERRUPTS)
    for device in devices:
        _device(tree, device)
    return tree.finish()


def _cpus(tree: FdtBuilder, vcpus: int, *, psci: bool) -> None:
    with tree.node("cpus"):
        tree.cells("#address-cells", 1)
        tree.cells("#size-cells", 0)
        for index in range(vcpus):
            with tree.node(f"cpu@{index:x}"):
                tree.strings("device_type", "cpu")
                if psci:
                    tree.strings("compatible", "arm,armv8")
                    tree.strings("enable-method", "psci")
                tree.cells("reg", index)
    if psci:
        with tree.node("psci"):
            tree.strings("compatible", "arm,psci-1.0", "arm,psci-0.2")
            tree.strings("method", "hvc")


def _device(tree: FdtBuilder, device: DeviceNode) -> None:
    with tree.node(f"{device.name}@{device.base:x}"):
        tree.strings("compatible", *device.compatible)
        tree.pairs("reg", device.base, device.size)
        if device.interrupt is not None:
            tree.cells("interrupts", device.interrupt)
        for flag in device.flags:
            tree.value(flag)
