"""One request of a driver: a chain, as a device's method gets it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.vhost.errors import ChainError
from hfsched.vhost.memory import Span

if TYPE_CHECKING:
    from hfsched.vhost.mapping import Bytes
    from hfsched.vhost.queue import Queue
    from hfsched.vhost.ring.chain import Chain

__all__ = ["Request"]


class Request:
    """What a driver asks: bytes that the device reads, and room that it writes.

    Give it back by `complete`, once, on the device's task.  What lies outside raises ChainError: the request is then given
    back as it is.
    """

    __slots__ = ("_memory", "_queue", "_written", "chain", "completed", "read_size", "write_size")

    def __init__(self, queue: Queue, chain: Chain) -> None:
        self._queue = queue
        self._memory = queue.memory
        self.chain = chain
        self.read_size = chain.read_size  # bytes to be read
        self.write_size = chain.write_size  # bytes of room
        self._written = 0
        self.completed = False

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        """Return a copy of so many bytes from `offset` on; all that are left without a size."""
        size = self.read_size - offset if size is None else size
        spans = self._spans(self.chain.readable, offset, size)
        return b"".join(self._memory.read(each.address, each.size) for each in spans)

    def write(self, data: Bytes, offset: int = 0) -> None:
        """Write to the driver's room, from `offset` on."""
        view, at = memoryview(data), 0
        for each in self._spans(self.chain.writable, offset, len(view)):
            self._memory.write(each.address, view[at : at + each.size])
            at += each.size
        self._written = max(self._written, offset + len(view))

    def complete(self, written: int | None = None) -> None:
        """Give it back; `written` is how many bytes the driver may look at, by default up to the last one written."""
        if not self.completed:
            self.completed = True
            self._queue.give_back(self, self._written if written is None else written)

    def _spans(self, spans: Sequence[Span], offset: int, size: int) -> Sequence[Span]:
        """Return a part of spans, or raise ChainError."""
        found, left = [], size
        for each in spans:
            if not left:
                break
            if offset >= each.size:
                offset -= each.size
                continue
            count = min(left, each.size - offset)
            found.append(Span(each.address + offset, count))
            offset, left = 0, left - count
        if left or offset < 0:
            chain = self.chain
            raise ChainError(
                chain.head, chain.descriptors, f"chain {chain.head}: it is {left} bytes short"
            )
        return found
