"""Slots of KVM against a dictionary of pages, and a kernel that refuses what KVM refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import InternalError
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.kvm.slots import Change, Region, Slots

PAGE = 4096
PAGES = 12
READ, WRITE = Permissions.READ, Permissions.WRITE
PERMISSIONS = st.sampled_from([Permissions(bits) for bits in range(8)])
HOSTS = st.integers(0, 2 * PAGES).map(lambda n: 0x7F00_0000_0000 + n * PAGE)

ranges = st.tuples(st.integers(0, PAGES - 1), st.integers(1, PAGES)).map(
    lambda pair: (pair[0] * PAGE, min(pair[1], PAGES - pair[0]) * PAGE)
)
operations = st.one_of(
    st.tuples(st.just("map"), ranges, HOSTS, PERMISSIONS),
    st.tuples(st.just("unmap"), ranges),
    st.tuples(st.just("protect"), ranges, PERMISSIONS),
)

Pages = dict[int, tuple[int, Permissions]]  # IPA of a page: its host address, its permissions


def do(slots: Slots, pages: Pages, operation: tuple) -> None:  # type: ignore[type-arg]
    """Do an operation on both."""
    name, (ipa, size), *rest = operation
    inside = range(ipa, ipa + size, PAGE)
    if name == "map":
        host, permissions = rest
        slots.map(Region(ipa, size, host, permissions))
        pages |= {page: (host + page - ipa, permissions) for page in inside}
    elif name == "unmap":
        slots.unmap(ipa, size)
        for page in inside:
            pages.pop(page, None)
    else:
        slots.protect(ipa, size, rest[0])
        pages |= {page: (pages[page][0], rest[0]) for page in inside if page in pages}


class Kernel:
    """Takes changes one by one, as KVM does."""

    def __init__(self) -> None:
        self.slots: dict[int, tuple[Region, bool]] = {}

    def take(self, change: Change) -> None:
        if change.region is None:
            del self.slots[change.slot]  # KeyError: there is none
            return
        assert change.slot not in self.slots, "the size of a slot cannot change"
        new = change.region
        for old, _ in self.slots.values():
            assert old.end <= new.ipa or new.end <= old.ipa, "EEXIST: slots overlap"
        self.slots[change.slot] = (new, change.read_only)

    def pages(self) -> dict[int, tuple[int, bool]]:
        """What a guest can reach: where it is in the host, and whether it may be written."""
        return {
            page: (region.host + page - region.ipa, not read_only)
            for region, read_only in self.slots.values()
            for page in range(region.ipa, region.end, PAGE)
        }


@given(st.lists(st.tuples(operations, st.booleans()), max_size=30))
def test_the_kernel_has_what_was_asked_for(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    slots, kernel = Slots(), Kernel()
    pages: Pages = {}
    for operation, apply in [*steps, (("unmap", (0, PAGE)), True)]:
        do(slots, pages, operation)
        if not apply:
            continue
        before = dict(kernel.slots)
        for change in slots.changes():
            kernel.take(change)
        assert kernel.pages() == {
            page: (host, WRITE in permissions)
            for page, (host, permissions) in pages.items()
            if READ in permissions
        }
        assert slots.changes() == []
        _check_merged(kernel)
        _check_kept(before, kernel)


def _check_merged(kernel: Kernel) -> None:
    """No two neighbours could be one."""
    for region, read_only in kernel.slots.values():
        for other, other_read_only in kernel.slots.values():
            go_on = region.end == other.ipa and region.host + region.size == other.host
            assert not (go_on and read_only == other_read_only)


def _check_kept(before: dict[int, tuple[Region, bool]], kernel: Kernel) -> None:
    """A slot that is as it was keeps its number: it was not deleted and added again."""

    def places(
        slots: dict[int, tuple[Region, bool]],
    ) -> dict[tuple[int, int, int, bool], int]:
        return {
            (region.ipa, region.size, region.host, read_only): number
            for number, (region, read_only) in slots.items()
        }

    old, new = places(before), places(kernel.slots)
    for place in old.keys() & new.keys():
        assert old[place] == new[place]


@given(st.lists(operations, max_size=20))
def test_find_knows_every_page(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    slots = Slots()
    pages: Pages = {}
    for operation in steps:
        do(slots, pages, operation)
    for ipa in range(0, PAGES * PAGE, PAGE):
        for address in (ipa, ipa + PAGE - 1):
            region = slots.find(address)
            found = region and (region.host + ipa - region.ipa, region.permissions)
            assert found == pages.get(ipa)
    inside = {page for start, end in slots.top() for page in range(start, end, PAGE)}
    assert inside == set(pages)


def test_a_page_in_the_middle_becomes_read_only_and_writable_again() -> None:
    slots, kernel = Slots(), Kernel()
    for permissions, wanted in ((None, 1), (READ, 3), (Permissions.RWX, 1)):
        if permissions is None:
            slots.map(Region(0, 8 * PAGE, 0x10_0000, Permissions.RWX))
        else:
            slots.protect(3 * PAGE, PAGE, permissions)
        for change in slots.changes():
            kernel.take(change)
        assert len(kernel.slots) == wanted
        assert max(kernel.slots) < 4  # numbers are used again


@pytest.mark.parametrize(("ipa", "size"), [(-PAGE, PAGE), (1, PAGE), (0, 1), (0, 0), (0, -PAGE)])
def test_what_is_no_range_of_pages_is_refused(ipa: int, size: int) -> None:
    slots = Slots()
    slots.map(Region(0, PAGE, 0, READ))
    slots.changes()
    with pytest.raises(InternalError, match="not a range of pages"):
        slots.unmap(ipa, size)
    with pytest.raises(InternalError, match="not a range of pages"):
        slots.map(Region(ipa, size, 0, READ))
    with pytest.raises(InternalError, match="not a range of pages"):
        slots.protect(ipa, size, READ)
    assert slots.changes() == []
