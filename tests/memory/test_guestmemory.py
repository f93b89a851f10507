"""A VM's memory: regions of IPAs, each a part of a RAM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hfsched.errors import InternalError
from hfsched.memory.guestmemory import GuestMemory, Region
from hfsched.memory.ram import Ram

PAGE = 4096


@pytest.fixture
def ram() -> Iterator[Ram]:
    made = Ram("vm", 4 * PAGE)
    yield made
    made.close()


def test_an_ipa_is_a_byte_of_the_ram_behind_its_region(ram: Ram) -> None:
    memory = GuestMemory(
        [Region(0x9000_0000, ram, 2 * PAGE, PAGE), Region(0x8000_0000, ram, 0, PAGE)]
    )
    memory.write(0x9000_0010, b"high")
    memory.write(0x8000_0000, b"low")
    assert ram.read(2 * PAGE + 0x10, 4) == memory.read(0x9000_0010, 4) == b"high"
    assert ram.read(0, 3) == b"low"
    assert memory.size == 2 * PAGE
    assert [region.ipa for region in memory.regions] == [0x8000_0000, 0x9000_0000]


def test_ranges_are_half_open(ram: Ram) -> None:
    memory = GuestMemory.whole(ram, 0x8000_0000)
    found = memory.find(0x8000_0000)
    assert found == Region(0x8000_0000, ram, 0, 4 * PAGE)
    assert memory.find(found.end - 1) == found
    assert memory.find(found.end) is None
    assert memory.find(0x7FFF_FFFF) is None


@pytest.mark.parametrize(("ipa", "size"), [(0x8000_0000 - 1, 1), (0x8000_3FFF, 2), (0, 4)])
def test_an_access_outside_is_our_bug(ram: Ram, ipa: int, size: int) -> None:
    memory = GuestMemory.whole(ram, 0x8000_0000)
    with pytest.raises(InternalError, match="is in no region"):
        memory.read(ipa, size)
    with pytest.raises(InternalError, match="is in no region"):
        memory.write(ipa, bytes(size))


@pytest.mark.parametrize(
    "regions",
    [
        [(0x1000, 0, PAGE), (0x1000, PAGE, PAGE)],
        [(0x1000, 0, 2 * PAGE), (0x2000, 2 * PAGE, PAGE)],
        [(0x1000, 0, 0)],
        [(0x1001, 0, PAGE)],
        [(0x1000, 1, PAGE)],
        [(0x1000, 0, PAGE + 1)],
    ],
)
def test_regions_are_whole_pages_that_do_not_overlap(
    ram: Ram, regions: list[tuple[int, int, int]]
) -> None:
    with pytest.raises(InternalError, match=r"^memory region at"):
        GuestMemory(Region(ipa, ram, offset, size) for ipa, offset, size in regions)


def test_adjacent_regions_are_two(ram: Ram) -> None:
    memory = GuestMemory([Region(0x1000, ram, 0, PAGE), Region(0x2000, ram, PAGE, PAGE)])
    memory.read(0x2000, PAGE)
    with pytest.raises(InternalError):
        memory.read(0x1FFF, 2)
