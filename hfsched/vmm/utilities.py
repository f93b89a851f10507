"""The utility services of a machine's VMs: their way through ports and outboxes, and their place in its life.

A VM has no services, no thread and no descriptor for them until its guest offers one.  Then its messages come
by the host's port `PORT`, on the vCPU's thread that brought them, and the host's go by the VM's outbox.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hfsched.errors import HfschedError, UserError
from hfsched.mailbox.ports import PortMessage, frame
from hfsched.scheduler.outbox import Sent
from hfsched.scheduler.suspension import Step
from hfsched.services.host import GuestServices
from hfsched.services.wire import PORT, Kind, ServiceId, WireError, decode
from hfsched.text import there_are

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.runtime.base import Event, Runtime
    from hfsched.scheduler.outbox import Outbox
    from hfsched.services.host import Finish, GuestServicesRecord
    from hfsched.vmm.assembly import AssembledVm, Assembly

__all__ = ["MachineServices", "NotOfferedError", "VmServices"]

_NAMES = {
    ServiceId.KVP: "key-value exchange",
    ServiceId.FREEZE: "freeze",
    ServiceId.FILE: "file copy",
    ServiceId.HEARTBEAT: "heartbeat",
    ServiceId.TIME: "time",
    ServiceId.SHUTDOWN: "shutdown",
}


LONG_PAUSE = 1_000_000_000  # ns
_MACHINE_KEY = "machine"


class NotOfferedError(UserError):
    """A guest is asked for what it does not offer, or its VM has ended."""


class _OutboxTransport:
    """The way to a VM's mailbox, for the courier alone."""

    def __init__(self, outbox: Outbox) -> None:
        self._place = outbox.place()

    @property
    def room(self) -> Event:
        """See `hfsched.services.courier.Transport`."""
        return self._place.room

    def try_send(self, data: bytes) -> bool:
        """Put a message into RX; False also for a VM that has ended, whose services end too."""
        return self._place.try_send(frame(PORT, PORT, data)) is Sent.SENT

    def leave(self) -> None:
        """See `hfsched.services.courier.Transport`."""
        self._place.leave()


class VmServices:
    """One VM's services: `made` once its guest has offered one, on a vCPU's thread.

    So while the vCPUs are stopped `made` can be read without the lock.
    """

    def __init__(self, runtime: Runtime, machine: str, vm: AssembledVm) -> None:
        self._runtime = runtime
        self._machine = machine
        self._vm = vm
        self._lock = runtime.lock(f"{vm.name}.services.made", state=self._key)
        self.made: GuestServices | None = None
        self._ended = False
        self.on_trouble: Callable[[str], None] = lambda _text: None

    def _key(self) -> Hashable:
        return (self.made is not None, self._ended)

    # The guest's messages.

    def receive(self, message: PortMessage) -> None:
        """Take a guest's message, on its vCPU's thread; one before the first offer is dropped."""
        with self._lock:
            services, first = self.made, False
            if services is None and not self._ended and _offers(message.payload):
                services, first = self._make(), True
        if services is None:
            return
        if first:
            self._start(services)
        services.deliver(message.payload)

    def _make(self) -> GuestServices:
        keys = {_MACHINE_KEY: self._machine.encode(), "vm": self._vm.name.encode()}
        transport = _OutboxTransport(self._vm.outbox)
        self.made = GuestServices(self._runtime, self._vm.name, transport, keys=keys)
        return self.made

    def _start(self, services: GuestServices) -> None:
        try:
            services.start()
        except HfschedError as exc:
            services.end()
            self.on_trouble(f"no utility services: {exc}")

    # The machine's life.

    def end(self, why: bytes = b"") -> None:
        """Answer every request, and why: the VM has ended, or the machine is about to; does not wait."""
        with self._lock:
            self._ended = True
            services = self.made
        if services is not None:
            services.end(why)

    def resume(self, wall: int | None) -> None:
        """End a pause, or what a restore began; then tell the guest the time, if it is given (ns since 1970)."""
        if self.made is not None:
            self.made.resume()
            if wall is not None:
                self.made.tell_time(wall)

    def restore(self, record: GuestServicesRecord) -> None:
        """Take a record over, before the vCPUs run; it is paused until `start`.

        The key `machine`, if there is one, becomes the name that the machine has now.
        """
        keys = record.keys
        if _MACHINE_KEY in keys:
            keys = {**keys, _MACHINE_KEY: self._machine.encode()}
        self._make().restore(replace(record, keys=keys))

    def start(self, wall: int | None) -> None:
        """Start what was restored, before the vCPUs run."""
        if self.made is not None:
            self._start(self.made)
            self.resume(wall)

    # What a guest is asked for.

    def offering(self, number: ServiceId) -> GuestServices:
        """Return the services of a guest that offers this one; raises NotOfferedError."""
        with self._lock:
            services, ended = self.made, self._ended
        if ended or self._vm.driven.mirror.ended():
            raise NotOfferedError(f"vm {self._vm.name}: it has ended")
        if services is None or not services.offers(number):
            raise NotOfferedError(f"vm {self._vm.name}: its guest offers no {_NAMES[number]}")
        return services


