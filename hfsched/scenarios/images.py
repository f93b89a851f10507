"""Real guest images on the engine unicorn, switched after any number of instructions.

The production hypervisor, driver, mirror and ports, over CPUs that run the bundled images.  Hosts
send numbered texts without waiting; each must get every answer once, in order.  Guests:

- ``echo``: sends each message back; never enables an interrupt;
- ``trusty``: threads, MAILBOX_READABLE, fast and slow calls: asked to echo texts;
- ``smp``: two vCPUs that take turns at the mailbox;
- ``relay``: two VMs, relay and echo: messages pass through both and back;
- ``pair``: two VMs, echo and echo: hosts send to both in turn;
- ``twins``: two VMs, trusty and trusty, likewise.

`cuts` slices of an execution end after a number of instructions that the strategy chooses; all others
end at the guest's next exit.  So other tasks run in the middle of a guest's code.

Implementation note.  A machine is booted once in a process; each execution begins with its state after
the boot restored: the pages that were written, the registers, the hypervisor's records.  Its clock
does not advance.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, ClassVar

from hfsched.explore.registry import Variant, check_ranges, spec_of
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import World
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.thing import Thing
from hfsched.hypervisor.records import VmRecord
from hfsched.hypervisor.vm import Vcpu, Vm
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.ports import PortMessage, frame
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.image import place, read_image
from hfsched.scenarios.machine import not_empty
from hfsched.scenarios.memory import RewindRam
from hfsched.scenarios.recording import machine_state, opaque_parts
from hfsched.scenarios.variants import PARTS, VARIANTS
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.turn import Turn
from hfsched.vcpu.unicorn.cpu import SLICE, UnicornVcpu
from hfsched.vcpu.unicorn.library import load
from hfsched.vcpu.unicorn.space import UnicornSpace
from hfsched.vmm.assembly import VmParts, assemble
from hfsched.vmm.guests import bundled_images

if TYPE_CHECKING:
    from hfsched.vmm.assembly import Assembly, Parts

__all__ = ["GUESTS", "BootedMachines", "ImagesScenario"]

BASE = 0x7F00_0000
MEMORY = 1 << 20
GUESTS: Mapping[str, tuple[str, ...]] = {
    "echo": ("echo",),
    "trusty": ("trusty",),
    "smp": ("smp",),
    "relay": ("relay", "echo"),
    "pair": ("echo", "echo"),
    "twins": ("trusty", "trusty"),
}
APART = ("pair", "twins")  # hosts send to both VMs in turn
VCPUS = {"smp": 2}
UNINTERRUPTED = ("echo", "pair")  # no other thread uses their CPUs' flags
TEXT_PORT = 1
SLICES_EACH = 12  # about the number of a guest's slices for one message
CUT_MAX = 256  # instructions


class _Machine:
    """One VM's CPUs and RAM, and the snapshot of them and of the hypervisor's records after the boot."""

    def __init__(self, runtime: ExploreRuntime, name: str, image: str) -> None:
        self.name = name
        self.vcpus = VCPUS.get(image, 1)
        self.space = UnicornSpace(runtime, load(), Turn(runtime, "unicorn"), name, self.vcpus)
        self.ram = RewindRam(name, MEMORY)
        self.space.map(BASE, self.ram, 0, MEMORY, Permissions.RWX)
        self.cpus = [self.space.vcpu(index) for index in range(self.vcpus)]
        self.entry = place(read_image(bundled_images()[f"{image}.bin"]), self.ram, BASE)
        self._registers: list[bytes] = []
        self._record: VmRecord | None = None
        self._last: Vm | None = None  # of the execution before

    def take_snapshot(self, vm: Vm) -> None:
        """Take the snapshot that `rewind` restores."""
        self._registers = [cpu.save() for cpu in self.cpus]
        self._record = vm.save()
        self._last = vm
        self.ram.take_snapshot()

    def rewind(self, vm: Vm) -> None:
        """Restore the snapshot, with `vm` as the hypervisor's new record."""
        assert self._record is not None
        assert self._last is not None
        self.ram.rewind()
        with vm.lock:
            vm.restore(self._record, self._last.pages.save())
        self._last = vm
        for vcpu, cpu, registers in zip(vm.vcpus, self.cpus, self._registers, strict=True):
            assert isinstance(cpu, UnicornVcpu)
            cpu.rewind(registers, irq=vcpu.line)


