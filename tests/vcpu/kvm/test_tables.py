"""The first page tables of an x86-64 guest, walked as the CPU does (Intel SDM volume 3, 4.5)."""

from __future__ import annotations

import ctypes
import struct

from hypothesis import given
from hypothesis import strategies as st

from hfsched.vcpu.kvm.tables import ADDRESS, FirstTables, identity

GIB, BLOCK = 1 << 30, 2 << 20
FOUR_GIB = 4 * GIB
PRESENT, WRITABLE, ACCESSED, DIRTY, LARGE = 1, 2, 1 << 5, 1 << 6, 1 << 7
FRAME = (1 << 52) - 4096  # the bits of an entry that are an address

pages = st.integers(0, (1 << 46) // 4096 - 1)
regions = st.lists(
    st.tuples(pages, st.integers(1, 3 << 19)).map(lambda r: (r[0] << 12, (r[0] + r[1]) << 12)),
    max_size=3,
)


def walk(data: bytes, address: int) -> int | None:
    """Translate; None for a page fault.  An entry with a bit too many or too few fails."""
    table = ADDRESS
    for shift in (39, 30, 21):
        at = table - ADDRESS + (address >> shift & 511) * 8
        (entry,) = struct.unpack_from("<Q", data, at)
        if entry == 0:
            return None
        wanted = PRESENT | WRITABLE | ACCESSED
        if shift == 21:
            wanted |= DIRTY | LARGE
        assert entry & ~FRAME == wanted
        table = entry & FRAME
        if shift > 21:
            assert table % 4096 == 0
            assert ADDRESS < table < ADDRESS + len(data)
    assert table % BLOCK == 0
    return table | address & BLOCK - 1


def test_the_first_4_gib_and_nothing_more() -> None:
    data = identity([])
    assert len(data) == 4096 * (1 + 1 + 4)
    for block in range(0, FOUR_GIB, BLOCK):
        assert walk(data, block + 0x12345) == block + 0x12345
    for address in (FOUR_GIB, 5 * GIB, 1 << 39, 1 << 46, (1 << 48) - 1):
        assert walk(data, address) is None


@given(regions, st.lists(pages.map(lambda page: page << 12), max_size=20))
def test_regions_are_mapped_one_to_one(memory: list[tuple[int, int]], others: list[int]) -> None:
    data = identity(memory)
    assert len(data) % 4096 == 0
    mapped = {address // GIB for address in range(0, FOUR_GIB, GIB)}
    for start, end in memory:
        mapped |= set(range(start // GIB, (end - 1) // GIB + 1))
        for address in (start, (start + end) // 2, end - 1):
            assert walk(data, address) == address
    for address in [*others, *(end for _, end in memory), *(start - 1 for start, _ in memory)]:
        if address >= 0:
            assert walk(data, address) == (address if address // GIB in mapped else None)


def test_no_more_tables_than_are_needed() -> None:
    assert len(identity([(0, FOUR_GIB), (0x1000, 0x2000)])) == len(identity([]))
    assert len(identity([(511 * GIB, 514 * GIB)])) == 4096 * (1 + 2 + 4 + 3)


def test_machines_that_need_the_same_tables_have_one_copy() -> None:
    tables = FirstTables()
    low = tables.get([(GIB, GIB + 4096)])
    assert tables.get([(2 * GIB, 3 * GIB)]) == low, "the first 4 GiB are always there"
    high = tables.get([(4 * GIB, 4 * GIB + 4096)])
    assert high[0] != low[0]
    for (address, size), end in ((low, 4096), (high, 4 * GIB + 4096)):
        assert ctypes.string_at(address, size) == identity([(end - 4096, end)])
    assert tables.get([(5 * GIB - 4096, 5 * GIB)]) == high
    tables.close()
