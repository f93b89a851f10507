"""The first page tables of an x86-64 guest: an identity map in pages of 2 MiB (docs/x86-abi.md).

They are outside the VM's memory, and the guest cannot write them: accessed and dirty bits are set.
Format: Intel SDM volume 3, 4.5, "4-level paging".
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterable

__all__ = ["ADDRESS", "FirstTables", "identity"]

ADDRESS = 0xFFE0_0000  # in the guest's physical memory
_PAGE = 4096
_GIB = 1 << 30
_FOUR_GIB = 4 << 30
_TABLE = 1 | 2 | 1 << 5  # present, writable, accessed
_BLOCK = 1 | 2 | 1 << 5 | 1 << 6 | 1 << 7  # and dirty, 2 MiB


class FirstTables:
    """The tables of an engine's machines in host memory, one copy for all that need the same."""

    def __init__(self) -> None:
        self._made: dict[frozenset[int], tuple[mmap.mmap, int]] = {}

    def get(self, regions: Iterable[tuple[int, int]]) -> tuple[int, int]:
        """Return {host address, size} of `identity(regions)`, which stay until `close`."""
        gibs = _gibs(regions)
        if gibs not in self._made:
            data = identity((gib * _GIB, (gib + 1) * _GIB) for gib in gibs)
            memory = mmap.mmap(-1, len(data))
            memory.madvise(mmap.MADV_DONTFORK)
            memory[:] = data
            address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
            self._made.setdefault(gibs, (memory, address))  # another thread may have been faster
        memory, address = self._made[gibs]
        return address, len(memory)

    def close(self) -> None:
        """Free them, once no machine has them."""
        for memory, _ in self._made.values():
            memory.close()
        self._made.clear()


def _gibs(regions: Iterable[tuple[int, int]]) -> frozenset[int]:
    """Return the numbers of the GiB that tables for some regions map."""
    gibs = set(range(_FOUR_GIB // _GIB))
    for start, end in regions:
        gibs.update(range(start // _GIB, -(-end // _GIB)))
    return frozenset(gibs)


def identity(regions: Iterable[tuple[int, int]]) -> bytes:
    """Return tables that map the first 4 GiB and each region [start, end), for `ADDRESS`.

    The root comes first.
    """
    gibs = _gibs(regions)
    uppers = sorted({gib >> 9 for gib in gibs})
    # The root, a table of each 512 GiB, a table of each GiB.
    lower = ADDRESS + _PAGE * (1 + len(uppers))
    root = [0] * 512
    middle = {upper: [0] * 512 for upper in uppers}
    pages: list[list[int]] = []
    for number, upper in enumerate(uppers):
        root[upper] = ADDRESS + _PAGE * (1 + number) | _TABLE
    for number, gib in enumerate(sorted(gibs)):
        middle[gib >> 9][gib & 511] = lower + _PAGE * number | _TABLE
        pages.append([gib * _GIB + block * (2 << 20) | _BLOCK for block in range(512)])
    every = [root, *middle.values(), *pages]
    return b"".join(struct.pack("<512Q", *page) for page in every)
