"""A machine to explore: the production hypervisor, driver, mirror and outbox over script guests."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from hfsched.abi.ffa_1_0 import FFA_1_0
from hfsched.explore.objects import Thing
from hfsched.explore.opaque import opaque_call
from hfsched.hypervisor.interface import Injection
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.ports import Ports
from hfsched.scenarios.guests import GO, Notes
from hfsched.scenarios.memory import HeapRam
from hfsched.scenarios.recording import machine_words, recorded
from hfsched.scenarios.variants import Parts
from hfsched.scheduler.outbox import Outbox, Sent
from hfsched.scheduler.suspension import Step, Suspension
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Program, ScriptSpace

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.hypervisor.interface import PrimaryInterface
    from hfsched.hypervisor.vm import Vm
    from hfsched.scheduler.driver import DrivenVm, Driver

__all__ = ["Guest", "Host", "ScenarioMachine"]

BASE = 0x1000_0000
SIZE = 0x4000
RX, TX = 0x1000, 0x2000


class Guest:
    """One VM of the machine, with what its guest noted."""

    def __init__(self, vm: Vm, driven: DrivenVm, outbox: Outbox, notes: Notes) -> None:
        self.vm = vm
        self.driven = driven
        self.mirror = driven.mirror  # not opaque: to look at
        self.outbox = outbox
        self.notes = notes

    def state(self, index: int) -> Hashable:
        """Return what vCPU `index` alone touches."""
        return (self.vm.vcpus[index].cpu.state_key(), self.notes.key())


class Host:
    """A host program that sends {number, n} for n below `messages`."""

    @property
    def name(self) -> str:
        """Its task's name."""
        return f"host.{self.number}"

    def __init__(self, machine: ScenarioMachine, number: int, to: Guest, messages: int) -> None:
        self._machine = machine
        self.number = number
        self.to = to
        self._messages = messages
        self.sent: list[bytes] = []
        self.ended = False

    def run(self) -> None:
        """Send them all; the end of the VM ends it too."""
        for index in range(self._messages):
            self._machine.runtime.retain_only(index)
            message = bytes((self.number, index))
            if self.to.outbox.send(message) is not Sent.SENT:
                break
            self.sent.append(message)
        self.ended = True


