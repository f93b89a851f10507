"""The cache of a search that compares states: for each state, with which sleep set it was explored.

A state takes 20 bytes, its 128-bit digest and the number of its sleep set, in a hash table whose slots are at
least half used: 40 bytes at most.  Sleep sets are few; each is kept once.  (A dict of digests and sets takes
more than 200.)

Implementation note.  There are `PARTS` tables, chosen by a digest's first byte, with linear probing.  Each
grows by itself, so that growing never holds two copies of the whole.
"""

from __future__ import annotations

import sys
from array import array

from hfsched.explore.canonical import SIZE

__all__ = ["StateCache"]

PARTS = 256
FIRST = 8  # slots of a new table
FULL = 0.8  # of its slots, and it grows by half
SET_SIZE = 400  # bytes of a sleep set and its place in both indexes, about


class _Part:
    """One table: of slot n, the digest is bytes 16 n to 16 n + 15 of `keys`; set number 0: it is free."""

    __slots__ = ("keys", "numbers", "used")

    def __init__(self, slots: int) -> None:
        self.keys = bytearray(SIZE * slots)
        self.numbers = array("I", bytes(4 * slots))
        self.used = 0

    def find(self, key: bytes) -> int:
        """Return the slot of a digest, or the free one where it belongs."""
        keys, numbers = self.keys, self.numbers
        slots = len(numbers)
        slot = int.from_bytes(key[1:7], "little") % slots
        while numbers[slot] and keys[SIZE * slot : SIZE * slot + SIZE] != key:
            slot = (slot + 1) % slots
        return slot

    def put(self, slot: int, key: bytes, number: int) -> None:
        """Fill a slot."""
        self.used += not self.numbers[slot]
        self.keys[SIZE * slot : SIZE * slot + SIZE] = key
        self.numbers[slot] = number

    def grown(self) -> _Part:
        """Return a larger copy."""
        larger = _Part(len(self.numbers) * 3 // 2)
        for slot, number in enumerate(self.numbers):
            if number:
                key = bytes(self.keys[SIZE * slot : SIZE * slot + SIZE])
                larger.put(larger.find(key), key, number)
        return larger

    def size(self) -> int:
        """Return the bytes that it takes."""
        return sys.getsizeof(self.keys) + sys.getsizeof(self.numbers)


class StateCache:
    """A mapping of digests (16 bytes) to sleep sets, from which nothing is removed.

    `size` is the bytes of memory that it takes, about.
    """

    def __init__(self) -> None:
        self._parts: list[_Part | None] = [None] * PARTS
        self._sets: list[frozenset[int]] = [frozenset()]  # by number; 0 stands for none
        self._numbers: dict[frozenset[int], int] = {}
        self._length = 0
        self._table_size = 0

    def __len__(self) -> int:
        return self._length

    @property
    def size(self) -> int:
        """See the class."""
        return self._table_size + SET_SIZE * len(self._sets)

    def get(self, key: bytes) -> frozenset[int] | None:
        """Return the sleep set with which a state was explored; None: it was not."""
        part = self._parts[key[0]]
        if part is None:
            return None
        number = part.numbers[part.find(key)]
        return self._sets[number] if number else None

    def put(self, key: bytes, sleep_set: frozenset[int]) -> None:
        """Note with which sleep set a state is explored, instead of what was noted before."""
        part = self._parts[key[0]]
        if part is None:
            part = self._replace(key[0], None, _Part(FIRST))
        elif part.used + 1 > FULL * len(part.numbers):  # some slot is always free
            part = self._replace(key[0], part, part.grown())
        before = part.used
        part.put(part.find(key), key, self._number(sleep_set))
        self._length += part.used - before

    def _replace(self, index: int, old: _Part | None, new: _Part) -> _Part:
        self._table_size += new.size() - (0 if old is None else old.size())
        self._parts[index] = new
        return new

    def _number(self, sleep_set: frozenset[int]) -> int:
        number = self._numbers.get(sleep_set)
        if number is None:
            number = self._numbers[sleep_set] = len(self._sets)
            self._sets.append(sleep_set)
        return number
