"""What the hypervisor asks of a party to messages: a secondary VM, or the primary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol
from uuid import UUID

if TYPE_CHECKING:
    from hfsched.mailbox.mailbox import Mailbox, RxState
    from hfsched.runtime.base import Lock

__all__ = ["Party", "locked"]


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

    def store(self, message: bytes) -> None:
        """Copy a message into RX; under the lock, while the mailbox is writable."""

    def load(self, size: int) -> bytes:
        """Return the first `size` bytes of RX; under the lock, while there is a message."""

    def reported_size(self, size: int) -> int:
        """Return the size that RUN reports of a message to this party, of `size` bytes."""


class locked:  # noqa: N801 - used as a statement: `with locked(a, b):`
    """Hold the locks of several parties, taken in the order of their ids."""

    __slots__ = ("_locks",)

    def __init__(self, *parties: Party) -> None:
        self._locks = [party.lock for party in sorted(parties, key=_id_of)]

    def __enter__(self) -> None:
        held = []
        try:
            for lock in self._locks:
                lock.acquire()
                held.append(lock)
        except BaseException:
            for lock in reversed(held):
                lock.release()
            raise

    def __exit__(self, *exc: object) -> None:
        for lock in reversed(self._locks):
            lock.release()


def _id_of(party: Party) -> int:
    return party.id
