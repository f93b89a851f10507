"""From a description to an assembled machine: memory, CPUs, images, device trees.

Every resource made here is freed by the exit stack that is handed in, in reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast
from uuid import UUID

from msgspec import Struct

from hfsched.abi.dialects import DIALECTS
from hfsched.errors import ConfigError, UserError
from hfsched.hypervisor.vm import NIL_UUID
from hfsched.mailbox.records import check
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.image import place, read_bytes
from hfsched.memory.imagetypes import Image
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.vcpu.engine import Engine, Permissions, Space
from hfsched.vcpu.portable import PORTABLE
from hfsched.vcpu.portable import VERSION as PORTABLE_VERSION
from hfsched.vmm import engines
from hfsched.vmm.assembly import VmParts
from hfsched.vmm.devices import windows_of
from hfsched.vmm.guests import GuestCode, resolve
from hfsched.vmm.layout import Layout
from hfsched.vmm.manifest import FDT_AUTO
from hfsched.vmm.parts import MachineParts

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engines import EngineId
    from hfsched.vcpu.script import ScriptSpace
    from hfsched.vmm.generation import Generations
    from hfsched.vmm.manifest import EngineName, MachineSpec, VmSpec
    from hfsched.vmm.records import MachineRecord, VmMachineRecord

__all__ = ["Builder", "MadeVm"]


class MadeVm(Struct, frozen=True):
    """How a VM was made: its engine and architecture, the IPA of its memory, whether it has a generation id."""

    engine: str
    architecture: str
    base: int
    generation: bool


class Builder:
    """Makes the VMs of a description, with the engines that they need.

    `notice(text)` gets what the user may want to know; `parts` makes memories and engines.  Raises
    UserError (ConfigError, ImageError) for what cannot be built.
    """

    def __init__(
        self,
        runtime: Runtime,
        stack: ExitStack,
        notice: Callable[[str], None],
        parts: MachineParts | None = None,
    ) -> None:
        self._runtime = runtime
        self._stack = stack
        self._notice = notice
        self._parts = MachineParts() if parts is None else parts
        self._engines: dict[str, Engine] = {}
        self._generations: Generations | None = None
        self.rams: dict[str, Ram] = {}
        self.made: dict[str, MadeVm] = {}

    def build(self, spec: MachineSpec) -> list[VmParts]:
        """Make all VMs, loaded and ready to be assembled."""
        images: dict[tuple[str, str], GuestCode] = {}
        codes = [_resolve(vm, spec.engine, images) for vm in spec.vm]
        self._make_generations(sum(map(_has_generation, spec.vm, codes)))
        bases = place_memory(spec, codes)
        return [
            self._vm(spec.engine, vm, code, base)
            for vm, code, base in zip(spec.vm, codes, bases, strict=True)
        ]

    @property
    def in_kernel(self) -> bool:
        """Whether guest memory is touched inside the kernel (KVM)."""
        return "kvm" in self._engines

    def rebuild(self, record: MachineRecord, engine: EngineName) -> list[VmParts]:
        """Make the VMs of a saved machine, of which nothing is loaded and no vCPU is on.

        `engine` is which one they are to have, "auto" the one that saved them.
        """
        self._make_generations(sum(each.generation for each in record.vms))
        layout = Layout()
        for each in record.vms:
            check(each.base % PAGE_SIZE == 0 <= each.base, f"memory cannot be at {each.base:#x}")
            layout.reserve(each.spec.name, each.base, each.spec.memory_bytes)
        return [
            self._saved(each, each.engine if engine == "auto" else engine) for each in record.vms
        ]

    def _saved(self, saved: VmMachineRecord, wanted: EngineId) -> VmParts:
        vm, portable = saved.spec, saved.portable
        engine = self._engine_of(saved, wanted)
        ram, space = self._place(
            engine, vm, saved.architecture, saved.base, generation=saved.generation
        )
        if portable is not None:
            space.set_counter_hz(portable.counter_hz)
        if saved.architecture == "script":  # its programs have the addresses that they had
            code = resolve(vm.name, vm.image, "script")
            assert code.program is not None
            cast("ScriptSpace", space).address_of(code.program)
        return self._assembled(vm, ram, space, saved.base)

    def _engine_of(self, saved: VmMachineRecord, wanted: EngineId) -> Engine:
        """Return the engine of a saved VM; raises UserError for one that cannot take it over."""
        name, portable = saved.spec.name, saved.portable
        same = wanted == saved.engine
        check(
            portable is None or portable.version == PORTABLE_VERSION,
            f"vm {name}: registers of version {portable and portable.version}",
        )
        if not same and portable is None and saved.architecture in PORTABLE:
            raise ConfigError(
                f"vm {name}: engine {saved.engine} saved it in its own form alone: restore it with --engine"
                f" {saved.engine}, and take a new snapshot"
            )
        why = "the snapshot's" if same else f"asked for; engine {saved.engine} saved it"
        try:
            engine = self._engine(wanted, saved.spec, saved.architecture, why)
        except ConfigError as exc:
            if same and portable is not None and wanted == "kvm":
                raise ConfigError(f"{exc}; --engine unicorn can take it over") from None
            raise
        if engine.name != wanted:
            raise ConfigError(f"vm {name}: it was saved by engine {saved.engine}")
        return engine

    def _vm(self, wanted: str, vm: VmSpec, code: GuestCode, base: int) -> VmParts:
        engine = self._engine(wanted, vm, code.machine)
        ram, space = self._place(
            engine, vm, code.machine, base, generation=_has_generation(vm, code)
        )
        entry = _load(vm, code, space, ram, base)
        argument = _device_tree(vm, code, ram, base)
        return self._assembled(vm, ram, space, base, entry, argument)

    def _make_generations(self, vms: int) -> None:
        """Draw generation ids for so many VMs."""
        if not vms:
            return
        try:
            self._generations = made = self._parts.generations(vms)
        except OSError as exc:
            raise ConfigError(f"memory for generation ids: {exc.strerror}") from None
        self._stack.callback(made.close)

    def _place(
        self, engine: Engine, vm: VmSpec, architecture: str, base: int, *, generation: bool
    ) -> tuple[Ram, Space]:
        """Make a VM's memory and its space, with the memory mapped at `base`, and its generation id if wanted."""
        try:
            ram = self._parts.ram(vm.name, vm.memory_bytes)
        except OSError as exc:
            why = f"{vm.memory_bytes} bytes of memory: {exc.strerror}"
            raise ConfigError(f"vm {vm.name}: {why}") from None
        self._stack.callback(ram.close)
        self.rams[vm.name] = ram
        space = engine.space(vm.name, vm.vcpus)
        self._stack.callback(space.close)
        space.map(base, ram, 0, ram.size, Permissions.RWX)
        if generation:
            assert self._generations is not None
            self._generations.map(sum(each.generation for each in self.made.values()), space)
        self.made[vm.name] = MadeVm(engine.name, architecture, base, generation)
        return ram, space

    def _assembled(
        self,
        vm: VmSpec,
        ram: Ram,
        space: Space,
        base: int,
        entry: int | None = None,
        argument: int = 0,
    ) -> VmParts:
        return VmParts(
            vm.name,
            space,
            GuestMemory.whole(ram, base),
            vm.vcpus,
            entry=entry,
            argument=argument,
            dialect=DIALECTS[vm.dialect],
            uuid=NIL_UUID if vm.uuid is None else UUID(vm.uuid),
            raw=vm.framing == "raw",
        )

    def _engine(self, wanted: str, vm: VmSpec, architecture: str, why: str | None = None) -> Engine:
        name, reason = engines.pick(wanted, vm.name, architecture)
        if name not in self._engines:
            self._notice(f"engine {name}: {reason if why is None else why}")
            engine = self._parts.engine(name, self._runtime)
            self._stack.callback(engine.close)
            self._engines[name] = engine
        return self._engines[name]