class ScenarioMachine:
    """The machine.  VMs are added, `start` boots them, then hosts and other tasks are spawned."""

    def __init__(self, runtime: ExploreRuntime, parts: Parts) -> None:
        self.runtime = runtime
        self._parts = parts
        self.hypervisor = parts.hypervisor(runtime, lambda _vm, _line: None)
        self.hypervisor._calls = opaque_call(runtime, self.hypervisor._calls)
        self.notifying: set[str] = set()  # tasks that are telling waiters
        self._waiters = _Waiters(runtime)
        seen = recorded(runtime, opaque_call(runtime, self.hypervisor), self.hypervisor.registry)
        self.primary: PrimaryInterface = _Watched(self, seen)
        self.driver: Driver = parts.driver(runtime, self.primary, Ports(runtime))
        driver = self.driver
        self.suspension = Suspension(runtime, [Step("vCPUs", driver.suspend, driver.resume)])
        self.guests: list[Guest] = []
        self.aborts: list[tuple[str, str]] = []
        self.driver._on_abort = lambda name, why: self.aborts.append((name, why))

    def vm(
        self,
        name: str,
        vcpus: int,
        programs: Callable[[Notes, int], Sequence[Program]],
        ram: HeapRam | None = None,
    ) -> Guest:
        """Add a VM with mapped buffers; `programs(notes, id)` gives vCPU 0's and the others'."""
        space = ScriptSpace(self.runtime, name, vcpus)
        memory = HeapRam(name, SIZE) if ram is None else ram
        space.map(BASE, memory, 0, SIZE, Permissions.RWX)
        vm = self.hypervisor.registry.add(name, FFA_1_0, space, memory, BASE, vcpus)
        vm.mailbox = self._parts.mailbox()
        vm.mailbox.rx, vm.mailbox.tx = RX, TX
        notes = Notes()
        made = programs(notes, vm.id)
        for index, vcpu in enumerate(vm.vcpus):
            program = made[min(index, len(made) - 1)]
            vcpu.start = (space.address_of(program), SIZE)
            vcpu.state = type(vcpu.state).READY
        driven = self.driver.add(vm.id, raw=True)
        outbox = Outbox(self.runtime, self.primary, self.driver, driven)
        guest = Guest(vm, driven, outbox, notes)
        driven.mirror = opaque_call(self.runtime, driven.mirror)
        self.guests.append(guest)
        return guest

    def start(self, *, boot: bool, kicks: bool = False) -> None:
        """Start the vCPUs' threads; without `boot` they come to rest, and that is not explored.

        `kicks` says that somebody may preempt a vCPU.
        """
        self.driver.start()
        for guest in self.guests:
            for index in range(len(guest.vm.vcpus)):
                self.runtime.attach(f"{guest.vm.name}.{index}", partial(guest.state, index))
        self.runtime.declare_private("*.direct")  # nobody makes direct requests here
        if not kicks:
            self.runtime.declare_private("*.kick")
        if not boot:
            self.runtime.settle()

    def go(self, guest: Guest, vcpu: int = 0) -> None:
        """Let a guest that waits for `GO` begin."""
        if self.primary.inject(guest.vm.id, vcpu, GO) is Injection.WAKE:
            guest.driven.mirror.wake(vcpu)

    def declare_exclusive(self, guest: Guest, receiver: Guest) -> None:
        """Say when nobody but its own thread touches a sending guest's VM.

        It is told by whoever tells the receiver's waiters, and that only if it is one of them.
        """

        def alone() -> bool:
            return not self.notifying and guest.vm.id not in receiver.vm.mailbox.waiters

        self.runtime.declare_exclusive(f"{guest.vm.name}.0", f"{guest.vm.name}.*", alone)

    def look_at_waiters(self) -> None:
        """Look, before every step, whether a waiter was told in vain.

        It may be: another was quicker.  But a mailbox that has not been empty since the waiter was
        refused cannot have become writable; told so and refused again, it may go on for ever.
        """
        self._waiters.look(self.hypervisor.registry.vms.values())

    def words(self) -> dict[str, str]:
        """Return what a story shows beside each step."""
        return dict(machine_words(self.hypervisor.registry, self.driver))


class _Waiters(Thing):
    """{VM, waiter} for who waits, with whether the mailbox has been empty since."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "waiters")
        self._empty: dict[tuple[int, int], bool] = {}

    def key(self) -> Hashable:
        return tuple(sorted(self._empty.items()))

    def look(self, vms: Iterable[Vm]) -> None:
        seen = self._empty
        for vm in vms:
            empty = vm.mailbox.state is RxState.EMPTY
            for waiter in vm.mailbox.waiters:
                seen[vm.id, waiter] = seen.get((vm.id, waiter), False) or empty
        if seen:
            self._check({vm.id: vm for vm in vms})

    def _check(self, vms: dict[int, Vm]) -> None:
        for number, waiter in list(self._empty):
            if waiter not in vms[number].mailbox.waiters:
                assert self._empty.pop((number, waiter)), (
                    f"{waiter} is told that {vms[number].name} is writable, and it has not been "
                    "empty since it was refused: a livelock"
                )


class _Watched:
    """The primary's interface; notes who is telling waiters."""

    def __init__(self, machine: ScenarioMachine, primary: PrimaryInterface) -> None:
        self._machine = machine
        self._primary = primary

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._primary, name)
        self.__dict__[name] = found
        return found

    def waiter(self, vm: int) -> int | None:
        """See `PrimaryInterface.waiter`."""
        task = self._machine.runtime.current
        name = "" if task is None else task.name
        self._machine.notifying.add(name)
        waiter = self._primary.waiter(vm)
        if waiter is None:
            self._machine.notifying.discard(name)
        return waiter
