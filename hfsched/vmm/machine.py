"""A running machine: engines, VMs, hypervisor, scheduler and ports, from a description."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from uuid import UUID

from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.errors import ConfigError, UserError
from hfsched.hypervisor.hypervisor import Hypervisor
from hfsched.hypervisor.vm import NIL_UUID
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import VcpuActivity
from hfsched.mailbox.ports import Ports
from hfsched.memory.fdt import place_fdt, with_memory
from hfsched.memory.image import Image, place, read_bytes
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.scheduler.driver import DrivenVm, Driver
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Outbox
from hfsched.scheduler.suspension import Step, SuspendThrottle, Suspension
from hfsched.vcpu.engine import Engine, Permissions, Space
from hfsched.vcpu.script import ScriptSpace
from hfsched.vmm import engines
from hfsched.vmm.guests import GuestCode, resolve
from hfsched.vmm.layout import Layout

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vmm.manifest import MachineSpec, VmSpec
    from hfsched.vmm.swapidle import SwapIdle
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["Machine", "VmSummary"]

_BLOCK = 2 << 20  # stage 2 maps 2 MiB at once where it can
_STOP_WITHIN = 5_000_000_000
_DIALECTS = {FFA_1_0.name: FFA_1_0}


@dataclass(frozen=True, slots=True)
class VmSummary:
    """What happened to one VM.

    Messages: accepted from the host, brought to the host, sent to other VMs; unread in the mailbox
    at the end; for a host port that nobody opened, for a connection that had gone, without a
    header, and not brought anywhere because the machine stopped.  `vcpus` says what each does.
    """

    name: str
    from_host: int
    to_host: int
    to_guests: int
    unread: int
    unclaimed: int
    discarded: int
    malformed: int
    lost: int
    runs: dict[str, int]
    wake_ups: int
    spurious: int
    abort: str | None
    vcpus: tuple[str, ...]


@dataclass(slots=True)
class _Part:
    """A VM's parts, floor by floor."""

    spec: VmSpec
    driven: DrivenVm
    outbox: Outbox
    spurious: Callable[[], int]
    waits: Callable[[int], bool]