def _has_generation(vm: VmSpec, code: GuestCode) -> bool:
    """Return whether a VM has a generation id: Hafnium has none, and a guest without a device tree looks for none."""
    return vm.fdt is not None or code.machine == "script"


def _resolve(vm: VmSpec, engine: str, images: dict[tuple[str, str], GuestCode]) -> GuestCode:
    """Return what a VM boots; an image that `images` has is not read again.

    A Python guest is: each VM has the module's variables for itself.
    """
    key = (vm.image, vm.format)
    code = images.get(key)
    if code is None:
        code = resolve(vm.name, vm.image, engine, raw=vm.format == "raw")
        if code.image is not None:
            images[key] = code
    return code


def place_memory(spec: MachineSpec, codes: list[GuestCode]) -> list[int]:
    """Return the IPA of each VM's memory: fixed ones are placed first."""
    layout = Layout()
    for base, size, _ in windows_of(max(len(vm.device) for vm in spec.vm)):
        layout.reserve_window(f"virtio@{base:x}", base, size)
    bases: dict[str, int] = {}
    for vm, code in zip(spec.vm, codes, strict=True):
        fixed = None if code.image is None else code.image.fixed_base
        wanted = fixed if vm.base_address is None else vm.base_address
        if wanted is not None:
            try:
                bases[vm.name] = layout.reserve(vm.name, wanted, vm.memory_bytes)
            except ConfigError as exc:
                why = ""
                if vm.base is None:
                    why = f" ({vm.image} is linked to be there: link it elsewhere, or with -fPIE -pie)"
                raise ConfigError(f"{exc}{why}") from None
    for vm, code in zip(spec.vm, codes, strict=True):
        if vm.name not in bases:
            alignment = _alignment(vm.memory_bytes, code.image)
            bases[vm.name] = layout.place(vm.name, vm.memory_bytes, alignment)
    return [bases[vm.name] for vm in spec.vm]


