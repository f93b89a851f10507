"""How hypervisor, scheduler and ports are put together: the one place, for every machine.

`hfsched run`, the explorer's scenarios, the benchmarks and the tests all call `assemble`; what they
run is the machine that ships, but for the parts that they replace by name in `Parts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from msgspec import Struct

from hfsched.abi.dialects import DEFAULT
from hfsched.abi.ffa import FIRST_SECONDARY_ID
from hfsched.hypervisor.calls import Calls
from hfsched.hypervisor.hypervisor import Hypervisor
from hfsched.hypervisor.interface import Injection
from hfsched.hypervisor.lines import InterruptLine
from hfsched.hypervisor.vm import NIL_UUID
from hfsched.mailbox.mailbox import Mailbox
from hfsched.mailbox.mirror import Mirror
from hfsched.mailbox.ports import Ports
from hfsched.scheduler.driver import Driver
from hfsched.scheduler.endpoint import Endpoint
from hfsched.scheduler.outbox import Outbox
from hfsched.scheduler.suspension import Step, SuspendThrottle, Suspension

if TYPE_CHECKING:
    from hfsched.abi.dialect import Dialect
    from hfsched.hypervisor.interface import PrimaryInterface
    from hfsched.hypervisor.vm import Vm
    from hfsched.memory.guestmemory import GuestMemory
    from hfsched.runtime.base import Runtime
    from hfsched.scheduler.driver import DrivenVm
    from hfsched.vcpu.engine import Space

__all__ = ["AssembledVm", "Assembly", "Callbacks", "Parts", "VmParts", "assemble"]


def _primary_of(hypervisor: Hypervisor) -> PrimaryInterface:
    return hypervisor.primary


@dataclass(frozen=True, slots=True)
class Parts:
    """What a machine is made of; a faulty variant replaces a part by `dataclasses.replace`.

    `interface` returns what the scheduler sees of a hypervisor.
    """

    mailbox: Callable[[], Mailbox] = Mailbox
    calls: Callable[..., Calls] = Calls
    hypervisor: Callable[..., Hypervisor] = Hypervisor
    interface: Callable[[Hypervisor], PrimaryInterface] = _primary_of
    ports: Callable[[Runtime], Ports] = Ports
    mirror: Callable[..., Mirror] = Mirror
    driver: Callable[..., Driver] = Driver
    outbox: Callable[..., Outbox] = Outbox


class VmParts(Struct, frozen=True):
    """A VM whose memory is mapped in its space, and loaded.

    vCPU 0 starts at `entry` with x0 = `argument`; None leaves all vCPUs off.  `raw`: messages to
    and from the host have no port header.
    """

    name: str
    space: Space
    memory: GuestMemory
    vcpus: int = 1
    entry: int | None = None
    argument: int = 0
    dialect: Dialect = DEFAULT
    uuid: UUID = NIL_UUID
    raw: bool = False


class Callbacks(Struct, frozen=True):
    """What a machine calls; none of them may block.

    `log(vm, line)` gets each line that a guest prints, `on_abort(vm, reason)` is told once of a
    VM's death, `on_idle` is called whenever a vCPU may have begun to wait; each on a vCPU's thread.
    So is `notice(vm, text)`, of what the user may want to know of a VM; None: nobody asks.
    """

    log: Callable[[str, bytes], None] = lambda _vm, _line: None
    on_abort: Callable[[str, str], None] = lambda _vm, _reason: None
    on_idle: Callable[[], None] = lambda: None
    notice: Callable[[str, str], None] | None = None


class AssembledVm:
    """One VM: the hypervisor's record, the scheduler's, and the host's way to it."""

    def __init__(self, record: Vm, driven: DrivenVm, outbox: Outbox) -> None:
        self.record = record
        self.driven = driven
        self.outbox = outbox

    @property
    def id(self) -> int:
        """The VM's id."""
        return self.record.id

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.record.name

    def interrupt_line(self, source: str, intid: int, vcpu: int = 0) -> Callable[[bool], None]:
        """Return what raises (True) and lowers (False) a device's line; any thread, no VM's lock held."""
        line = InterruptLine(self.record.vcpus[vcpu], source, intid)

        def set_level(level: bool) -> None:  # noqa: FBT001
            if line.set_level(level) is Injection.WAKE:
                self.driven.mirror.wake(vcpu)

        return set_level


class Assembly:
    """The parts of one machine.  VMs are added before the driver is started."""

    def __init__(self, runtime: Runtime, parts: Parts, callbacks: Callbacks) -> None:
        self.runtime = runtime
        self._parts = parts
        self.hypervisor = parts.hypervisor(runtime, callbacks.log, parts.calls, callbacks.notice)
        self.interface = parts.interface(self.hypervisor)
        self.ports = parts.ports(runtime)
        self.driver = parts.driver(
            runtime,
            self.interface,
            self.ports,
            callbacks.on_abort,
            callbacks.on_idle,
            parts.mirror,
        )
        self.vms: list[AssembledVm] = []
        self.suspension = Suspension(
            runtime,
            [
                SuspendThrottle(runtime).step,
                Step("vCPUs and senders", self.driver.suspend, self.driver.resume),
                Step("clocks", self._freeze, self._thaw),
            ],
        )

    def add(self, vm: VmParts) -> AssembledVm:
        """Add a VM, with the next id."""
        record = self.hypervisor.registry.add(
            FIRST_SECONDARY_ID + len(self.vms),
            vm.name,
            vm.dialect,
            vm.space,
            vm.memory,
            vm.vcpus,
            vm.uuid,
            self._parts.mailbox(),
        )
        if vm.entry is not None:
            self.hypervisor.start(record.id, vm.entry, vm.argument)
        driven = self.driver.add(record.id, raw=vm.raw)
        outbox = self._parts.outbox(self.runtime, self.interface, self.driver, driven)
        made = AssembledVm(record, driven, outbox)
        self.vms.append(made)
        return made

    def endpoint(self, vm: AssembledVm, port: int, local: int | None = None) -> Endpoint:
        """Connect to a VM's port; raises UserError for a host port (`local`) in use."""
        return Endpoint(vm.outbox, self.ports.open(vm.id, local), port)

    def set_back(self, ns: int) -> None:
        """Set the guests' clocks back, while the machine is suspended."""
        for vm in self.vms:
            vm.record.space.set_back(ns)

    def _freeze(self, _deadline: int | None) -> bool:
        for vm in self.vms:
            vm.record.space.freeze()
        return True

    def _thaw(self) -> None:
        for vm in self.vms:
            vm.record.space.thaw()


def assemble(
    runtime: Runtime,
    parts: Parts | None = None,
    vms: Iterable[VmParts] = (),
    callbacks: Callbacks | None = None,
) -> Assembly:
    """Put a machine together; its vCPUs run once `Assembly.driver` is started."""
    assembly = Assembly(runtime, parts or Parts(), callbacks or Callbacks())
    for vm in vms:
        assembly.add(vm)
    return assembly
