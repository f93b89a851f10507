"""The hypervisor's state of a VM and of its vCPUs; the VM's lock guards it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from hfsched.abi.ffa import MAILBOX_SIZE, PRIMARY_ID, PRIMARY_VCPUS
from hfsched.errors import InternalError
from hfsched.hypervisor.interface import Injection
from hfsched.hypervisor.interrupts import Interrupts
from hfsched.hypervisor.mmio import MmioBus
from hfsched.hypervisor.pages import Pages
from hfsched.hypervisor.records import PagesRecord, PrimaryRecord, VcpuRecord, VmRecord
from hfsched.mailbox.mailbox import Mailbox, RxState
from hfsched.mailbox.records import check
from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.declared import uncompared

if TYPE_CHECKING:
    from hfsched.abi.dialect import Dialect
    from hfsched.memory.guestmemory import GuestMemory
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu import engine

__all__ = ["NIL_UUID", "Primary", "Vcpu", "VcpuState", "Vm"]

NIL_UUID = UUID(int=0)
LOG_LINE_MAX = 256  # bytes; a longer line is cut into several, as Hafnium's buffer does


class VcpuState(Enum):
    """What a vCPU is doing."""

    OFF = "off"
    READY = "ready"
    RUNNING = "running"
    BLOCKED_MAILBOX = "blocked on the mailbox"
    BLOCKED_INTERRUPT = "blocked on an interrupt"
    ABORTED = "aborted"


_AT_REST = frozenset(state.value for state in VcpuState if state is not VcpuState.RUNNING)


@uncompared(line="follows from the interrupts, which are compared")
class Vcpu:
    """One vCPU of a VM.

    `claimed` is set from the RUN that enters it until its registers are saved: the state alone would
    let a second RUN in too early.  `start` is {entry, argument} of a vCPU that has been turned on
    and not yet run.  `direct_origin` is the VM whose direct request it serves.
    `exits` counts its hypercalls, WFIs and accesses outside memory, on its own thread.
    """

    __slots__ = (
        "claimed",
        "cpu",
        "direct_origin",
        "exits",
        "fault",
        "index",
        "interrupts",
        "line",
        "start",
        "state",
        "vm",
    )

    def __init__(self, vm: Vm, index: int, cpu: engine.Vcpu) -> None:
        self.vm = vm
        self.index = index
        self.cpu = cpu
        self.state = VcpuState.OFF
        self.claimed = False
        self.start: tuple[int, int] | None = None
        self.direct_origin: int | None = None
        self.exits = 0
        self.interrupts = Interrupts()
        self.line = False
        # The stage-2 fault last retried, and the pages' changes by then.
        self.fault: tuple[engine.Exit, int] | None = None

    def update_line(self) -> None:
        """Tell the engine when the level of the interrupt line has changed."""
        level = self.interrupts.up
        if level != self.line:
            self.line = level
            self.cpu.set_irq(level)

    def save(self) -> VcpuRecord:
        """Return the state, the CPU's registers left out; while it does not run, under the lock."""
        if self.claimed:
            raise InternalError(f"vm {self.vm.name}: vCPU {self.index} is saved while it runs")
        return VcpuRecord(self.state.value, self.start, self.direct_origin, self.interrupts.save())

    def restore(self, record: VcpuRecord) -> None:
        """Put back what `save` returned, and set the CPU's interrupt line; under the lock.

        Raises UserError for a state that a vCPU at rest cannot have.
        """
        check(record.state in _AT_REST, f"vCPU {self.index} is {record.state!r}")
        self.state = VcpuState(record.state)
        self.claimed = False
        self.start, self.direct_origin = record.start, record.direct_origin
        self.interrupts.restore(record.interrupts)
        self.fault = None
        self.line = self.interrupts.up
        self.cpu.set_irq(self.line)

    def injection(self, intid: int, *, rose: bool) -> Injection:
        """Return what making an id pending came to; under the lock.

        `rose`: by that, the vCPU has its first interrupt that is enabled and pending.
        """
        if self.state is VcpuState.OFF or not self.interrupts.enabled >> intid & 1:
            return Injection.DISABLED
        return Injection.WAKE if rose else Injection.PENDING

    def key(self) -> Hashable:
        """Return all that the VM's lock guards."""
        interrupts, fault = self.interrupts, self.fault
        changes = self.vm.pages.changes
        return (
            self.state.value,
            self.claimed,
            self.start,
            self.direct_origin,
            *interrupts.key(),
            fault[0] if fault is not None and fault[1] == changes else None,
        )


