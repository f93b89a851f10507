"""The hypervisor's records of a VM and of its vCPUs.  State only; `VmLock` says what guards it."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import TYPE_CHECKING
from uuid import UUID

from hfsched.abi.ffa import PRIMARY_ID
from hfsched.hypervisor.interrupts import Interrupts
from hfsched.hypervisor.pages import Pages
from hfsched.mailbox.mailbox import Mailbox, RxState

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


class Vcpu:
    """One vCPU of a VM.

    `claimed` is set while somebody runs it, until its registers are saved: the state alone would
    let a second RUN in too early.  `start` is {entry, argument} of a vCPU that has been turned on
    and not yet run.  `direct_origin` is the VM whose direct request it serves.
    """

    __slots__ = (
        "claimed",
        "cpu",
        "direct_origin",
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
        self.interrupts = Interrupts()
        self.line = False
        # Its runner's own: the stage-2 fault last retried, and the pages' changes by then.
        self.fault: tuple[engine.Exit, int] | None = None

    def update_line(self) -> None:
        """Tell the engine when the level of the interrupt line has changed."""
        level = self.interrupts.up
        if level != self.line:
            self.line = level
            self.cpu.set_irq(level)

    def key(self) -> Hashable:
        """Return all that the VM's lock guards."""
        interrupts = self.interrupts
        return (
            self.state,
            self.claimed,
            self.start,
            self.direct_origin,
            interrupts.enabled,
            interrupts.pending,
        )


class Vm:
    """A secondary VM.  `lock` guards all that changes but `entries` and `spurious`.

    `entries` counts RUNs that entered the guest, `spurious` those that found it still blocked.
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
        self.aborting = False
        self.abort_reason: str | None = None
        self.log = bytearray()
        self.entries = 0
        self.spurious = 0
        self.vcpus = [Vcpu(self, index, space.vcpu(index)) for index in range(vcpus)]
        self.lock = runtime.lock(f"{name}.hv", state=self.key)

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return (
            self.mailbox.key(),
            self.pages.key(),
            self.aborting,
            tuple(vcpu.key() for vcpu in self.vcpus),
        )

    def store(self, message: bytes) -> None:
        """Copy a message into RX; under the lock, while the mailbox is writable."""
        assert self.mailbox.rx is not None
        self.memory.write(self.mailbox.rx, message)

    def load(self, size: int) -> bytes:
        """Return the first bytes of RX; under the lock, while there is a message."""
        assert self.mailbox.rx is not None
        return self.memory.read(self.mailbox.rx, size)

    arrival = RxState.RECEIVED

    @property
    def vcpu_count(self) -> int:
        """How many vCPUs it has."""
        return len(self.vcpus)

    def reported_size(self, size: int) -> int:  # noqa: ARG002
        """Return 0: RUN tells sizes of messages to the primary alone."""
        return 0


class Primary:
    """The scheduler VM, as others see it: a mailbox whose messages need no delivery."""

    id = PRIMARY_ID
    name = "primary"
    uuid = NIL_UUID

    def __init__(self, runtime: Runtime) -> None:
        self.mailbox = Mailbox()
        self.mailbox.rx = 0  # its RX lies in this process, not in guest memory
        self.message = b""
        self.lock = runtime.lock("primary.hv", state=self.key)

    def key(self) -> Hashable:
        """Return all that the lock guards."""
        return (self.mailbox.key(), self.message)

    def store(self, message: bytes) -> None:
        """Copy a message into RX; under the lock, while the mailbox is writable."""
        self.message = message

    def load(self, size: int) -> bytes:
        """Return the first bytes of RX; under the lock, while there is a message."""
        return self.message[:size]

    arrival = RxState.READ
    vcpu_count = 1

    def reported_size(self, size: int) -> int:
        """Return the size of a message to this party, for RUN to report."""
        return size