class Machine:
    """Made from a description, started once, closed once; use it in a ``with``.

    `log(vm, line)` gets each line that a guest prints, `notice(text)` what the user may want to
    know, `on_abort(vm, reason)` is told of a VM's death, `on_activity` is called whenever `quiet` may
    have changed; none of them may block.
    `swap` moves guest memory out and back where the description has a directory for it, else it is
    None.  Raises UserError (ConfigError, ImageError) for what cannot be built.
    """

    def __init__(
        self,
        spec: MachineSpec,
        runtime: Runtime,
        log: Callable[[str, bytes], None],
        notice: Callable[[str], None] = lambda _text: None,
        on_abort: Callable[[str, str], None] = lambda _vm, _reason: None,
        on_activity: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = spec.name or f"m{os.getpid()}"
        self._runtime = runtime
        self._notice = notice
        self._stack = ExitStack()
        self._layout = Layout()
        self._engines: dict[str, Engine] = {}
        self._parts: dict[str, _Part] = {}
        self._stuck: list[str] | None = None  # once stopped: the vCPUs whose threads did not end
        self._on_abort = on_abort
        self._on_activity = on_activity
        self.aborts: dict[str, str] = {}
        self.hypervisor = Hypervisor(runtime, log)
        self.ports = Ports(runtime)
        on_idle = on_activity if spec.swap_idle is None else self._rests
        self.driver = Driver(runtime, self.hypervisor, self.ports, self._aborted, on_idle)
        self._spaces: list[Space] = []
        self._rams: dict[str, Ram] = {}
        self.suspension = Suspension(
            runtime,
            [
                SuspendThrottle(runtime).step,
                Step("vCPUs and senders", self.driver.suspend, self.driver.resume),
                Step("clocks", self._freeze, self._thaw),
            ],
        )
        self.swap: MachineSwap | None = None
        self._swap_idle: SwapIdle | None = None
        try:
            self._build(spec)
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # Building.

    def _build(self, spec: MachineSpec) -> None:
        codes = [resolve(vm.name, vm.image, spec.engine) for vm in spec.vm]
        bases = self._place(spec, codes)
        for vm, code, base in zip(spec.vm, codes, bases, strict=True):
            self._add(spec.engine, vm, code, base)
        self._stack.callback(self._wait_for_senders)
        if spec.swap is not None:
            self._open_swap(Path(spec.swap), spec.swap_idle_ns)

    def _place(self, spec: MachineSpec, codes: list[GuestCode]) -> list[int]:
        """Return where each VM's memory goes: first those that must lie somewhere."""
        bases: dict[str, int] = {}
        for vm, code in zip(spec.vm, codes, strict=True):
            fixed = None if code.image is None else code.image.fixed_base
            wanted = vm.base if vm.base is not None else fixed
            if wanted is not None:
                try:
                    bases[vm.name] = self._layout.reserve(vm.name, wanted, vm.memory_bytes)
                except ConfigError as exc:
                    why = f" ({vm.image} is linked to be there)" if vm.base is None else ""
                    raise ConfigError(f"{exc}{why}") from None
        for vm, code in zip(spec.vm, codes, strict=True):
            if vm.name not in bases:
                alignment = _BLOCK if vm.memory_bytes % _BLOCK == 0 else PAGE_SIZE
                if code.image is not None:
                    alignment = max(alignment, code.image.alignment)
                bases[vm.name] = self._layout.place(vm.name, vm.memory_bytes, alignment)
        return [bases[vm.name] for vm in spec.vm]

    def _add(self, wanted: str, vm: VmSpec, code: GuestCode, base: int) -> None:
        engine = self._engine(wanted, vm, code)
        try:
            ram = Ram(vm.name, vm.memory_bytes)
        except OSError as exc:
            why = f"{vm.memory_bytes} bytes of memory: {exc.strerror}"
            raise ConfigError(f"vm {vm.name}: {why}") from None
        self._stack.callback(ram.close)
        self._rams[vm.name] = ram
        space = engine.space(vm.name, vm.vcpus)
        self._stack.callback(space.close)
        self._spaces.append(space)
        space.map(base, ram, 0, ram.size, Permissions.RWX)
        entry = self._load(vm, code, space, ram, base)
        argument = self._device_tree(vm, code, ram, base)
        uuid = NIL_UUID if vm.uuid is None else UUID(vm.uuid)
        record = self.hypervisor.registry.add(
            vm.name, _DIALECTS[vm.dialect], space, ram, base, vm.vcpus, uuid
        )
        self.hypervisor.start(record.id, entry, argument)
        driven = self.driver.add(record.id, raw=vm.framing == "raw")
        outbox = Outbox(self._runtime, self.hypervisor, self.driver, driven)
        self._parts[vm.name] = _Part(
            vm,
            driven,
            outbox,
            lambda: record.spurious,
            lambda index: record.vcpus[index].cpu.waits(),
        )

    def _open_swap(self, directory: Path, idle_ns: int | None) -> None:
        from hfsched.vmm.swapidle import SwapIdle  # noqa: PLC0415 - only where it is wanted
        from hfsched.vmm.swapping import MachineSwap  # noqa: PLC0415 - only where it is wanted

        kernel = "kvm" in self._engines
        self.swap = MachineSwap(
            self._runtime, directory, self._rams, self.suspension, kernel=kernel
        )
        self._stack.callback(self.swap.close)
        if idle_ns is not None:
            self._swap_idle = SwapIdle(self._runtime, self.swap, self._runs_ended, idle_ns)
            self._stack.callback(self._swap_idle.close)

    def _engine(self, wanted: str, vm: VmSpec, code: GuestCode) -> Engine:
        name, why = engines.pick(wanted, vm.name, code.machine)
        if name not in self._engines:
            self._notice(f"engine {name}: {why}")
            engine = engines.make(name, self._runtime)
            self._stack.callback(engine.close)
            self._engines[name] = engine
        return self._engines[name]

    def _load(self, vm: VmSpec, code: GuestCode, space: Space, ram: Ram, base: int) -> int:
        if code.image is not None:
            try:
                return place(code.image, ram, base)
            except UserError as exc:
                raise type(exc)(f"vm {vm.name}: {exc}") from None
        assert isinstance(space, ScriptSpace)
        assert code.program is not None
        return space.address_of(code.program)

    def _device_tree(self, vm: VmSpec, code: GuestCode, ram: Ram, base: int) -> int:
        """Return x0 of the first vCPU: the FDT's address where there is one, else the memory size."""
        if vm.fdt is None:
            return ram.size
        try:
            blob = with_memory(read_bytes(vm.fdt), base, ram.size)
            return place_fdt(blob, ram, base, used=_end(code.image, base))
        except UserError as exc:
            raise ConfigError(f"vm {vm.name}: fdt {vm.fdt}: {exc}") from None

    # Running.

    def start(self) -> None:
        """Start every vCPU's thread."""
        self.driver.start()
        if self._swap_idle is not None:
            self._swap_idle.start()

    def stop(self) -> list[str]:
        """Stop every vCPU; return the names of those whose threads did not end (a bug of ours)."""
        if self._stuck is None:
            if self._swap_idle is not None:
                self._swap_idle.end()
            self._stuck = self.driver.stop(self._runtime.now() + _STOP_WITHIN)
        return self._stuck or []

    def close(self) -> None:
        """Stop, and free everything, unless a thread that did not stop still uses it."""
        if not self.stop():
            self._stack.close()

    def _wait_for_senders(self) -> None:
        """Free nothing more while a host sender is half-way through a message.

        It may have waited for memory that was out, and go on now that swap has let go of it.
        """
        out = self._stuck is None  # it has not become whole, and nobody has an endpoint
        try:
            out = out or self.driver.wait_quiesced(self._runtime.now() + _STOP_WITHIN)
        finally:
            if not out:  # whoever touches memory that is gone ends the process
                self._stack.pop_all()

    def _freeze(self, _deadline: int | None) -> bool:
        for space in self._spaces:
            space.freeze()
        return True

    def _thaw(self) -> None:
        for space in self._spaces:
            space.thaw()

    def _rests(self) -> None:
        """Note, on a vCPU's thread, that it goes to sleep or ends."""
        if self._swap_idle is not None:
            self._swap_idle.note_rest()
        self._on_activity()

    def _aborted(self, name: str, reason: str) -> None:
        self.aborts[name] = reason
        self._on_abort(name, reason)
        self._on_activity()

    # What host programs need.

    def vm_names(self) -> list[str]:
        """Return the names of the VMs, in order."""
        return list(self._parts)

    def endpoint(self, vm: str, port: int, local: int | None = None) -> Endpoint:
        """Connect to a VM's port; raises UserError for an unknown VM or a host port in use."""
        part = self._parts.get(vm)
        if part is None:
            raise UserError(f"no VM {vm!r} here: there are {', '.join(self._parts)}")
        return Endpoint(part.outbox, self.ports.open(part.driven.id, local), port)

    def text_port(self, vm: str) -> int:
        """Return the port of a VM that takes text."""
        return self._parts[vm].spec.text_port

    # What an onlooker asks.

    def quiet(self) -> bool:
        """Tell whether every accepted message is released and nothing will happen by itself.

        All vCPUs rest with no deadline.  A look at one VM after another could miss a message that
        crosses from those not yet seen to those seen: so nothing may have been claimed meanwhile.
        """
        before = self._claims()
        return (
            before is not None
            and all(self._released(part) for part in self._parts.values())
            and self.ports.waiting() == 0
            and before == self._claims()
        )

    def _claims(self) -> int | None:
        total = 0
        for part in self._parts.values():
            seen = part.driven.mirror.quiet()
            if not seen.resting:
                return None
            total += seen.claims
        return total

    def _released(self, part: _Part) -> bool:
        info = self.hypervisor.info(part.driven.id)
        assert info is not None
        return info.abort_reason is not None or (
            part.outbox.waiting() == 0 and info.rx is RxState.EMPTY
        )

    def runs(self) -> dict[str, int]:
        """Return for each vCPU inside a RUN the number of RUNs so far: it spins if that stays.

        A guest that waits for an interrupt there (arm64 under KVM) is left out.
        """
        return {
            f"{part.spec.name}.{index}": sum(counters.runs.values())
            for part in self._parts.values()
            for index, counters in enumerate(part.driven.counters)
            if part.driven.mirror.activity(index) is VcpuActivity.RUNNING and not part.waits(index)
        }

    def _runs_ended(self) -> int | None:
        """Return how many RUNs the guests have ended themselves; None while a vCPU is busy in one."""
        if self.runs():
            return None
        return sum(
            sum(counters.runs.values()) - counters.runs["Preempted"]
            for part in self._parts.values()
            for counters in part.driven.counters
        )

    def summary(self) -> list[VmSummary]:
        """Return what happened so far."""
        return [self._summary(part) for part in self._parts.values()]

    def _summary(self, part: _Part) -> VmSummary:
        driven = part.driven
        info = self.hypervisor.info(driven.id)
        assert info is not None
        runs: Counter[str] = Counter()
        for counters in driven.counters:
            runs.update(counters.runs)
        unclaimed, discarded, malformed = self.ports.counts(driven.id)
        return VmSummary(
            name=part.spec.name,
            from_host=part.outbox.accepted,
            to_host=sum(counters.to_host for counters in driven.counters),
            to_guests=sum(counters.to_guests for counters in driven.counters),
            unread=int(info.rx is RxState.RECEIVED),
            unclaimed=unclaimed,
            discarded=discarded,
            malformed=malformed,
            lost=sum(counters.lost for counters in driven.counters),
            runs=dict(runs.most_common()),
            wake_ups=driven.mirror.wake_ups,
            spurious=part.spurious(),
            abort=info.abort_reason,
            vcpus=info.states,
        )


def _end(image: Image | None, base: int) -> int:
    """Return how many bytes from the start of the memory an image takes."""
    if image is None:
        return 0
    return image.memory_size + (0 if image.fixed_base is None else image.fixed_base - base)
