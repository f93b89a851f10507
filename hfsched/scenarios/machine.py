"""A machine to explore: the production hypervisor, driver, mirror and outbox over script guests."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from hfsched.explore.thing import Thing
from hfsched.hypervisor.interface import Injection, PrimaryInterface
from hfsched.mailbox.mailbox import RxState
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import Ram
from hfsched.scenarios.guests import START, GuestLog
from hfsched.scenarios.memory import ComparedRam
from hfsched.scenarios.recording import machine_state, opaque_parts
from hfsched.scheduler.outbox import Sent
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Program, ScriptSpace
from hfsched.vmm.assembly import Callbacks, VmParts, assemble

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.hypervisor.hypervisor import Hypervisor
    from hfsched.hypervisor.vm import Vm
    from hfsched.mailbox.mirror import Mirror
    from hfsched.vmm.assembly import AssembledVm, Parts

__all__ = ["WITHIN", "Courier", "Guest", "Host", "ScenarioMachine", "not_empty"]

BASE = 0x1000_0000
SIZE = 0x4000
RX, TX = 0x1000, 0x2000
WITHIN = 1000  # ns: a deadline


def not_empty(state: RxState) -> str:
    """Return the message of a mailbox that is not empty at the end."""
    if state is RxState.RECEIVED:
        return "lost wake-up: unread message, all vCPUs asleep"
    return f"a message was read and not released ({state.value}), all vCPUs asleep"


class Guest:
    """One VM of the machine, with its guest's log."""

    def __init__(self, made: AssembledVm, mirror: Mirror, log: GuestLog) -> None:
        self.vm = made.record
        self.driven = made.driven
        self.outbox = made.outbox
        self.mirror = mirror  # without opaque calls, for oracles
        self.log = log

    def state(self, index: int) -> Hashable:
        """Return the state that only vCPU `index` changes."""
        return (self.vm.vcpus[index].cpu.state_key(), self.log.key())


class Host:
    """A host program that sends {number, n} for n below `messages`; one that is `hurried` gives up a message after a while."""

    @property
    def name(self) -> str:
        """Its task's name."""
        return f"host.{self.number}"

    def __init__(
        self,
        machine: ScenarioMachine,
        number: int,
        to: Guest,
        messages: int,
        *,
        hurried: bool = False,
    ) -> None:
        self._machine = machine
        self._hurried = hurried
        self.number = number
        self.to = to
        self._messages = messages
        self.sent: list[bytes] = []
        self.ended = False

    def run(self) -> None:
        """Send all messages; end early if the VM has ended."""
        for index in range(self._messages):
            self._machine.runtime.retain_only(index)
            message = bytes((self.number, index))
            sent = self._send(message)
            if sent is Sent.DEAD:
                break
            if sent is Sent.SENT:
                self.sent.append(message)
        self.ended = True

    def _send(self, message: bytes) -> Sent:
        deadline = self._machine.runtime.now() + WITHIN if self._hurried else None
        return self.to.outbox.send(message, deadline)


class Courier(Host):
    """A host program that never waits inside a send, as that of the utility services."""

    def __init__(self, machine: ScenarioMachine, number: int, to: Guest, messages: int) -> None:
        super().__init__(machine, number, to, messages)
        self._place = to.outbox.place()

    def _send(self, message: bytes) -> Sent:
        while (sent := self._place.try_send(message)) is Sent.BUSY:
            self._machine.runtime.retain_only(message, level=1)
            self._place.room.wait()
        return sent


