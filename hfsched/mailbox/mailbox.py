"""A VM's mailbox as the hypervisor keeps it: RX, TX, its waiters, and the mailboxes it waits for.

    EMPTY --write--> RECEIVED --read--> READ --release--> EMPTY

One message, no queue.  Plain state: the VM's lock guards it.  Source: TF-Hafnium/hafnium
f0701679c0, `struct mailbox`.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum

from msgspec import Struct

from hfsched.abi.ffa import MAILBOX_SIZE
from hfsched.mailbox.records import MailboxRecord, check

__all__ = ["Header", "Mailbox", "RxState"]


class RxState(Enum):
    """State of the RX buffer."""

    EMPTY = "empty"
    RECEIVED = "received"  # written, unread
    READ = "read"  # given to the VM, until it releases


# Finding an enumeration's member takes as long as a call, and every message comes by these.
_EMPTY, _RECEIVED, _READ = RxState.EMPTY, RxState.RECEIVED, RxState.READ

ID_MAX = 0xFFFF
RX_STATES = frozenset(state.value for state in RxState)


class Header(Struct, frozen=True):
    """The message in RX: the sender's VM id and the size in bytes."""

    sender: int
    size: int


class Mailbox:
    """The mailbox of one VM.

    `rx` and `tx` are the IPAs of the VM's buffers, one page each, None while it has none.  `waiters` are VMs refused with BUSY that asked to be notified; `ready` are VMs
    whose mailbox has become writable for this one.  Both are ordered and hold an id once.
    """

    __slots__ = ("message", "ready", "rx", "state", "tx", "waiters")

    def __init__(self) -> None:
        self.rx: int | None = None
        self.tx: int | None = None
        self.state = _EMPTY
        self.message: Header | None = None
        self.waiters: list[int] = []
        self.ready: list[int] = []

    @property
    def writable(self) -> bool:
        """Whether a message can be written now."""
        return self.rx is not None and self.state is _EMPTY

    def refuse(self, sender: int) -> None:
        """Note that `sender` found the mailbox busy and wants to be notified when it is not."""
        if sender not in self.waiters:
            self.waiters.append(sender)

    def write(self, message: Header, state: RxState = _RECEIVED) -> None:
        """Publish what was just copied into RX; call only while `writable`."""
        self.message = message
        self.state = state

    def read(self) -> Header | None:
        """Give the unread message to the VM, or None when there is none."""
        if self.state is not _RECEIVED:
            return None
        self.state = _READ
        return self.message

    def release(self) -> bool:
        """Empty RX; return whether it was READ (else nothing changes)."""
        if self.state is not _READ:
            return False
        self.state = _EMPTY
        self.message = None
        return True

    def take_waiter(self) -> int | None:
        """Remove and return the first waiter, but only while the mailbox is writable.

        Handed out at any other time, a waiter would find the mailbox busy again, register again,
        and be handed out again: a livelock.
        """
        return self.waiters.pop(0) if self.writable and self.waiters else None

    def became_writable(self, vm: int) -> None:
        """Note for this VM, once waiting, that the mailbox of `vm` is writable."""
        if vm not in self.ready:
            self.ready.append(vm)

    def take_ready(self) -> int | None:
        """Remove and return the first VM whose mailbox became writable, or None."""
        return self.ready.pop(0) if self.ready else None

    def save(self) -> MailboxRecord:
        """Return all of the state."""
        message = None if self.message is None else (self.message.sender, self.message.size)
        return MailboxRecord(
            self.rx, self.tx, self.state.value, message, tuple(self.waiters), tuple(self.ready)
        )

    def restore(self, record: MailboxRecord) -> None:
        """Put back what `save` returned; raises UserError for a record that contradicts itself."""
        check(record.state in RX_STATES, f"no RX state {record.state!r}")
        state = RxState(record.state)
        check((record.message is None) == (state is _EMPTY), f"a mailbox that is {state.value}")
        ids = (*record.waiters, *record.ready, *(record.message or ())[:1])
        check(all(0 <= number <= ID_MAX for number in ids), "a VM id of more than 16 bits")
        size = 0 if record.message is None else record.message[1]
        check(0 <= size <= MAILBOX_SIZE, f"a message of {size} bytes")
        check(record.rx is not None or state is _EMPTY, "a message without an RX buffer")
        self.rx, self.tx, self.state = record.rx, record.tx, state
        self.message = None if record.message is None else Header(*record.message)
        self.waiters, self.ready = list(record.waiters), list(record.ready)

    def key(self) -> Hashable:
        """Return all of the state, hashable."""
        return (self.rx, self.tx, self.state.value, self.message, (*self.waiters,), (*self.ready,))