class BootedMachines:
    """The machines of one `guest`, booted; `set_up` begins an execution with them."""

    def __init__(self, guest: str) -> None:
        runtime = ExploreRuntime(RandomWalk(0))
        self.machines = [_Machine(runtime, f"g{n}", image) for n, image in enumerate(GUESTS[guest])]
        assembly = self.assemble(runtime, PARTS[""], boot=True)
        assembly.driver.start()
        runtime.stop_clock()
        runtime.settle()
        failure = runtime.controller.failure
        if failure is not None:
            raise failure
        for machine, vm in zip(self.machines, assembly.vms, strict=True):
            machine.take_snapshot(vm.record)
        runtime.controller.close()

    def assemble(self, runtime: ExploreRuntime, parts: Parts, *, boot: bool) -> Assembly:
        """Assemble a machine of these CPUs and memories; without `boot` its vCPUs are off."""
        turn = Turn(runtime, "unicorn")
        vms = []
        for machine in self.machines:
            machine.space.belong(runtime, turn, lambda: runtime.time)
            entry = machine.entry if boot else None
            vms.append(
                VmParts(
                    machine.name,
                    machine.space,
                    GuestMemory.whole(machine.ram, BASE),
                    machine.vcpus,
                    entry,
                    MEMORY,
                )
            )
        return assemble(runtime, opaque_parts(runtime, parts), vms)

    def set_up(self, runtime: ExploreRuntime, parts: Parts) -> Assembly:
        """Restore the machines and start their threads, which wait when this returns."""
        assembly = self.assemble(runtime, parts, boot=False)
        records = [vm.record for vm in assembly.vms]
        for machine, vm in zip(self.machines, records, strict=True):
            machine.rewind(vm)
            _Memory(runtime, f"{machine.name}.ram", machine.ram)
        assembly.driver.start()
        for vm in records:
            for vcpu in vm.vcpus:
                runtime.attach(f"{vm.name}.{vcpu.index}", partial(_state, vcpu))
        runtime.declare_private("*.direct")
        runtime.settle()
        for vm in records:
            vm.spurious = 0
        return assembly

    def close(self) -> None:
        """Free the machines."""
        for machine in self.machines:
            machine.space.close()
            machine.ram.close()


class _Memory(Thing):
    """A VM's memory as part of the state."""

    def __init__(self, runtime: ExploreRuntime, name: str, ram: RewindRam) -> None:
        super().__init__(runtime, name)
        self._ram = ram

    def key(self) -> Hashable:
        return self._ram.digest()


def _state(vcpu: Vcpu) -> Hashable:
    return vcpu.cpu.state_key()


class _Cuts(Thing):
    """The points at which guests are interrupted: {slice, instructions}, drawn at the first slice."""

    def __init__(self, runtime: ExploreRuntime, count: int, slices: int) -> None:
        super().__init__(runtime, "cuts")
        self._count = count
        self._among = 1 + slices
        self._at: dict[int, int] | None = None
        self._slices = 0

    def __call__(self) -> int:
        """Return the maximum number of instructions of the next slice."""
        if self.runtime.settling:
            return SLICE
        if self._at is None:
            choose = self.runtime.choose
            drawn = [
                (choose("slice to cut", self._among), 1 + choose("instructions", CUT_MAX))
                for _ in range(self._count)
            ]
            self._at = {at: instructions for at, instructions in drawn if at}
        self._slices = min(self._slices + 1, self._among)  # no later one is cut
        return self._at.get(self._slices, SLICE)

    def key(self) -> Hashable:
        """See `Thing`."""
        at = None if self._at is None else tuple(sorted(self._at.items()))
        return (at, self._slices)


