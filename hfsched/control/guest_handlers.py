"""What the commands of the group `guest` do, without sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hfsched.control.commands import Answer, CommandError, Done
from hfsched.control.guest_messages import (
    CopyBegin,
    CopyData,
    CopyEnd,
    CopyRequest,
    GuestPing,
    GuestRequest,
    GuestShutdown,
    Keys,
    KvpDelete,
    KvpGet,
    KvpList,
    KvpSet,
    Pong,
    Value,
)
from hfsched.services.bodies import (
    FileOp,
    FileRequest,
    KvpOp,
    KvpRequest,
    ShutdownOp,
    keys_of,
    pack,
    parse,
)
from hfsched.services.copying import FileCopy, ServiceError
from hfsched.services.transaction import Status
from hfsched.services.wire import ServiceId, WireError
from hfsched.text import there_are
from hfsched.vmm.utilities import NotOfferedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.runtime.base import Waitable
    from hfsched.services.host import GuestServices
    from hfsched.vmm.utilities import MachineServices

__all__ = ["Copying", "ServingMachine", "serve_guest_request"]

_SERVICES = {GuestPing: ServiceId.HEARTBEAT, GuestShutdown: ServiceId.SHUTDOWN}


class ServingMachine(Protocol):
    """What these commands need of a machine."""

    @property
    def services(self) -> MachineServices:
        """What its guests offer."""

    def vm_names(self) -> list[str]:
        """Return the names of the VMs."""

    def suspended_by(self) -> tuple[str, ...]:
        """Return the names of the holders that keep the machine suspended."""


def serve_guest_request(machine: ServingMachine, request: GuestRequest, deadline: int) -> Answer:
    """Carry a request out by the deadline (ns); raises HfschedError for what cannot be done."""
    number = _SERVICES.get(type(request), ServiceId.KVP)
    services = _offering(machine, request.vm, number)
    try:
        return _carry_out(services, request, deadline)
    except ServiceError as exc:
        raise _told(machine, exc) from None


def _carry_out(services: GuestServices, request: GuestRequest, deadline: int) -> Answer:
    match request:
        case KvpGet() | KvpSet() | KvpDelete() | KvpList():
            return _kvp(services, request, deadline)
        case GuestPing():
            return Pong(ns=services.ping(deadline=deadline))
        case GuestShutdown(reboot=reboot):
            op = ShutdownOp.REBOOT if reboot else ShutdownOp.POWER_OFF
            services.shut_down(op, deadline=deadline)
            return Done()
        case CopyBegin() | CopyData() | CopyEnd():
            raise CommandError("failed", "copy: it is for a connection of its own")


def _kvp(
    services: GuestServices,
    request: KvpGet | KvpSet | KvpDelete | KvpList,
    deadline: int,
) -> Answer:
    match request:
        case KvpGet(key=key):
            wanted = KvpRequest(KvpOp.GET, key)
        case KvpSet(key=key, value=value):
            wanted = KvpRequest(KvpOp.SET, key, value)
        case KvpDelete(key=key):
            wanted = KvpRequest(KvpOp.DELETE, key)
        case KvpList(after=after):
            wanted = KvpRequest(KvpOp.LIST, after)
    _check(wanted)
    what = f"{wanted.op.name.lower()} {wanted.key}".rstrip()
    of_host = request.host
    body = services.ask_host(what, wanted) if of_host else services.ask(what, wanted, deadline)
    if isinstance(request, KvpList):
        return Keys(keys=tuple(keys_of(body)))
    return Value(value=body) if isinstance(request, KvpGet) else Done()


def _check(request: KvpRequest | FileRequest) -> None:
    """Refuse what no guest could parse."""
    try:
        parse(*pack(request))
    except WireError as exc:
        raise CommandError("bad-request", str(exc)) from None


def _offering(machine: ServingMachine, vm: str | None, number: ServiceId) -> GuestServices:
    names = machine.vm_names()
    if vm is None and len(names) != 1:
        raise CommandError("no-vm", f"name the VM: {there_are(names)}")
    name = names[0] if vm is None else vm
    if name not in names:
        raise CommandError("no-vm", f"no VM {name!r} here: {there_are(names)}")
    try:
        return machine.services[name].offering(number)
    except NotOfferedError as exc:
        raise CommandError("no-service", str(exc)) from None


def _told(machine: ServingMachine, error: ServiceError) -> CommandError:
    """Return what is told of a guest's refusal; a suspended machine is why it has not answered."""
    holders = machine.suspended_by() if error.status is Status.TIMED_OUT else ()
    why = f": the machine is suspended by {', '.join(holders)}" if holders else ""
    return CommandError("failed", f"{error}{why}")


class Copying:
    """The copy of one connection; for its task alone.  When one of `stop` is ready, its steps fail at once."""

    def __init__(self, machine: ServingMachine, stop: Sequence[Waitable]) -> None:
        self._machine = machine
        self._stop = stop
        self._copy: FileCopy | None = None

    def serve(self, request: CopyRequest, deadline: int) -> Answer:
        """Carry a request out by the deadline (ns); raises HfschedError, and then no copy is under way."""
        try:
            self._serve(request, deadline)
        except ServiceError as exc:
            self._copy = None
            raise _told(self._machine, exc) from None
        return Done()

    def _serve(self, request: CopyRequest, deadline: int) -> None:
        if isinstance(request, CopyBegin):
            if self._copy is not None:
                raise CommandError("failed", "copy: another one is under way on this connection")
            name, size, mode = request.name, request.size, request.mode
            _check(FileRequest(FileOp.BEGIN, 0, size, mode, name))
            services = _offering(self._machine, request.vm, ServiceId.FILE)
            self._copy = services.begin_copy(name, size, mode, deadline, self._stop)
            return
        if self._copy is None:
            raise CommandError("failed", "copy: none is under way on this connection")
        if isinstance(request, CopyData):
            self._copy.write(request.data, deadline)
        else:
            self._copy.finish(deadline)
            self._copy = None

    def close(self) -> None:
        """Cancel what is under way."""
        if self._copy is not None:
            self._copy.cancel()
            self._copy = None