def _alignment(size: int, image: Image | None) -> int:
    """Return what the address of `size` bytes of memory with an image must be a multiple of.

    Hafnium, which loads flat images alone, takes the next page below.  A Linux kernel's header asks
    for 2 MiB; memory of another size is no kernel's, and lies where Hafnium puts it.
    """
    if image is None or (image.kind == "linux-raw" and size % image.alignment):
        return PAGE_SIZE
    return image.alignment


def _load(vm: VmSpec, code: GuestCode, space: Space, ram: Ram, base: int) -> int:
    """Load what a VM boots; return its entry address."""
    if code.image is not None:
        try:
            return place(code.image, ram, base, fresh=True)
        except UserError as exc:
            raise type(exc)(f"vm {vm.name}: {exc}") from None
    assert code.program is not None
    return cast("ScriptSpace", space).address_of(code.program)


def _device_tree(vm: VmSpec, code: GuestCode, ram: Ram, base: int) -> int:
    """Return x0 of the first vCPU: the FDT's address where there is one, else the memory size."""
    if vm.fdt is None:
        return ram.size
    from hfsched.memory.fdt import place_fdt, with_memory  # noqa: PLC0415 - only where there is one

    try:
        if vm.fdt == FDT_AUTO:
            from hfsched.vmm.devicetree import (  # noqa: PLC0415 - only where it is wanted
                DeviceNode,
                device_tree,
            )

            blob = device_tree(
                base,
                ram.size,
                vm.vcpus,
                machine=code.machine,
                bootargs=vm.bootargs or "",
                devices=[
                    DeviceNode.generation_id(),
                    *(DeviceNode.virtio_mmio(*where) for where in windows_of(len(vm.device))),
                ],
            )
        else:
            blob = with_memory(read_bytes(vm.fdt), base, ram.size)
        return place_fdt(blob, ram, base, used=_end(code.image, base))
    except UserError as exc:
        why = str(exc).removeprefix(f"{vm.fdt}: ")
        raise ConfigError(f"vm {vm.name}: fdt {vm.fdt}: {why}") from None


def _end(image: Image | None, base: int) -> int:
    """Return how many bytes from the start of the memory an image takes."""
    if image is None:
        return 0
    return image.memory_size + (0 if image.fixed_base is None else image.fixed_base - base)
