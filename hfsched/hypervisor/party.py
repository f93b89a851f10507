"""What the hypervisor asks of a party to messages: a secondary VM, or the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from hfsched.mailbox.mailbox import Mailbox, RxState
    from hfsched.runtime.base import Lock

__all__ = ["Party", "in_order"]


class Party(Protocol):
    """A VM with a mailbox.  `lock` guards the mailbox and the contents of RX."""

    id: int
    name: str
    uuid: UUID
    mailbox: Mailbox
    lock: Lock

    @property
    def vcpu_count(self) -> int:
        """How many vCPUs it has."""

    @property
    def arrival(self) -> RxState:
        """The state of RX once a message is written: READ where the VM need not ask for it."""

    @property
    def told_sizes(self) -> bool:
        """Whether RUN reports the size of a message to this party, or else 0."""

    def store(self, message: bytes) -> None:
        """Copy a message into RX; under the lock, while the mailbox is writable."""

    def load(self, size: int) -> bytes:
        """Return the first `size` bytes of RX; under the lock, while there is a message."""


def in_order(one: Party, other: Party) -> tuple[Party, Party]:
    """Return two different parties in the order in which their locks are taken: that of their ids."""
    return (one, other) if one.id < other.id else (other, one)
