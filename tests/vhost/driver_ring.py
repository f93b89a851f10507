"""The driver of a split ring, with buffers of its own: a part of `driver.FrontEnd`."""

from __future__ import annotations

import os

from heap import HeapMapping, SplitDriver, shared

__all__ = ["GUEST", "SLOT", "RingDriver", "Window", "ring_bytes"]

SLOT = 4096  # bytes of a buffer, one for each descriptor
GUEST = 1 << 32  # where the memory begins, by the guest's addresses


class Window(HeapMapping):
    """A part of the memory that is shared with the device."""

    def __init__(self, view: memoryview) -> None:
        self.size = len(view)
        self.bytes = view


class RingDriver:
    """The driver of one queue.  Buffers are its own: `add` copies what it is given, `take` what has come."""

    def __init__(self, window: HeapMapping, offset: int, size: int, *, event_idx: bool) -> None:
        self.size = size
        self.offset = offset  # bytes, in the memory
        self._data = ring_bytes(size)
        self._window = window
        memory, _ = shared(0x10)
        self.ring = SplitDriver(memory, window, size, event_idx)
        self.base = 0  # where the device begins, or has stopped
        self._room: dict[int, list[tuple[int, int]]] = {}  # of a head: {offset, bytes}
        self.kick_fd = self.call_fd = -1

    @property
    def free(self) -> int:
        """How many descriptors are free."""
        return len(self.ring.free)

    def add(self, out: bytes = b"", room: int = 0) -> int:
        """Make a chain available, with bytes to be read and room to be written, without a kick; return its head."""
        parts = [out[at : at + SLOT] for at in range(0, len(out), SLOT)]
        rooms = [min(SLOT, room - at) for at in range(0, room, SLOT)]
        count = len(parts) + len(rooms)
        assert 0 < count <= self.free, f"{count} descriptors, {self.free} are free"
        slots = [self._data + SLOT * each for each in reversed(self.ring.free[-count:])]
        buffers = []
        for part, at in zip(parts, slots, strict=False):
            self._window.write(at, part)
            buffers.append((self._guest(at), len(part), False))
        places = list(zip(slots[len(parts) :], rooms, strict=True))
        buffers += [(self._guest(at), size, True) for at, size in places]
        head = self.ring.add(buffers)
        self._room[head] = places
        return head

    def _guest(self, at: int) -> int:
        return GUEST + self.offset + at

    def take(self) -> list[tuple[int, bytes]]:
        """Return {head, what was written} of each chain that was given back since; ask to be told of the next one."""
        found = []
        for head, written in self.ring.take():
            data = b"".join(self._window.read(at, size) for at, size in self._room.pop(head))
            assert written <= len(data), f"{written} bytes were written to {len(data)}"
            found.append((head, data[:written]))
        if self.ring.event_idx:
            self.ring.ask_after(self.ring.seen)
        return found

    def kick(self, *, always: bool = False) -> bool:
        """Kick the device if it wants that for what was added since the last time; return whether it was done."""
        wanted = always or self.ring.wants_kick(self._kicked)
        self._kicked = self.ring.index
        if wanted:
            os.eventfd_write(self.kick_fd, 1)
        return wanted

    _kicked = 0

    def reset(self) -> None:
        """Forget all chains: the driver begins again."""
        self._window.fill(0, self._data)
        memory = self.ring.memory
        self.ring = SplitDriver(memory, self._window, self.size, self.ring.event_idx)
        self._room = {}
        self._kicked = self.base = 0


def ring_bytes(size: int) -> int:
    """Return the bytes of a ring, in whole slots."""
    return (16 * size + 6 + 2 * size + 4 + 6 + 8 * size + SLOT - 1) // SLOT * SLOT
