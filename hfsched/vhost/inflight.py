"""The memory of in-flight descriptors, which outlives a backend: what it had taken out is done again by the next one.

Source: vhost-user.rst, "Inflight I/O tracking", the split ring's form.  In each step the order of stores makes that a
descriptor is never lost: it may be done twice, with the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import TYPE_CHECKING

from hfsched.vhost.errors import RefusedError

if TYPE_CHECKING:
    from hfsched.vhost.mapping import Mapping

__all__ = ["InflightRing", "inflight_size"]

_VERSION = 1
_HEAD = struct.Struct("<QHHHH")  # features, version, entries, last batch's head, used index
_ENTRY = struct.Struct("<B5xHQ")  # in flight, next of its batch, counter
_ALIGN = 64  # bytes, between rings
_MASK = 0xFFFF


def inflight_size(entries: int) -> int:
    """Return the bytes for a ring of so many entries."""
    return (_HEAD.size + _ENTRY.size * entries + _ALIGN - 1) // _ALIGN * _ALIGN


class InflightRing:
    """One ring's part: `size` entries from byte `start` on of a mapping, which stays the caller's."""

    def __init__(self, mapping: Mapping, start: int, size: int) -> None:
        self._mapping = mapping
        self._start = start
        self.size = size
        self._counter = 0
        self._batch: list[int] = []  # heads that were given back, and not published

    def key(self) -> Hashable:
        """Return its own state: what is not in memory."""
        return (self._counter, tuple(self._batch))

    def recover(self, used: int) -> list[int]:
        """Begin, with the used ring's index as it is; return the heads that are to be done again, in their order.

        Raises RefusedError for memory of another form.
        """
        _, version, entries, last, before = _HEAD.unpack(
            self._mapping.read(self._start, _HEAD.size)
        )
        if version == 0:
            self._mapping.write(self._start, _HEAD.pack(0, _VERSION, self.size, 0, used))
            return []
        if version != _VERSION or entries != self.size:
            raise RefusedError(
                f"in-flight memory of version {version}, {entries} entries: not {_VERSION}, {self.size}"
            )
        batch = (used - before) & _MASK  # it was published, and no more
        for _ in range(min(batch, self.size)):
            if last >= self.size:
                break
            self._mapping.fill(self._entry(last), 1)
            _, last, _ = self._read(last)
        self._store_used(used)
        found = []
        for head in range(self.size):
            under_way, _, counter = self._read(head)
            if under_way:
                found.append((counter, head))
                self._counter = max(self._counter, counter)
        return [head for _, head in sorted(found)]

    def taken(self, head: int) -> None:
        """Note that a chain was taken out."""
        self._counter += 1
        at = self._entry(head)
        self._mapping.write(at + 8, struct.pack("<Q", self._counter))
        self._mapping.write(at, b"\1")

    def given_back(self, head: int) -> None:
        """Note that a chain is in the used ring, and not published."""
        before = self._batch[-1] if self._batch else 0
        self._mapping.write(self._entry(head) + 6, struct.pack("<H", before))
        self._mapping.store16(self._start + 12, head)
        self._batch.append(head)

    def published(self, used: int) -> None:
        """Note that the driver can see all that was given back."""
        for head in self._batch:
            self._mapping.fill(self._entry(head), 1)
        self._batch.clear()
        self._store_used(used)

    def _store_used(self, used: int) -> None:
        self._mapping.store16(self._start + 14, used)

    def _entry(self, head: int) -> int:
        return self._start + _HEAD.size + _ENTRY.size * head

    def _read(self, head: int) -> tuple[int, int, int]:
        found = self._mapping.read(self._entry(head), _ENTRY.size)
        under_way, following, counter = _ENTRY.unpack(found)
        return under_way, following, counter
