"""The table builder against a dictionary of pages, read back by a walker of its own."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import InternalError
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.unicorn.stage2 import Stage2

PAGE = 4096
BLOCK = 512


class FakePages:
    """Tables in a dictionary; a page that is given back must be taken again as zeros."""

    def __init__(self) -> None:
        self.live: dict[int, memoryview] = {}
        self.next = 1 << 43

    def take(self) -> int:
        self.next += PAGE
        self.live[self.next] = memoryview(bytearray(PAGE)).cast("Q")
        return self.next

    def give(self, page: int) -> None:
        del self.live[page]

    def entries(self, page: int) -> memoryview:
        return self.live[page]


def walk(pages: FakePages, root: int) -> dict[int, tuple[int, int]]:
    """Return page number -> (physical page number, S2AP | XN << 2), as the hardware reads it."""
    found: dict[int, tuple[int, int]] = {}
    tables = {root}

    def leaf(number: int, entry: int, size: int) -> None:
        assert entry >> 10 & 1  # the access flag
        assert entry >> 2 & 15 == 15  # normal memory
        rights = (entry >> 6 & 3) | (entry >> 54 & 1) << 2
        physical = (entry & ((1 << 48) - PAGE)) // PAGE
        assert physical % size == 0
        for i in range(size):
            found[number + i] = (physical + i, rights)

    def level(table: int, depth: int, number: int) -> None:
        for index, entry in enumerate(pages.entries(table)):
            at = number * 512 + index
            if not entry & 1:
                assert entry == 0
            elif depth == 3:
                assert entry & 3 == 3
                leaf(at, entry, 1)
            elif entry & 3 == 1:
                assert depth == 2
                leaf(at * 512, entry, 512)
            else:
                below = entry & ((1 << 48) - PAGE)
                assert below not in tables
                tables.add(below)
                level(below, depth + 1, at)

    level(root, 0, 0)
    assert tables == set(pages.live)  # none leaked, none freed too early
    return found


def rights(permissions: Permissions) -> int:
    return (permissions & 3) | (0 if permissions & 4 else 4)


# Around block borders, in three places of the IPA space.
STARTS = st.builds(
    lambda base, page: base + page,
    st.sampled_from([0, (1 << 31) - 2 * BLOCK, (1 << 32) - 2 * BLOCK]),
    st.integers(0, 2 * BLOCK - 1),
)
SIZES = st.one_of(st.integers(1, 8), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK]))
OPERATIONS = st.tuples(
    st.sampled_from(["map", "map", "unmap", "protect"]),
    STARTS,
    SIZES,
    st.one_of(st.integers(0, 4 * BLOCK), st.integers(0, 4).map(lambda n: n * BLOCK)),
    st.integers(0, 7).map(Permissions),
    st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(OPERATIONS, max_size=8))
def test_tables_say_what_the_operations_said(
    operations: list[tuple[str, int, int, int, Permissions, bool]],
) -> None:
    pages = FakePages()
    tables = Stage2(pages)
    model: dict[int, tuple[int, int]] = {}
    for name, start, size, physical, permissions, same_offset in operations:
        if same_offset:
            physical = physical // BLOCK * BLOCK + start % BLOCK  # noqa: PLW2901
        pages_there = range(start, min(start + size, 1 << 32))
        size = len(pages_there)  # noqa: PLW2901
        if name == "map":
            tables.map(start * PAGE, physical * PAGE, size * PAGE, permissions)
            for i, page in enumerate(pages_there):
                model[page] = (physical + i, rights(permissions))
        elif name == "unmap":
            tables.unmap(start * PAGE, size * PAGE)
            for page in pages_there:
                model.pop(page, None)
        else:
            tables.protect(start * PAGE, size * PAGE, permissions)
            for page in pages_there:
                if page in model:
                    model[page] = (model[page][0], rights(permissions))
        for page in {start, start + size - 1, start + size, start - 1}:
            found = tables.find(page * PAGE + 5) if page >= 0 else None
            if page in model:
                assert found is not None
                assert (found[0], rights(found[1])) == (model[page][0] * PAGE + 5, model[page][1])
            else:
                assert found is None
    assert walk(pages, tables.root) == model


def test_aligned_ranges_take_blocks_and_one_page_splits_one() -> None:
    pages = FakePages()
    tables = Stage2(pages)
    tables.map(0x4000_0000, 0, 64 << 20, Permissions.RWX)
    assert len(pages.live) == 3
    tables.protect(0x4020_1000, PAGE, Permissions.READ)
    assert len(pages.live) == 4
    tables.unmap(0x4020_0000, 2 << 20)
    assert len(pages.live) == 3
    tables.unmap(0, 1 << 44)
    assert walk(pages, tables.root) == {}


@pytest.mark.parametrize(
    ("ipa", "size"),
    [(1, PAGE), (0, 1), (0, 0), (-PAGE, PAGE), (1 << 44, PAGE), (0, (1 << 44) + PAGE)],
)
def test_ranges_that_are_none(ipa: int, size: int) -> None:
    tables = Stage2(FakePages())
    with pytest.raises(InternalError):
        tables.map(ipa, 0, size, Permissions.RWX)
    with pytest.raises(InternalError):
        tables.unmap(ipa, size)
    with pytest.raises(InternalError):
        tables.protect(ipa, size, Permissions.READ)
    assert tables.find(1 << 44) is None