@cache
def _booted(guest: str) -> BootedMachines:
    return BootedMachines(guest)


@dataclass(frozen=True)
class ImagesScenario:
    """`hosts` host tasks send `messages` texts each to a bundled `guest` image."""

    guest: str = "echo"
    messages: int = 2
    hosts: int = 1
    cuts: int = 2
    variant: str = ""

    engine: ClassVar[str] = "unicorn"
    values: ClassVar[Mapping[str, Collection[str]]] = {"guest": GUESTS}
    variants: ClassVar[Mapping[str, Variant]] = {
        "upstream": VARIANTS["upstream"],
    }

    def __post_init__(self) -> None:
        if self.guest not in GUESTS:
            raise ValueError(f"guest={self.guest}: known: {', '.join(GUESTS)}")
        check_ranges(self, ("messages", 1, 100), ("hosts", 1, 100), ("cuts", 0, 16))
        missing = {f"{image}.bin" for image in GUESTS[self.guest]} - set(bundled_images())
        if missing:
            raise ValueError(f"{', '.join(sorted(missing))}: not built: script/guests builds it")
        load()  # raises UserError without Unicorn

    @property
    def name(self) -> str:
        """The canonical spec."""
        return spec_of("images", self)

    def small(self) -> ImagesScenario:
        """Return the size whose every interleaving a race pass runs."""
        return replace(self, messages=1, hosts=1, cuts=0)

    def build(self, runtime: ExploreRuntime) -> World:
        """Restore the booted machines, and create the hosts."""
        booted = _booted(self.guest)
        assembly = booted.set_up(runtime, PARTS[self.variant])
        each = SLICES_EACH * len(booted.machines)
        cuts = _Cuts(runtime, self.cuts, each * self.messages * self.hosts)
        for machine in booted.machines:
            for cpu in machine.cpus:
                assert isinstance(cpu, UnicornVcpu)
                cpu.cut = cuts if self.cuts else None
        targets = assembly.vms if self.guest in APART else assembly.vms[:1]
        outboxes = [vm.outbox for vm in targets]
        answers: dict[int, list[str]] = {number: [] for number in range(self.hosts)}
        ended: list[int] = []

        def host(number: int, port: int) -> None:
            outbox = outboxes[number % len(outboxes)]
            for index in range(self.messages):
                runtime.retain_only(index)
                text = self._text(number, index)
                assert outbox.send(frame(port, TEXT_PORT, text.encode())) is Sent.SENT
            ended.append(number)

        def arrived(number: int, port_message: PortMessage) -> None:
            answers[number].append(port_message.payload.decode())

        runtime.declare_records(ended, answers, reason="what the oracles compare")
        if self.guest in UNINTERRUPTED:
            runtime.declare_private("*.kick", "*.irq", "*.changed", "*.running")
        if self.hosts == 1 or (self.hosts == 2 and len(outboxes) == 2):
            runtime.declare_private("*.outbox")
        for number in range(self.hosts):
            target = targets[number % len(targets)]
            port = assembly.ports.open(target.id, None, partial(arrived, number))
            runtime.spawn(f"host.{number}", partial(host, number, port.number))

        def check() -> None:
            for vm in assembly.vms:
                state = vm.record.mailbox.state
                assert state is RxState.EMPTY, f"{vm.name}: {not_empty(state)}"
            for number, got in answers.items():
                assert number in ended, f"host {number} has not ended"
                wanted = [self._answer(number, index) for index in range(self.messages)]
                seen = [text.rpartition(": ")[2] for text in got]
                assert seen == wanted, f"host {number}: {len(wanted)} sent, answered {got}"

        def final() -> Hashable:
            return tuple(tuple(got) for got in answers.values())

        watch = partial(machine_state, assembly.hypervisor.registry, assembly.driver)
        return World(check, final=final, timers=False, watch=watch)

    def _text(self, number: int, index: int) -> str:
        text = self._answer(number, index)
        return f"echo {text}" if self.guest in ("trusty", "twins") else text

    def _answer(self, number: int, index: int) -> str:
        return f"{number}/{index}"
