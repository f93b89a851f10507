"""Models for the scenario `vhost`: memory that two processors share, each with a store buffer, and a guest's driver.

A store is seen by the others some time later, in order, and a fence waits for that: as on x86, where a load may come before an
earlier store of the same processor.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hfsched.explore.foreign import XEventFd
from hfsched.explore.thing import Thing
from hfsched.vhost.ring.split import split_sizes

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.vhost.mapping import Bytes

__all__ = ["BUFFERS", "Driver", "ModelMapping", "RingMemory", "SharedEventFd"]

BUFFERS = 0x100  # where the first buffer is
_BUFFER = 16  # bytes of each
_DESCRIPTOR = struct.Struct("<QIHH")
_WRITE = 2


class RingMemory(Thing):
    """The bytes that all see, and of each processor the stores that only it sees yet."""

    what = "memory"

    def __init__(
        self, runtime: ExploreRuntime, name: str, size: int, processors: tuple[str, ...]
    ) -> None:
        super().__init__(runtime, name)
        self.bytes = bytearray(size)
        self.buffers: dict[str, deque[tuple[int, bytes]]] = {each: deque() for each in processors}
        self.dead: set[str] = set()  # their accesses have no effect any more
        self.quiet: set[str] = set()  # who must not store now

    def key(self) -> Hashable:
        """See `Thing.key`."""
        buffers = tuple(tuple(each) for each in self.buffers.values())
        return (bytes(self.bytes), buffers, tuple(sorted(self.dead)), tuple(sorted(self.quiet)))

    def load(self, who: str, offset: int, size: int) -> bytes:
        """Return bytes as a processor sees them."""
        with self._access("load", write=False):
            seen = bytearray(self.bytes[offset : offset + size])
            for at, data in self.buffers[who]:
                for place, byte in enumerate(data, at):
                    if offset <= place < offset + size:
                        seen[place - offset] = byte
            found = bytes(seen)
        self.controller.observe(found)
        return found

    def store(self, who: str, offset: int, data: Bytes) -> None:
        """Store bytes."""
        with self._access("store"):
            assert who not in self.quiet, f"{who} writes, and is suspended"
            if who not in self.dead:
                self.buffers[who].append((offset, bytes(data)))

    def fence(self, who: str) -> None:
        """Have all see what a processor has stored."""
        with self._access("fence"):
            self._drain(who, len(self.buffers[who]))

    def drain_one(self, who: str) -> None:
        """Wait until a processor has a store that the others do not see, and have them see it."""
        with self._access("drain", condition=lambda: bool(self.buffers[who])):
            self._drain(who, 1)

    def allow(self, who: str, *, allowed: bool) -> None:
        """Say whether a processor may store; for the oracle."""
        with self._access("allow"):
            (self.quiet.discard if allowed else self.quiet.add)(who)

    def _drain(self, who: str, count: int) -> None:
        for _ in range(count):
            offset, data = self.buffers[who].popleft()
            self.bytes[offset : offset + len(data)] = data

    @contextmanager
    def _access(
        self, kind: str, *, write: bool = True, condition: Callable[[], bool] | None = None
    ) -> Iterator[None]:
        """Wait for this access's turn; how the model is kept is ordered, whatever it models."""
        self.controller.point(kind, self, write=write, condition=condition)
        self.controller.take_over(self)
        yield
        self.controller.pass_on(self)

    def start(self, runtime: ExploreRuntime) -> None:
        """Have stores be seen at any later point."""

        def drain(who: str) -> Callable[[], None]:
            def run() -> None:
                while True:
                    runtime.retain_only()
                    self.drain_one(who)

            return run

        for each in self.buffers:
            runtime.spawn(f"stores.{each}", drain(each))


class ModelMapping:
    """See `hfsched.vhost.mapping.Mapping`: memory as the processor `who` has it.  Without `fences` it forgets them."""

    def __init__(self, memory: RingMemory, who: str, *, fences: bool = True) -> None:
        self.memory = memory
        self._who = who
        self._fences = fences
        self.size = len(memory.bytes)

    def read(self, offset: int, size: int) -> bytes:
        """See `Mapping`."""
        return self.memory.load(self._who, offset, size)

    def write(self, offset: int, data: Bytes) -> None:
        """See `Mapping`."""
        self.memory.store(self._who, offset, data)

    def fill(self, offset: int, size: int) -> None:
        """See `Mapping`."""
        self.write(offset, bytes(size))

    def load16(self, offset: int) -> int:
        """See `Mapping`."""
        return int.from_bytes(self.read(offset, 2), "little")

    def store16(self, offset: int, value: int) -> None:
        """See `Mapping`."""
        self.write(offset, value.to_bytes(2, "little"))

    def or8(self, offset: int, bits: int) -> None:
        """See `Mapping`."""
        self.write(offset, bytes([self.read(offset, 1)[0] | bits]))

    def fence(self) -> None:
        """See `Mapping`."""
        if self._fences:
            self.memory.fence(self._who)

    def close(self) -> None:
        """See `Mapping`."""


class SharedEventFd(XEventFd):
    """One that the device has a descriptor of its own of: closing that closes nothing here."""

    def close(self) -> None:
        """Do nothing."""


class Driver:
    """A guest's driver of a split ring at the beginning of memory: one request at a time is added, as far as there is room.

    Each has one buffer to be written.  `call` wakes it up, and `kick` is what it kicks by.
    """

    def __init__(
        self, memory: RingMemory, size: int, kick: XEventFd, call: XEventFd, *, event_idx: bool
    ) -> None:
        table, available, _ = split_sizes(size)
        self.memory = ModelMapping(memory, "driver")
        self.size = size
        self.available, self.used = table, (table + available + 3) // 4 * 4
        self.kick, self.call = kick, call
        self._event_idx = event_idx
        self._index = self._seen = 0
        self.done: list[int] = []  # heads that came back, in order
        self.free = list(range(size))

    def prepare(self) -> None:
        """Write the descriptors, before anything runs."""
        raw = self.memory.memory.bytes
        for head in range(self.size):
            at = BUFFERS + _BUFFER * head
            raw[16 * head : 16 * head + 16] = _DESCRIPTOR.pack(at, _BUFFER, _WRITE, 0)

    def add(self) -> None:
        """Make a request available, and kick if that is wanted."""
        head = self.free.pop(0)
        self.memory.store16(self.available + 4 + 2 * (self._index % self.size), head)
        before, self._index = self._index, (self._index + 1) & 0xFFFF
        self.memory.store16(self.available + 2, self._index)
        self.memory.fence()
        if self._event_idx:
            event = self.memory.load16(self.used + 4 + 8 * self.size)
            wanted = (self._index - event - 1) & 0xFFFF < (self._index - before) & 0xFFFF
        else:
            wanted = not self.memory.load16(self.used) & 1
        if wanted:
            self.kick.signal()

    def take(self) -> bool:
        """Take what came back; return whether more may have, which no call announces."""
        index = self.memory.load16(self.used + 2)
        while self._seen != index:
            entry = self.memory.read(self.used + 4 + 8 * (self._seen % self.size), 8)
            head = struct.unpack("<II", entry)[0]
            assert head not in self.free, f"request {head} is completed twice"
            self.done.append(head)
            self.free.append(head)
            self._seen = (self._seen + 1) & 0xFFFF
        if not self._event_idx:
            return False
        self.memory.store16(self.available + 4 + 2 * self.size, self._seen)
        self.memory.fence()
        return self.memory.load16(self.used + 2) != self._seen

    def key(self) -> Hashable:
        """Return all of its own state."""
        return (self._index, self._seen, tuple(self.done), tuple(self.free))