@uncompared(
    entries="a counter for reports and oracles", spurious="a counter for reports and oracles"
)
class Vm:
    """A secondary VM.  `lock` guards all that changes but `entries` and `spurious`.

    `dialect` is what its calls are read and answered by; a handler may change it, under the lock, to one
    that needs no more argument registers than `space` has.  A call that another vCPU has begun already
    may still be answered by the one before.

    `entries` counts RUNs that entered the guest, `spurious` those that found it still blocked, `unmapped`
    unread messages that went with the RX buffer.
    """

    def __init__(
        self,
        runtime: Runtime,
        number: int,
        name: str,
        dialect: Dialect,
        space: engine.Space,
        memory: GuestMemory,
        vcpus: int,
        uuid: UUID,
        mailbox: Mailbox | None = None,
    ) -> None:
        self.id = number
        self.name = name
        self.dialect = dialect
        self.space = space
        self.memory = memory
        self.uuid = uuid
        self.mailbox = Mailbox() if mailbox is None else mailbox
        self.pages = Pages(memory)
        self.mmio = MmioBus(name, memory)
        self.aborting = False
        self.abort_reason: str | None = None
        self.log = bytearray()
        self.entries = 0
        self.spurious = 0
        self.unmapped = 0
        self.vcpus = [Vcpu(self, index, space.vcpu(index)) for index in range(vcpus)]
        self.lock = runtime.lock(f"{name}.hv", state=self.key)

    def key(self) -> Hashable:
        """Return what the lock guards, without what follows from it, and counters."""
        return (
            self.mailbox.key(),
            self.pages.key(),
            self.dialect.name,
            self.aborting,
            self.abort_reason,
            self.unmapped,
            tuple(vcpu.key() for vcpu in self.vcpus),
        )

    def save(self) -> VmRecord:
        """Return the state, memory and registers left out; under the lock, while no vCPU runs."""
        return VmRecord(
            self.name,
            self.dialect.name,
            self.mailbox.save(),
            self.pages.save(),
            tuple(vcpu.save() for vcpu in self.vcpus),
            self.abort_reason if self.aborting else None,
            bytes(self.log),
        )

    def restore(self, record: VmRecord, applied: PagesRecord | None = None) -> None:
        """Put back what `save` returned; under the lock, while no vCPU runs.

        The space's tables get the pages' modes; `applied` are those that they have now (None: that
        of a new VM, all memory its own).  Raises UserError for a record of another VM.
        """
        check(record.name == self.name, f"it is of vm {record.name!r}, not of {self.name!r}")
        check(record.dialect == self.dialect.name, f"its dialect is {record.dialect!r}")
        check(len(record.vcpus) == len(self.vcpus), f"it has {len(record.vcpus)} vCPUs")
        buffers = (record.mailbox.rx, record.mailbox.tx)
        check((buffers[0] is None) == (buffers[1] is None), "RX without TX, or TX without RX")
        for ipa in buffers:
            found = None if ipa is None or ipa % PAGE_SIZE else self.memory.find(ipa)
            check(ipa is None or found is not None, f"no mailbox buffer can be at {ipa!r}")
        self.mailbox.restore(record.mailbox)
        self.pages.restore(record.pages)
        old = {page for page, *_ in (PagesRecord() if applied is None else applied).overrides}
        for page in old | {page for page, *_ in record.pages.overrides}:
            mode = self.pages.mode(page * PAGE_SIZE)
            assert mode is not None
            self.space.protect(page * PAGE_SIZE, PAGE_SIZE, mode.permissions)
        for vcpu, saved in zip(self.vcpus, record.vcpus, strict=True):
            vcpu.restore(saved)
        self.aborting = record.abort_reason is not None
        self.abort_reason = record.abort_reason
        self.log = bytearray(record.log[:LOG_LINE_MAX])

    def store(self, message: bytes) -> None:
        """Copy a message into RX; under the lock, while the mailbox is writable."""
        assert self.mailbox.rx is not None
        self.memory.write(self.mailbox.rx, message)

    def load(self, size: int) -> bytes:
        """Return the first bytes of RX; under the lock, while there is a message."""
        assert self.mailbox.rx is not None
        return self.memory.read(self.mailbox.rx, size)

    arrival = RxState.RECEIVED
    told_sizes = False

    @property
    def vcpu_count(self) -> int:
        """How many vCPUs it has."""
        return len(self.vcpus)


class Primary:
    """The scheduler VM, as other parties see it: a mailbox whose messages need no delivery."""

    id = PRIMARY_ID
    name = "primary"
    uuid = NIL_UUID

    def __init__(self, runtime: Runtime) -> None:
        self.mailbox = Mailbox()
        self.mailbox.rx = 0  # its RX is in this process, not in guest memory
        self.message = b""
        self.lock = runtime.lock("primary.hv", state=self.key)

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return (self.mailbox.key(), self.message)

    def save(self) -> PrimaryRecord:
        """Return all of the state; under the lock."""
        return PrimaryRecord(self.mailbox.save(), self.message)

    def restore(self, record: PrimaryRecord) -> None:
        """Put back what `save` returned; under the lock."""
        check(len(record.message) <= MAILBOX_SIZE, f"a message of {len(record.message)} bytes")
        self.mailbox.restore(record.mailbox)
        self.message = record.message

    def store(self, message: bytes) -> None:
        """Copy a message into RX; under the lock, while the mailbox is writable."""
        self.message = message

    def load(self, size: int) -> bytes:
        """Return the first bytes of RX; under the lock, while there is a message."""
        return self.message[:size]

    arrival = RxState.READ
    told_sizes = True
    vcpu_count = PRIMARY_VCPUS
