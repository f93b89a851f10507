"""The split ring (virtio 1.3, section 2.7): a table of descriptors, an available and a used ring.

Invariants: `_next` is the index of the chain that is taken out next, `_used` of the entry that is filled in next; of what lies
between the driver's index and `_next` nothing is known.  Only indices modulo 2^16 are compared.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import TYPE_CHECKING

from hfsched.vhost.errors import RingError
from hfsched.vhost.ring.chain import DESCRIPTOR, INDIRECT, NEXT, Chain, ChainBuilder, indirect_table

if TYPE_CHECKING:
    from hfsched.vhost.memory import Part, SharedMemory

__all__ = ["SplitRing", "split_sizes"]

_NO_INTERRUPT = 1  # the driver's flag
_NO_NOTIFY = 1  # the device's
_USED = struct.Struct("<II")
_HEAD = 4  # bytes before the entries of both rings
_MASK = 0xFFFF


def split_sizes(size: int) -> tuple[int, int, int]:
    """Return the bytes of the table, the available and the used ring, of so many entries."""
    return 16 * size, _HEAD + 2 * size + 2, _HEAD + 8 * size + 2


class SplitRing:
    """See `hfsched.vhost.ring.chain.Ring`.  `parts` are as `split_sizes` has them; `base` is where it goes on.

    With `event_idx` both sides say from which index on they want to be notified.
    """

    def __init__(
        self,
        memory: SharedMemory,
        size: int,
        parts: tuple[Part, Part, Part],
        base: int,
        *,
        event_idx: bool,
    ) -> None:
        self.size = size
        self._memory = memory
        self._table, self._available, self._used_ring = parts
        self._event_idx = event_idx
        self._next = base & _MASK
        # What was given back before may differ from what was taken out: a backend that died had some in flight.
        self._used = self._used_ring.load16(2)
        self._published = self._used
        self._announced = True  # the driver may not know of what was there before
        self._flags = _NO_NOTIFY  # whatever another backend has left there

    @property
    def used(self) -> int:
        """The index of the used ring's entry that is filled in next."""
        return self._used

    def key(self) -> Hashable:
        """See `Ring`."""
        return (self._next, self._used, self._published, self._announced, self._flags)

    def move(self, parts: tuple[Part, Part, Part]) -> None:
        """See `Ring`."""
        self._table, self._available, self._used_ring = parts

    # Taking out.

    def pop(self) -> Chain | None:
        """See `Ring`."""
        waiting = (self._available.load16(2) - self._next) & _MASK
        if not waiting:
            return None
        if waiting > self.size:
            raise RingError(f"the driver's index is {waiting} ahead, of {self.size} entries")
        head = self._available.load16(_HEAD + 2 * (self._next % self.size))
        if head >= self.size:
            raise RingError(f"descriptor {head}, of {self.size}")
        self._next = (self._next + 1) & _MASK
        return self.chain(head)

    def chain(self, head: int) -> Chain:
        """Return the chain that begins with a descriptor; raises ChainError."""
        builder = ChainBuilder(self._memory, head)
        index = head
        for _ in range(self.size):
            address, size, flags, following = DESCRIPTOR.unpack(self._table.read(16 * index, 16))
            if flags & INDIRECT:
                if flags & NEXT:
                    raise builder.fail("an indirect descriptor with a next one")
                self._add_indirect(builder, address, size)
                return builder.chain
            builder.add(address, size, flags)
            if not flags & NEXT:
                return builder.chain
            if following >= self.size:
                raise builder.fail(f"next descriptor {following}, of {self.size}")
            index = following
        raise builder.fail(f"a cycle, or more than {self.size} descriptors")

    def _add_indirect(self, builder: ChainBuilder, address: int, size: int) -> None:
        entries = list(indirect_table(self._memory, builder, address, size))
        index = 0
        for _ in entries:
            address, size, flags, following = entries[index]
            if flags & INDIRECT:
                raise builder.fail("an indirect descriptor in an indirect table")
            builder.add(address, size, flags)
            if not flags & NEXT:
                return
            if following >= len(entries):
                raise builder.fail(f"next descriptor {following}, of {len(entries)} in its table")
            index = following
        raise builder.fail("a cycle in its indirect table")

    def unpop(self, chain: Chain) -> None:  # noqa: ARG002 - a packed ring needs to know how long it was
        """See `Ring`."""
        self._next = (self._next - 1) & _MASK

    # Giving back.

    def push(self, chain: Chain, written: int) -> None:
        """See `Ring`."""
        entry = _USED.pack(chain.head, min(written, 0xFFFF_FFFF))
        self._used_ring.write(_HEAD + 8 * (self._used % self.size), entry)
        self._used = (self._used + 1) & _MASK

    def publish(self) -> bool:
        """See `Ring`."""
        before, self._published = self._published, self._used
        if before != self._used:
            self._used_ring.store16(2, self._used)
        elif not self._announced:
            return False
        announced, self._announced = self._announced, False
        self._used_ring.fence()  # what it wants is read after it can see what there is
        if not self._event_idx:
            return not self._available.load16(0) & _NO_INTERRUPT
        event = self._available.load16(_HEAD + 2 * self.size)
        passed = (self._used - event - 1) & _MASK < (self._used - before) & _MASK
        return passed or announced

    # Kicks.

    def await_kick(self) -> bool:
        """See `Ring`."""
        if self._event_idx:
            self._used_ring.store16(_HEAD + 8 * self.size, self._next)
        elif self._flags:
            self._flags = 0
            self._used_ring.store16(0, 0)
        self._used_ring.fence()  # what there is is read after the driver can see that a kick is wanted
        return self._available.load16(2) != self._next

    def ignore_kicks(self) -> None:
        """See `Ring`."""
        if not self._event_idx and not self._flags:
            self._flags = _NO_NOTIFY
            self._used_ring.store16(0, _NO_NOTIFY)

    def base(self) -> int:
        """See `Ring`."""
        return self._next
