"""Chains of descriptors: what both kinds of rings share."""

from __future__ import annotations

import struct
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from hfsched.vhost.errors import ChainError, MemoryFaultError
from hfsched.vhost.memory import Span

if TYPE_CHECKING:
    from hfsched.vhost.memory import Part, SharedMemory

__all__ = [
    "DESCRIPTOR",
    "INDIRECT",
    "NEXT",
    "WRITE",
    "Chain",
    "ChainBuilder",
    "Ring",
    "indirect_table",
]

DESCRIPTOR = struct.Struct("<QIHH")  # address, size; split: flags, next; packed: id, flags
NEXT, WRITE, INDIRECT = 1, 2, 4  # flags
_DESCRIPTORS_MAX = 1024  # of a chain: as many as QEMU takes
_BYTES_MAX = 1 << 32  # of a chain, each way


@dataclass(slots=True)
class Chain:
    """What a driver gave: bytes to be read, and room to be written; `head` is its number for `Ring.push`.

    `descriptors` is how many entries of the ring it takes; `recovered` is one that a device which died had taken out.
    """

    head: int
    readable: list[Span] = field(default_factory=list)
    writable: list[Span] = field(default_factory=list)
    descriptors: int = 1
    recovered: bool = False

    @property
    def read_size(self) -> int:
        """The bytes to be read."""
        return sum(each.size for each in self.readable)

    @property
    def write_size(self) -> int:
        """The bytes of room."""
        return sum(each.size for each in self.writable)


class Ring(Protocol):
    """A ring that was started.  Raises RingError, MemoryFaultError when it makes no sense: it is broken then."""

    size: int

    def key(self) -> Hashable:
        """Return its own state: what is not in memory."""

    def move(self, parts: tuple[Part, Part, Part]) -> None:
        """Go on with the same ring, mapped elsewhere."""

    def pop(self) -> Chain | None:
        """Take the next chain out; None: there is none.  Raises ChainError for one that makes no sense."""

    def unpop(self, chain: Chain) -> None:
        """Put the chain back that was taken out last; nothing of it was done."""

    def push(self, chain: Chain, written: int) -> None:
        """Give a chain back, of which so many bytes were written; `publish` shows it to the driver."""

    def publish(self) -> bool:
        """Show the driver what was given back; return whether it wants to be notified."""

    def await_kick(self) -> bool:
        """Ask for a kick with the next chain; return whether there is one already, which no kick may announce."""

    def ignore_kicks(self) -> None:
        """Ask for none: the ring is looked at anyway."""

    def base(self) -> int:
        """Return the index to go on from, as GET_VRING_BASE has it."""


class ChainBuilder:
    """Adds up descriptors of one chain, and checks them."""

    def __init__(self, memory: SharedMemory, head: int, descriptors: int = 1) -> None:
        self._memory = memory
        self.chain = Chain(head, descriptors=descriptors)
        self._count = 0
        self._sizes = [0, 0]

    def fail(self, text: str) -> ChainError:
        """Return the error of this chain."""
        chain = self.chain
        return ChainError(chain.head, chain.descriptors, f"chain {chain.head}: {text}")

    def add(self, address: int, size: int, flags: int) -> None:
        """Add a descriptor that is a buffer; raises ChainError."""
        self._count += 1
        if self._count > _DESCRIPTORS_MAX:
            raise self.fail(f"more than {_DESCRIPTORS_MAX} descriptors, or a cycle of them")
        writes = bool(flags & WRITE)
        if not writes and self.chain.writable:
            raise self.fail("a descriptor to be read after one to be written")
        self._sizes[writes] += size
        if self._sizes[writes] > _BYTES_MAX:
            raise self.fail(f"more than {_BYTES_MAX} bytes")
        if not size:
            return
        try:
            self._memory.check(address, size)
        except MemoryFaultError as exc:
            raise self.fail(str(exc)) from None
        (self.chain.writable if writes else self.chain.readable).append(Span(address, size))


def indirect_table(
    memory: SharedMemory, builder: ChainBuilder, address: int, size: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield the entries of a table that a descriptor names: {address, size, the last two u16}."""
    if not size or size % DESCRIPTOR.size or size // DESCRIPTOR.size > _DESCRIPTORS_MAX:
        raise builder.fail(
            f"an indirect table of {size} bytes: 1 to {_DESCRIPTORS_MAX} times {DESCRIPTOR.size}"
        )
    try:
        table = memory.read(address, size)
    except MemoryFaultError as exc:
        raise builder.fail(f"its indirect table: {exc}") from None
    yield from DESCRIPTOR.iter_unpack(table)
