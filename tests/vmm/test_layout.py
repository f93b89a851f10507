"""Where VMs lie: no two overlap, alignment is kept, what was reserved stays free for its owner."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import ConfigError
from hfsched.vmm.layout import Layout

MIB, GIB = 1 << 20, 1 << 30


def test_vms_lie_top_down_below_two_gib() -> None:
    layout = Layout()
    assert layout.place("a", 16 * MIB, 4096) == 2 * GIB - 16 * MIB
    assert layout.place("b", 4096, 4096) == 2 * GIB - 16 * MIB - 4096
    assert layout.place("c", 4096, 2 * MIB) == 2 * GIB - 18 * MIB
    assert layout.place("d", 4096, 4096) == 2 * GIB - 16 * MIB - 8192, "the gap is used"


def test_a_full_low_gib_is_followed_by_addresses_from_four_gib() -> None:
    layout = Layout()
    assert layout.place("a", GIB, 4096) == GIB
    assert layout.place("b", 4096, 4096) == 4 * GIB
    assert layout.place("c", MIB, 2 * MIB) == 4 * GIB + 2 * MIB
    assert layout.place("d", 4096, 4096) == 4 * GIB + 4096
    assert layout.place("e", 64 * GIB, 4096) == 4 * GIB + 3 * MIB


def test_what_does_not_fit_low_goes_high() -> None:
    layout = Layout()
    assert layout.place("a", GIB + 4096, 4096) == 4 * GIB
    assert layout.place("b", GIB, 4096) == GIB


def test_a_reservation_is_walked_around() -> None:
    layout = Layout()
    top = 2 * GIB
    assert layout.reserve("fixed", top - 2 * MIB, MIB) == top - 2 * MIB
    assert layout.place("small", MIB, 4096) == top - MIB
    assert layout.place("next", MIB, 4096) == top - 3 * MIB
    layout.reserve("high", 4 * GIB, 4096)
    layout.reserve("rest", GIB, GIB - 3 * MIB)
    assert layout.place("b", MIB, MIB) == 4 * GIB + MIB


def test_the_first_byte_of_each_window_is_used() -> None:
    layout = Layout()
    layout.reserve("all but a page", GIB + 4096, GIB - 4096)
    assert layout.place("a", 4096, 4096) == GIB
    layout = Layout()
    layout.reserve("low", GIB, GIB)
    layout.reserve("high", 4 * GIB, (1 << 40) - 4 * GIB - 4096)
    assert layout.place("a", 4096, 4096) == (1 << 40) - 4096


def test_neighbours_may_touch() -> None:
    layout = Layout()
    layout.reserve("a", 0x5000, 0x1000)
    layout.reserve("b", 0x6000, 0x1000)
    layout.reserve("c", 0x4000, 0x1000)


@pytest.mark.parametrize(
    ("base", "size"), [(0x5000, 0x1000), (0x4000, 0x2000), (0x6000, 1), (0x4000, 0x9000)]
)
def test_an_overlap_names_both(base: int, size: int) -> None:
    layout = Layout()
    layout.reserve("first", 0x5000, 0x2000)
    with pytest.raises(ConfigError) as caught:
        layout.reserve("second", base, size)
    assert str(caught.value) == (
        f"vm second: memory [{base:#x}, {base + size:#x}) overlaps that of first"
    )
    layout.reserve("third", 0x7000, 0x1000)


@pytest.mark.parametrize(
    ("base", "size"),
    [(0x0900_0000, 4096), (0x0800_0000, 32 * MIB), (0x0900_0000, 16 * MIB), (0, 1 << 30)],
)
def test_memory_at_the_pl011_is_refused(base: int, size: int) -> None:
    with pytest.raises(ConfigError) as caught:
        Layout().reserve("a", base, size)
    assert str(caught.value) == (
        f"vm a: memory [{base:#x}, {base + size:#x}) overlaps PL011 [0x9000000, 0x9001000)"
    )
    Layout().reserve("below", 0x0800_0000, 16 * MIB)
    Layout().reserve("above", 0x0900_1000, 4096)


def test_a_window_is_kept_free_and_refused_where_something_is() -> None:
    layout = Layout()
    layout.reserve("a", 0x0B00_0000, MIB)
    layout.reserve_window("disk", 0x0A00_0000, 4096)
    with pytest.raises(
        ConfigError, match=r"^vm b: memory .* overlaps disk \[0xa000000, 0xa001000\)$"
    ):
        layout.reserve("b", 0x0A00_0000, 4096)
    with pytest.raises(
        ConfigError, match=r"^vm a: memory .* overlaps net \[0xb000000, 0xb001000\)$"
    ):
        layout.reserve_window("net", 0x0B00_0000, 4096)
    with pytest.raises(ConfigError, match=r"^device net .* overlaps disk \[0xa000000, "):
        layout.reserve_window("net", 0x0A00_0000, 8192)


def test_no_free_addresses() -> None:
    layout = Layout()
    with pytest.raises(
        ConfigError, match=r"^vm big: no free 1099511627776 bytes of address space$"
    ):
        layout.place("big", 1 << 40, 4096)
    layout.reserve("low", GIB, GIB)
    layout.reserve("high", 4 * GIB, (1 << 40) - 4 * GIB)
    with pytest.raises(ConfigError, match=r"^vm a: no free 4096 bytes of address space$"):
        layout.place("a", 4096, 4096)


def test_an_alignment_above_four_gib() -> None:
    assert Layout().place("a", 2 * GIB, 8 * GIB) % (8 * GIB) == 0


page = st.integers(1, 40).map(lambda pages: pages << 12)
wish = st.one_of(
    st.tuples(
        st.just("place"), page | st.sampled_from([GIB // 2, GIB, 3 * GIB]), st.integers(12, 32)
    ),
    st.tuples(
        st.just("reserve"),
        page,
        st.integers(0, 60).map(lambda index: 2 * GIB - (index << 12))
        | st.integers(0, 60).map(lambda index: 4 * GIB + (index << 12)),
    ),
)


@settings(max_examples=200)
@given(st.lists(wish, max_size=25))
def test_whatever_is_asked_for(wishes: list[tuple[str, int, int]]) -> None:
    layout = Layout()
    taken: list[tuple[int, int]] = []
    for number, (kind, size, where) in enumerate(wishes):
        name = f"vm{number}"
        try:
            if kind == "place":
                base = layout.place(name, size, 1 << where)
                assert base % (1 << where) == 0
                end = base + size
                assert GIB <= base < end <= 2 * GIB or 4 * GIB <= base < end <= 1 << 40
            else:
                base = layout.reserve(name, where, size)
                assert base == where
        except ConfigError as exc:
            refused = str(exc)
            assert refused.startswith(f"vm {name}: ")
            assert kind == "reserve"
            assert any(where < end and start < where + size for start, end in taken)
            continue
        assert not any(base < end and start < base + size for start, end in taken)
        taken.append((base, base + size))


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 15), st.integers(1, 4)), max_size=6), st.integers(1, 6))
def test_a_place_is_found_low_whenever_there_is_one(
    reserved: list[tuple[int, int]], pages: int
) -> None:
    """Only the last 16 pages of the low window are left, some of them reserved."""
    layout = Layout()
    start = 2 * GIB - (16 << 12)
    layout.reserve("below", GIB, start - GIB)
    free = [True] * 16
    for index, count in reserved:
        if index + count <= 16 and all(free[index : index + count]):
            layout.reserve("r", start + (index << 12), count << 12)
            free[index : index + count] = [False] * count
    fits = [index for index in range(17 - pages) if all(free[index : index + pages])]
    base = layout.place("a", pages << 12, 4096)
    assert base == (start + (fits[-1] << 12) if fits else 4 * GIB)