def _offers(payload: bytes) -> bool:
    try:
        return decode(payload).kind is Kind.OFFER
    except WireError:
        return False


class MachineServices:
    """All VMs' services.  `step` is one of the machine's suspension, when vCPUs and senders have stopped.

    With a `wall_clock` (ns since 1970) guests are told the time after a restore, and after each pause of
    `LONG_PAUSE` or more.
    """

    def __init__(
        self,
        runtime: Runtime,
        assembly: Assembly,
        machine: str,
        notice: Callable[[str], None] = lambda _text: None,
    ) -> None:
        self._runtime = runtime
        self._assembly = assembly
        self._paused_at = 0
        self.wall_clock: Callable[[], int] | None = None
        self._vms = {vm.name: VmServices(runtime, machine, vm) for vm in assembly.vms}
        for name, each in self._vms.items():
            each.on_trouble = lambda text, name=name: notice(f"vm {name}: {text}")  # type: ignore[misc]
        self.step = Step("utility services", self._pause, self._resume)

    def __getitem__(self, vm: str) -> VmServices:
        """Return a VM's services; raises UserError for an unknown VM."""
        found = self._vms.get(vm)
        if found is None:
            raise UserError(f"no VM {vm!r} here: {there_are(list(self._vms))}")
        return found

    def start(self) -> None:
        """Listen to the guests, and start what was restored; before the vCPUs run."""
        for vm in self._assembly.vms:
            services = self._vms[vm.name]
            services.start(None if self.wall_clock is None else self.wall_clock())
            if not self._assembly.ports.raw(vm.id):
                self._assembly.ports.open(vm.id, PORT, services.receive)

    def _pause(self, deadline: int | None) -> bool:
        if self.wall_clock is not None:
            self._paused_at = self._runtime.now()
        made = [each.made for each in self._vms.values() if each.made is not None]
        return not [each for each in made if not each.pause(deadline)]

    def _resume(self) -> None:
        wall = None
        if self.wall_clock is not None and self._runtime.now() - self._paused_at >= LONG_PAUSE:
            wall = self.wall_clock()
        for each in self._vms.values():
            each.resume(wall)

    def end_vm(self, vm: str) -> None:
        """Answer a VM's requests: it has ended; does not wait."""
        self._vms[vm].end()

    def end(self, why: bytes = b"") -> None:
        """Answer all requests, and why: the machine is about to end; does not wait."""
        for each in self._vms.values():
            each.end(why)

    def close(self, within: int) -> None:
        """Do `end`, and wait `within` ns for the end of each VM's tasks; the vCPUs have stopped."""
        for each in self._vms.values():
            if each.made is not None:
                each.end()
                each.made.close(self._runtime.now() + within)

    # Snapshots.

    def save(self, vm: str) -> GuestServicesRecord | None:
        """Return a VM's record, while the machine is suspended; None: its guest has offered nothing."""
        made = self._vms[vm].made
        return None if made is None else made.save()

    def restore(self, vm: str, record: GuestServicesRecord | None) -> None:
        """Take a VM's record over, before `start`.  Raises UserError for one that no VM can have."""
        if record is not None:
            self._vms[vm].restore(record)

    def freeze(self, vm: str, timeout_ms: int, deadline: int | None = None) -> bool:
        """Let a guest keep its file systems as they are, for at most `timeout_ms`; False: it cannot.

        Not while the machine is suspended: the guest could not answer.  Raises ServiceError if it does not do it by
        the deadline (ns); then it is not frozen, or thaws.
        """
        finish = self.begin_freeze(vm, timeout_ms, deadline)
        if finish is not None:
            finish(())
        return finish is not None

    def begin_freeze(self, vm: str, timeout_ms: int, deadline: int | None = None) -> Finish | None:
        """Do `freeze` without waiting: what is returned waits, as `GuestServices.begin` has it; None: the guest cannot."""
        try:
            services = self[vm].offering(ServiceId.FREEZE)
        except NotOfferedError:
            return None
        return services.begin_freeze(timeout_ms, deadline)

    def thaw(self, vm: str, deadline: int | None = None) -> None:
        """End a freeze; likewise not while suspended.  A guest that has ended meanwhile is no error."""
        finish = self.begin_thaw(vm, deadline)
        if finish is not None:
            finish(())

    def begin_thaw(self, vm: str, deadline: int | None = None) -> Finish | None:
        """Do `thaw` without waiting, likewise."""
        try:
            services = self[vm].offering(ServiceId.FREEZE)
        except NotOfferedError:
            return None
        return services.begin_thaw(deadline)
