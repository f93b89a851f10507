"""The primary's interface: all that a scheduler VM can see and do.

A `RunResult` is what RUN returns in FF-A; times are nanoseconds from now, None for "no timer".
Source: TF-Hafnium/hafnium f0701679c0, api.c; DEN0077A section 8 (FFA_RUN and its results).
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol, TypeAlias

from msgspec import Struct

from hfsched.mailbox.mailbox import RxState

__all__ = [
    "Aborted",
    "Busy",
    "DirectResponse",
    "Injection",
    "Invalid",
    "Message",
    "NotifyWaiters",
    "Preempted",
    "PrimaryInterface",
    "RunResult",
    "SendResult",
    "VmInfo",
    "WaitForInterrupt",
    "WaitForMessage",
    "WakeUp",
    "Yield",
]


class Preempted(Struct, frozen=True):
    """The vCPU is ready: it was kicked, or its timer fired while it ran."""


class Yield(Struct, frozen=True):
    """The guest asked to let others run."""


class WaitForInterrupt(Struct, frozen=True):
    """The guest waits for an interrupt, or has switched this vCPU off."""

    timer: int | None


class WaitForMessage(Struct, frozen=True):
    """The guest waits for a message (or an interrupt)."""

    timer: int | None


class Message(Struct, frozen=True):
    """The guest sent `size` bytes to `receiver`; the size is 0 but for the primary itself."""

    sender: int
    receiver: int
    size: int


class DirectResponse(Struct, frozen=True):
    """The guest answered the primary's direct request with w3..w7."""

    words: tuple[int, ...]


class NotifyWaiters(Struct, frozen=True):
    """The VM's mailbox became writable and others wait for that."""


class WakeUp(Struct, frozen=True):
    """Another vCPU has something to do: it was turned on, or interrupted by its own VM."""

    vm: int
    vcpu: int


class Aborted(Struct, frozen=True):
    """The VM is dead because of this exit; reported once.  `reason` is one line for the user."""

    reason: str


class Busy(Struct, frozen=True):
    """The vCPU runs elsewhere, or its registers are not saved yet."""


class Invalid(Struct, frozen=True):
    """No such VM or vCPU, a vCPU that is off, or a VM that has aborted."""


RunResult: TypeAlias = (
    Preempted
    | Yield
    | WaitForInterrupt
    | WaitForMessage
    | Message
    | DirectResponse
    | NotifyWaiters
    | WakeUp
    | Aborted
    | Busy
    | Invalid
)


class SendResult(Enum):
    """The result of a send by the primary."""

    SENT = "sent"
    BUSY = "busy"  # the mailbox is full; with `notify` the primary is notified when it is not
    INVALID = "invalid"  # no such VM, or more than 4096 bytes


class Injection(Enum):
    """The result of an injection by the primary.  The interrupt is pending in any valid case."""

    WAKE = "wake"  # the first enabled and pending one: run or kick the vCPU
    PENDING = "pending"  # an enabled one was pending before: its waker is on the way
    DISABLED = "disabled"  # not enabled there, or the vCPU is off: try another
    INVALID = "invalid"  # no such VM, vCPU or interrupt id


class VmInfo(Struct, frozen=True):
    """What the primary may know of a VM.

    `abort_reason` is None while it lives; `states` describes each vCPU in words.
    """

    id: int
    name: str
    vcpus: int
    rx: RxState
    waiters: int
    abort_reason: str | None
    states: tuple[str, ...]


class PrimaryInterface(Protocol):
    """What a scheduler VM may do."""

    def run(self, vm: int, vcpu: int) -> RunResult:
        """Run the vCPU until it needs the scheduler."""

    def direct_request(self, vm: int, vcpu: int, words: tuple[int, ...]) -> RunResult:
        """Give a direct request (w3..w7) to a vCPU that waits for a message, and run it.

        Busy when it does not wait; Aborted for a dead VM.
        """

    def send(self, to: int, message: bytes, *, notify: bool) -> SendResult:
        """Write a message into the mailbox of VM `to`."""

    def rx_take(self) -> tuple[int, bytes] | None:
        """Return {sender, bytes} of the message in the primary's own RX, None without one."""

    def rx_release(self) -> bool:
        """Empty the primary's RX; return whether other VMs wait for that."""

    def waiter(self, vm: int) -> int | None:
        """Take the next VM that waits for the mailbox of `vm`, while that is writable."""

    def writable(self) -> int | None:
        """Take the next VM whose mailbox became writable for the primary."""

    def inject(self, vm: int, vcpu: int, intid: int) -> Injection:
        """Make an interrupt pending."""

    def preempt(self, vm: int, vcpu: int) -> None:
        """Make the running RUN of the vCPU, or the next that enters it, return `Preempted`."""

    def keep_out(self, vm: int, vcpu: int) -> bool:
        """Keep a running RUN that only waits to execute from executing before `let_in`, and return True.

        Else preempt the vCPU and return False.  `preempt` ends such a RUN too.
        """

    def let_in(self, vm: int, vcpu: int) -> None:
        """End what `keep_out` began."""

    def info(self, vm: int) -> VmInfo | None:
        """Describe a VM, or None when there is no such."""