class ScenarioMachine:
    """The machine.  VMs are added, `start` boots them, then hosts and other tasks are spawned.

    It is assembled of `parts`; calls into the hypervisor and the mirrors are opaque.
    `on_idle` is called whenever a vCPU may have begun to wait.
    """

    def __init__(
        self, runtime: ExploreRuntime, parts: Parts, on_idle: Callable[[], None] = lambda: None
    ) -> None:
        self.runtime = runtime
        self.notifying: set[str] = set()  # tasks that notify waiters
        self._waiters = _Waiters(runtime)
        self._mirrors: dict[str, Mirror] = {}
        self.aborts: list[tuple[str, str]] = []
        runtime.declare_records(self.aborts, self.notifying, reason="what the oracles compare")
        seen = opaque_parts(
            runtime, replace(parts, mirror=partial(self._keep_mirror, parts.mirror))
        )
        seen = replace(seen, interface=partial(self._tracked, seen.interface))
        callbacks = Callbacks(
            on_abort=lambda name, why: self.aborts.append((name, why)), on_idle=on_idle
        )
        self.assembly = assemble(runtime, seen, callbacks=callbacks)
        self.hypervisor = self.assembly.hypervisor
        self.primary = self.assembly.interface
        self.driver = self.assembly.driver
        self.suspension = self.assembly.suspension
        self.guests: list[Guest] = []

    def _keep_mirror(self, make: Callable[..., Mirror], *args: Any) -> Mirror:
        mirror = make(*args)
        self._mirrors[args[1]] = mirror
        return mirror

    def _tracked(
        self, make: Callable[[Hypervisor], PrimaryInterface], hypervisor: Hypervisor
    ) -> PrimaryInterface:
        tracked: Any = _WaiterTracking(self, make(hypervisor))
        return tracked  # type: ignore[no-any-return]

    def vm(
        self,
        name: str,
        vcpus: int,
        programs: Callable[[GuestLog, int], Sequence[Program]],
        ram: Ram | None = None,
    ) -> Guest:
        """Add a VM with mapped buffers; `programs(log, id)` returns vCPU 0's and the others'."""
        space = ScriptSpace(self.runtime, name, vcpus)
        memory = ComparedRam(self.runtime, name, SIZE) if ram is None else ram
        space.map(BASE, memory, 0, SIZE, Permissions.RWX)
        made = self.assembly.add(
            VmParts(name, space, GuestMemory.whole(memory, BASE), vcpus, raw=True)
        )
        with made.record.lock:
            made.record.mailbox.rx, made.record.mailbox.tx = BASE + RX, BASE + TX
        log = GuestLog()
        each = programs(log, made.id)
        for index in range(vcpus):
            program = each[min(index, len(each) - 1)]
            self.hypervisor.start(made.id, space.address_of(program), SIZE, index)
        guest = Guest(made, self._mirrors[name], log)
        self.guests.append(guest)
        return guest

    def start(self, *, boot: bool, kicks: bool = False) -> None:
        """Start the vCPUs' threads; without `boot` they run until they wait, which is not explored.

        `kicks`: vCPUs may be preempted.
        """
        self.driver.start()
        for guest in self.guests:
            for index in range(len(guest.vm.vcpus)):
                self.runtime.attach(f"{guest.vm.name}.{index}", partial(guest.state, index))
        self.runtime.declare_private("*.direct")  # no task makes direct requests here
        if not kicks:
            self.runtime.declare_private("*.kick")
        if not boot:
            self.runtime.settle()

    def start_guest(self, guest: Guest, vcpu: int = 0) -> None:
        """Inject the interrupt `START` into a guest that waits for it."""
        if self.primary.inject(guest.vm.id, vcpu, START) is Injection.WAKE:
            guest.driven.mirror.wake(vcpu)

    def declare_exclusive(self, guest: Guest, receiver: Guest) -> None:
        """Declare when only its own thread accesses a sending guest's VM.

        Another task accesses it only to notify the receiver's waiters, and only if it is one of them.
        """

        def alone() -> bool:
            return not self.notifying and guest.vm.id not in receiver.vm.mailbox.waiters

        self.runtime.declare_exclusive(f"{guest.vm.name}.0", f"{guest.vm.name}.*", alone)

    def check_waiters(self) -> None:
        """Check, for every step, that no waiter is notified of a mailbox that was not empty.

        Another sender may have filled the mailbox again.  But a mailbox that has not been empty since
        the waiter got BUSY cannot have become writable; a notification then can repeat endlessly.
        """
        self._waiters.look(self.hypervisor.registry.vms.values())

    def state(self) -> dict[str, str]:
        """Return the watched values of a story."""
        return dict(machine_state(self.hypervisor.registry, self.driver))


class _Waiters(Thing):
    """Whether the mailbox of a VM has been empty since a waiter began to wait, by {VM, waiter}."""

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
                    f"VM {waiter} is notified that {vms[number].name} is writable, but the mailbox was "
                    "not empty since the VM got BUSY: a livelock"
                )


class _WaiterTracking:
    """The primary's interface; records the tasks that notify waiters."""

    def __init__(self, machine: ScenarioMachine, primary: PrimaryInterface) -> None:
        self._machine = machine
        self._primary = primary
        for name in dir(PrimaryInterface):
            if not name.startswith("_") and name != "waiter":
                self.__dict__[name] = getattr(primary, name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._primary, name)

    def waiter(self, vm: int) -> int | None:
        """See `PrimaryInterface.waiter`."""
        task = self._machine.runtime.current
        name = "" if task is None else task.name
        self._machine.notifying.add(name)
        waiter = self._primary.waiter(vm)
        if waiter is None:
            self._machine.notifying.discard(name)
        return waiter
