"""What is behind a virtio transport, and what a driver has said of its queues."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hfsched.abi.virtio import RingLayout

__all__ = ["VirtioBackend", "VirtioQueue"]


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

    def key(self) -> Hashable:
        """Return all of it, hashable."""
        return (self.size, tuple(self.addresses), self.ready)
