"""What is behind a virtio transport, and what a driver has said of its queues."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

from hfsched.abi.virtio import Interrupt, Register
from hfsched.hypervisor.records import VirtioQueueRecord, VirtioRecord
from hfsched.mailbox.records import check

if TYPE_CHECKING:
    from hfsched.abi.virtio import RingLayout

__all__ = ["ADDRESSES", "NO_REGION", "VirtioBackend", "VirtioQueue", "check_registers"]

_WORD, _BYTE = 0xFFFF_FFFF, 0xFF
_REASONS = int(Interrupt.USED | Interrupt.CONFIG)


# Each half of a queue's addresses: {which one, its shift}.
ADDRESSES = {
    Register.QUEUE_DESC_LOW: (0, 0),
    Register.QUEUE_DESC_HIGH: (0, 32),
    Register.QUEUE_DRIVER_LOW: (1, 0),
    Register.QUEUE_DRIVER_HIGH: (1, 32),
    Register.QUEUE_DEVICE_LOW: (2, 0),
    Register.QUEUE_DEVICE_HIGH: (2, 32),
}
NO_REGION = frozenset(
    {Register.SHM_LEN_LOW, Register.SHM_LEN_HIGH, Register.SHM_BASE_LOW, Register.SHM_BASE_HIGH}
)


class VirtioBackend(Protocol):
    """A device: what is behind the registers.  Methods are called on vCPUs' threads, without a lock."""

    features: int
    queues: int
    queue_size_max: int

    def config(self) -> bytes:
        """Return the configuration space; does not wait."""

    def write_config(self, offset: int, data: bytes) -> None:
        """Have a part of it changed; does not wait."""

    def start(self, features: int, rings: Sequence[RingLayout]) -> None:
        """Begin to serve these queues, soon; does not wait."""

    def stop(self) -> None:
        """Be as at first; returns when it no longer touches the guest's memory."""

    def stop_queue(self, index: int) -> None:
        """Serve a queue no more; returns when it no longer touches its memory."""

    def notify(self, index: int) -> None:
        """Learn that a queue has requests; does not wait."""


class VirtioQueue:
    """What a driver has said of a queue."""

    __slots__ = ("addresses", "ready", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.addresses = [0, 0, 0]
        self.ready = False

    def save(self) -> VirtioQueueRecord:
        """Return all of it."""
        first, second, third = self.addresses
        return VirtioQueueRecord(self.size, (first, second, third), self.ready)

    def restore(self, record: VirtioQueueRecord) -> None:
        """Put back what `save` returned; raises UserError."""
        words = (record.size, *record.addresses)
        check(all(0 <= each < 1 << 64 for each in words), "a queue of a virtio device")
        self.size, self.addresses = record.size, list(record.addresses)
        self.ready = record.ready

    def key(self) -> Hashable:
        """Return all of it, hashable."""
        return (self.size, tuple(self.addresses), self.ready)


def check_registers(record: VirtioRecord, name: str, queues: int) -> None:
    """Raise UserError for registers that no device with so many queues can have."""
    words = (*record.selected, record.generation)
    check(all(0 <= each <= _WORD for each in words), f"{name}: its registers")
    check(0 <= record.status <= _BYTE, f"{name}: status {record.status:#x}")
    check(0 <= record.interrupt <= _REASONS, f"{name}: interrupt {record.interrupt:#x}")
    check(0 <= record.driver_features < 1 << 65, f"{name}: its features")
    check(len(record.queues) == queues, f"{name}: {len(record.queues)} queues")
