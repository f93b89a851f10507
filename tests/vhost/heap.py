"""Shared memory of a test's own, and drivers of both rings in it."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from hfsched.vhost.mapping import Bytes
from hfsched.vhost.memory import SharedMemory
from hfsched.vhost.protocol.messages import MemoryRegion
from hfsched.vhost.ring.packed import PackedRing, packed_sizes
from hfsched.vhost.ring.split import SplitRing, split_sizes

__all__ = ["HeapMapping", "PackedDriver", "SplitDriver", "shared"]

_DESCRIPTOR = struct.Struct("<QIHH")
NEXT, WRITE, INDIRECT = 1, 2, 4


class HeapMapping:
    """See `hfsched.vhost.mapping.Mapping`; one thread alone uses it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.bytes: bytearray | memoryview = bytearray(size)

    def read(self, offset: int, size: int) -> bytes:
        assert 0 <= offset <= offset + size <= self.size
        return bytes(self.bytes[offset : offset + size])

    def write(self, offset: int, data: Bytes) -> None:
        assert 0 <= offset <= offset + len(data) <= self.size
        self.bytes[offset : offset + len(data)] = data

    def fill(self, offset: int, size: int) -> None:
        self.write(offset, bytes(size))

    def load16(self, offset: int) -> int:
        assert not offset % 2
        return int.from_bytes(self.read(offset, 2), "little")

    def store16(self, offset: int, value: int) -> None:
        assert not offset % 2
        self.write(offset, value.to_bytes(2, "little"))

    def or8(self, offset: int, bits: int) -> None:
        self.write(offset, bytes([self.bytes[offset] | bits]))

    def fence(self) -> None:
        pass

    def close(self) -> None:
        pass


def shared(size: int = 1 << 16) -> tuple[SharedMemory, HeapMapping]:
    """Return memory whose guest addresses begin at 0x1000, and the front-end's at 0x7000_0000."""
    mapping = HeapMapping(size)
    memory = SharedMemory(lambda _fd, _offset, _size: mapping)
    memory.add(MemoryRegion(guest=0x1000, size=size, user=0x7000_0000, offset=0), 0)
    return memory, mapping


@dataclass
class _Driver:
    """A ring of `size` entries at the beginning of a mapping; buffers are given as {address, size, writable}."""

    memory: SharedMemory
    mapping: HeapMapping
    size: int
    event_idx: bool = False
    free: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free = list(range(self.size))

    def at(self, offset: int) -> int:
        return 0x7000_0000 + offset

    def set16(self, offset: int, value: int) -> None:
        self.mapping.write(offset, struct.pack("<H", value & 0xFFFF))

    def get16(self, offset: int) -> int:
        return self.mapping.load16(offset)


class SplitDriver(_Driver):
    """The driver of a split ring: descriptors, then the available ring, then the used ring."""

    def __post_init__(self) -> None:
        super().__post_init__()
        table, available, _ = split_sizes(self.size)
        self.available, self.used = table, (table + available + 3) // 4 * 4
        self.index = self.seen = 0
        self.heads: dict[int, list[int]] = {}

    def ring(self, base: int = 0) -> SplitRing:
        """Return the device's side."""
        sizes = split_sizes(self.size)
        parts = [
            self.memory.part(self.at(start), size)
            for start, size in zip((0, self.available, self.used), sizes, strict=True)
        ]
        first, second, third = parts
        return SplitRing(
            self.memory, self.size, (first, second, third), base, event_idx=self.event_idx
        )

    def put(self, head: int, address: int, size: int, flags: int, following: int = 0) -> None:
        """Write a descriptor."""
        self.mapping.write(16 * head, _DESCRIPTOR.pack(address, size, flags, following))

    def announce(self, head: int) -> None:
        """Make a chain available."""
        self.set16(self.available + 4 + 2 * (self.index % self.size), head)
        self.index = (self.index + 1) & 0xFFFF
        self.set16(self.available + 2, self.index)

    def add(self, buffers: list[tuple[int, int, bool]]) -> int:
        """Make a chain available; return its head."""
        taken = [self.free.pop() for _ in buffers]
        for at, (address, size, writable) in enumerate(buffers):
            last = at + 1 == len(buffers)
            flags = (0 if last else NEXT) | (WRITE if writable else 0)
            self.put(taken[at], address, size, flags, 0 if last else taken[at + 1])
        self.heads[taken[0]] = taken
        self.announce(taken[0])
        return taken[0]

    def wants_kick(self, before: int) -> bool:
        """Return whether the device wants a kick for what was added since index `before`."""
        if not self.event_idx:
            return not self.get16(self.used) & 1
        event = self.get16(self.used + 4 + 8 * self.size)
        return (self.index - event - 1) & 0xFFFF < (self.index - before) & 0xFFFF

    def take(self) -> list[tuple[int, int]]:
        """Return {head, bytes} of all that was given back since."""
        found = []
        while self.seen != self.get16(self.used + 2):
            at = self.used + 4 + 8 * (self.seen % self.size)
            head, written = struct.unpack("<II", self.mapping.read(at, 8))
            self.free += self.heads.pop(head)
            found.append((head, written))
            self.seen = (self.seen + 1) & 0xFFFF
        return found

    def ask_after(self, index: int) -> None:
        """With EVENT_IDX: ask for a notification when the device's index passes this one."""
        self.set16(self.available + 4 + 2 * self.size, index)


class PackedDriver(_Driver):
    """The driver of a packed ring: the ring, then its own and the device's event suppression."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.own, self.device = 16 * self.size, 16 * self.size + 4
        self.index, self.wrap = 0, True
        self.seen, self.seen_wrap = 0, True
        self.room = self.size
        self.chains: dict[int, int] = {}

    def ring(self, base: int = 0x8000_8000) -> PackedRing:
        """Return the device's side."""
        sizes = packed_sizes(self.size)
        parts = [
            self.memory.part(self.at(start), size)
            for start, size in zip((0, self.own, self.device), sizes, strict=True)
        ]
        first, second, third = parts
        return PackedRing(
            self.memory, self.size, (first, second, third), base, event_idx=self.event_idx
        )

    def add(self, buffers: list[tuple[int, int, bool]]) -> int:
        """Make a chain available; return its id."""
        number = self.free.pop()
        first, first_flags = self.index, 0
        for at, (address, size, writable) in enumerate(buffers):
            flags = (0 if at + 1 == len(buffers) else NEXT) | (WRITE if writable else 0)
            flags |= 1 << 7 if self.wrap else 1 << 15
            self.mapping.write(
                16 * self.index,
                _DESCRIPTOR.pack(address, size, number, 0 if at == 0 else flags)
                if at
                else struct.pack("<QIH", address, size, number),
            )
            first_flags = flags if at == 0 else first_flags
            self.index += 1
            if self.index == self.size:
                self.index, self.wrap = 0, not self.wrap
        self.set16(16 * first + 14, first_flags)
        self.room -= len(buffers)
        self.chains[number] = len(buffers)
        return number

    def take(self) -> list[tuple[int, int]]:
        """Return {id, bytes} of all that was given back since."""
        found = []
        while self.chains:
            _, written, number, flags = _DESCRIPTOR.unpack(self.mapping.read(16 * self.seen, 16))
            if not bool(flags & 1 << 7) is bool(flags & 1 << 15) is self.seen_wrap:
                break
            count = self.chains.pop(number)
            self.free.append(number)
            self.room += count
            found.append((number, written))
            self.seen += count
            if self.seen >= self.size:
                self.seen, self.seen_wrap = self.seen - self.size, not self.seen_wrap
        return found
