"""The first page tables of an x86-64 guest: an identity map in pages of 2 MiB (docs/x86-abi.md).

They are outside the VM's memory, and the guest cannot write them: accessed and dirty bits are set.
Format: Intel SDM volume 3, 4.5, "4-level paging".
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

__all__ = ["ADDRESS", "identity"]

ADDRESS = 0xFFE0_0000  # in the guest's physical memory
_PAGE = 4096
_GIB = 1 << 30
_FOUR_GIB = 4 << 30
_TABLE = 1 | 2 | 1 << 5  # present, writable, accessed
_BLOCK = 1 | 2 | 1 << 5 | 1 << 6 | 1 << 7  # and dirty, 2 MiB


def identity(regions: Iterable[tuple[int, int]]) -> bytes:
    """Return tables that map the first 4 GiB and each region [start, end), for `ADDRESS`.

    The root comes first.
    """
    gibs = set(range(_FOUR_GIB // _GIB))
    for start, end in regions:
        gibs |= set(range(start // _GIB, -(-end // _GIB)))
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
