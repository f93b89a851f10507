"""Changes of bytes: of a `bytearray`, of mapped memory, of an object of ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Hashable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.changes.before import Before, Difference, instead
from hfsched.explore.watch.history import ALL, SHAPE, Extent

if TYPE_CHECKING:
    from hfsched.explore.watch.history import Site

__all__ = ["Bytes", "Memory"]


_GROUPS = 16  # of changed bytes that are told apart


class Bytes(Before):
    """The bytes of a `bytearray` or of mapped memory."""

    def __init__(self, of: Any) -> None:
        super().__init__(of)
        self._size = self._length()
        self._old: dict[int, int] = {}

    def _length(self) -> int:
        return len(memoryview(self.of))

    def _save(self, key: Hashable) -> None:
        if key is SHAPE:
            return
        start, stop = key if isinstance(key, Extent) else (0, self._size)
        with memoryview(self.of) as view:
            for at, value in enumerate(view[start:stop], start):
                if at < self._size:
                    self._old.setdefault(at, value)

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        old = self._old
        with memoryview(self.of) as view:
            size = len(view)
            places = (*sorted(old), *range(self._size, size))
            now = {at: view[at] for at in places if at < size}
        changed = {
            at: old.get(at, value ^ 0xFF) for at, value in now.items() if old.get(at) != value
        }
        for group in _groups(list(changed)):
            where = Extent(group[0], group[-1] + 1)
            what = (
                f"byte {group[0]:#x}"
                if len(group) == 1
                else f"bytes {group[0]:#x} to {group[-1]:#x}"
            )
            others = {at: changed[at] for at in group}
            variant = partial(instead, self._put, others, {at: now[at] for at in group})
            yield Difference(where, what, self._site_of(where), [variant])
        if size < self._size:
            put = partial(bytearray.__setitem__, self.of, slice(None))
            whole = bytes(self.of)
            variant = partial(instead, put, whole + bytes(self._size - size), whole)
            yield Difference(SHAPE, "the length", self._site(SHAPE), [variant])

    def _site_of(self, where: Extent) -> Site:
        for key in reversed(self._sites):
            if isinstance(key, Extent) and key.start <= where.start < key.stop:
                return self._sites[key]
        return self._last

    def _put(self, values: dict[int, int]) -> None:
        with memoryview(self.of).cast("B") as view:
            for at, value in values.items():
                view[at] = value

    def precede(self, later: Bytes) -> None:
        """See `Before`."""
        super().precede(later)
        self._old = {**later._old, **self._old}


class Memory(Before):
    """The memory of an object of ctypes."""

    def __init__(self, of: Any) -> None:
        super().__init__(of)
        self._old = self._now()

    def _now(self) -> bytes:
        return ctypes.string_at(ctypes.addressof(self.of), ctypes.sizeof(self.of))

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        now = self._now()
        changed = [at for at in range(min(len(now), len(self._old))) if now[at] != self._old[at]]
        for group in _groups(changed):
            variant = bytearray(now)
            for at in group:
                variant[at] = self._old[at]
            put = partial(instead, self._put, bytes(variant), now)
            yield Difference(ALL, f"byte {group[0]:#x}", self._last, [put])

    def _put(self, value: bytes) -> None:
        ctypes.memmove(ctypes.addressof(self.of), value, len(value))


def _groups(changed: list[int]) -> list[list[int]]:
    size = -(-len(changed) // _GROUPS) or 1
    return [changed[at : at + size] for at in range(0, len(changed), size)]
