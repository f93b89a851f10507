"""The packed ring (virtio 1.3, section 2.8): one ring of descriptors, which both sides mark.

An entry is the driver's when its AVAIL bit is the driver's wrap counter and its USED bit is not.  `_next` and `_used` are where
chains are taken out and given back, each with its wrap counter; a chain takes as many entries as it has descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.vhost.errors import RingError
from hfsched.vhost.ring.chain import (
    DESCRIPTOR,
    INDIRECT,
    NEXT,
    WRITE,
    Chain,
    ChainBuilder,
    indirect_table,
)

if TYPE_CHECKING:
    from hfsched.vhost.memory import Part, SharedMemory

__all__ = ["PackedRing", "packed_sizes"]

_AVAIL, _USED = 1 << 7, 1 << 15
_FLAGS = 14  # where they are in a descriptor
_ENABLE, _DISABLE, _AT = 0, 1, 2  # notifications: always, never, from one descriptor on
_WRAP = 1 << 15
_ELEMENT = struct.Struct("<IH")  # bytes written, id: after the address
_MASK = 0xFFFF


def packed_sizes(size: int) -> tuple[int, int, int]:
    """Return the bytes of the ring, of the driver's and of the device's event suppression."""
    return 16 * size, 4, 4


@dataclass(slots=True)
class _Index:
    at: int
    wrap: bool

    def move(self, count: int, size: int) -> None:
        """Go on, or back, by some entries, fewer than there are."""
        self.at += count
        if not 0 <= self.at < size:
            self.at -= size if self.at >= size else -size
            self.wrap = not self.wrap

    def word(self) -> int:
        """Return both as u16."""
        return self.at | self.wrap << 15


class PackedRing:
    """See `hfsched.vhost.ring.chain.Ring`.  `parts` are as `packed_sizes` has them; `base` has both indices."""

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
        self._ring, self._driver, self._device = parts
        self._event_idx = event_idx
        self._next = self._index(base & _MASK)
        self._used = self._index(base >> 16 & _MASK)
        self._unpublished = 0  # entries that were given back since
        self._announced = True  # the driver may not know of what was given back before
        self._suppressed: int | None = None

    def _index(self, word: int) -> _Index:
        if word & ~_WRAP >= self.size:
            raise RingError(f"index {word & ~_WRAP}, of {self.size} entries")
        return _Index(word & ~_WRAP, bool(word & _WRAP))

    def key(self) -> Hashable:
        """See `Ring`."""
        indices = (self._next.word(), self._used.word())
        return (indices, self._unpublished, self._announced, self._suppressed)

    def move(self, parts: tuple[Part, Part, Part]) -> None:
        """See `Ring`."""
        self._ring, self._driver, self._device = parts

    # Taking out.

    def _ready(self) -> bool:
        flags = self._ring.load16(16 * self._next.at + _FLAGS)
        return bool(flags & _AVAIL) is self._next.wrap is not bool(flags & _USED)

    def pop(self) -> Chain | None:
        """See `Ring`."""
        if not self._ready():
            return None
        found: list[tuple[int, int, int]] = []
        at = self._next.at
        while True:
            address, size, number, flags = DESCRIPTOR.unpack(self._ring.read(16 * at, 16))
            found.append((address, size, flags))
            if not flags & NEXT:
                break
            if len(found) == self.size:
                raise RingError(f"a chain that does not end in {self.size} descriptors")
            at = (at + 1) % self.size
        self._next.move(len(found), self.size)
        builder = ChainBuilder(self._memory, number, len(found))
        if len(found) == 1 and found[0][2] & INDIRECT:
            for address, size, _, flags in indirect_table(self._memory, builder, *found[0][:2]):
                builder.add(address, size, flags & WRITE)
            return builder.chain
        for address, size, flags in found:
            if flags & INDIRECT:
                raise builder.fail("an indirect descriptor with a next one")
            builder.add(address, size, flags)
        return builder.chain

    def unpop(self, chain: Chain) -> None:
        """See `Ring`."""
        self._next.move(-chain.descriptors, self.size)

    # Giving back.

    def push(self, chain: Chain, written: int) -> None:
        """See `Ring`; the entry is the driver's at once."""
        start = 16 * self._used.at
        self._ring.write(start + 8, _ELEMENT.pack(min(written, 0xFFFF_FFFF), chain.head))
        flags = (WRITE if written else 0) | ((_AVAIL | _USED) if self._used.wrap else 0)
        self._ring.store16(start + _FLAGS, flags)
        self._used.move(chain.descriptors, self.size)
        self._unpublished += chain.descriptors

    def publish(self) -> bool:
        """See `Ring`."""
        given, self._unpublished = self._unpublished, 0
        if not given and not self._announced:
            return False
        announced, self._announced = self._announced, False
        self._ring.fence()  # what it wants is read after it can see what there is
        wanted = self._driver.load16(2)
        if wanted != _AT or not self._event_idx:
            return wanted != _DISABLE
        event = self._driver.load16(0)
        at = event & ~_WRAP
        if bool(event & _WRAP) is not self._used.wrap:
            at -= self.size
        return announced or (self._used.at - at - 1) & _MASK < given

    # Kicks.

    def await_kick(self) -> bool:
        """See `Ring`."""
        wanted = self._next.word() | _AT << 16 if self._event_idx else _ENABLE << 16
        if wanted != self._suppressed:
            self._device.store16(0, wanted & _MASK)
            self._device.store16(2, wanted >> 16)
            self._suppressed = wanted
        self._device.fence()  # what there is is read after the driver can see that a kick is wanted
        return self._ready()

    def ignore_kicks(self) -> None:
        """See `Ring`."""
        if self._suppressed != _DISABLE << 16:
            self._suppressed = _DISABLE << 16
            self._device.store16(2, _DISABLE)

    def base(self) -> int:
        """See `Ring`."""
        return self._next.word() | self._used.word() << 16
