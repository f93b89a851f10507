"""The layout beside its plain definition, which looks at every region again for each address."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.abi.vmgenid import GENERATION_BASE
from hfsched.errors import ConfigError
from hfsched.hypervisor.pl011 import PL011_BASE, PL011_SIZE
from hfsched.vmm.layout import ADDRESS_MAX, Layout

GIB = 1 << 30
PAGE = 4096


class Plain:
    """The highest free address below 2 GiB, else the lowest from 4 GiB; a refusal names the oldest."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, int, str]] = []
        self.windows = [
            (PL011_BASE, PL011_BASE + PL011_SIZE, "PL011"),
            (GENERATION_BASE, GENERATION_BASE + PAGE, "generation id"),
        ]

    def reserve_window(self, device: str, base: int, size: int) -> None:
        what = f"[{base:#x}, {base + size:#x})"
        for start, end, name in self.taken:
            if base < end and start < base + size:
                raise ConfigError(
                    f"vm {name}: memory [{start:#x}, {end:#x}) overlaps {device} {what}"
                )
        for start, end, name in self.windows:
            if base < end and start < base + size:
                raise ConfigError(f"device {device} {what} overlaps {name} [{start:#x}, {end:#x})")
        self.windows.append((base, base + size, device))

    def reserve(self, name: str, base: int, size: int) -> int:
        what = f"vm {name}: memory [{base:#x}, {base + size:#x})"
        if base + size > ADDRESS_MAX:
            raise ConfigError(f"{what} is not below {ADDRESS_MAX:#x}")
        for start, end, other in self.taken:
            if base < end and start < base + size:
                raise ConfigError(f"{what} overlaps that of {other}")
        for start, end, device in self.windows:
            if base < end and start < base + size:
                raise ConfigError(f"{what} overlaps {device} [{start:#x}, {end:#x})")
        self.taken.append((base, base + size, name))
        return base

    def place(self, name: str, size: int, alignment: int) -> int:
        base = self._below(GIB, 2 * GIB, size, alignment)
        if base is None:
            base = self._above(4 * GIB, ADDRESS_MAX, size, alignment)
        if base is None:
            raise ConfigError(f"vm {name}: no free {size} bytes of address space")
        return self.reserve(name, base, size)

    def _below(self, low: int, high: int, size: int, alignment: int) -> int | None:
        end = high
        while end - size >= low:
            base = (end - size) & -alignment
            clash = [start for start, stop, _ in self.taken if base < stop and start < base + size]
            if not clash:
                return base if base >= low else None
            end = min(clash)
        return None

    def _above(self, low: int, high: int, size: int, alignment: int) -> int | None:
        base = (low + alignment - 1) & -alignment
        while base + size <= high:
            clash = [stop for start, stop, _ in self.taken if base < stop and start < base + size]
            if not clash:
                return base
            base = (max(clash) + alignment - 1) & -alignment
        return None


sizes = st.integers(1, 24).map(lambda pages: pages * PAGE) | st.sampled_from(
    [GIB // 4, GIB // 2, GIB - PAGE, GIB, 3 * GIB, ADDRESS_MAX - 5 * GIB, ADDRESS_MAX]
)
edges = st.sampled_from([PL011_BASE, GENERATION_BASE, GIB, 2 * GIB, 4 * GIB, ADDRESS_MAX])
bases = st.builds(
    lambda edge, pages: max(0, edge + pages * PAGE), edges, st.integers(-48, 48)
) | st.sampled_from([0, GIB // 2, 3 * GIB, 512 * GIB])
wishes = st.lists(
    st.tuples(st.just("place"), sizes, st.integers(12, 42).map(lambda bits: 1 << bits))
    | st.tuples(st.just("place"), sizes, st.sampled_from([PAGE, 4 * PAGE, 2 << 20]))
    | st.tuples(st.sampled_from(["reserve", "window"]), sizes, bases),
    max_size=30,
)


@settings(max_examples=400, deadline=None)
@given(wishes)
def test_placements_and_refusals_are_those_of_the_plain_definition(
    wanted: list[tuple[str, int, int]],
) -> None:
    layout, plain = Layout(), Plain()
    for number, (kind, size, where) in enumerate(wanted):
        assert _outcome(layout, kind, number, size, where) == _outcome(
            plain, kind, number, size, where
        )


def _outcome(layout: Layout | Plain, kind: str, number: int, size: int, where: int) -> object:
    calls: dict[str, Callable[[], object]] = {
        "place": lambda: layout.place(f"vm{number}", size, where),
        "reserve": lambda: layout.reserve(f"vm{number}", where, size),
        "window": lambda: layout.reserve_window(f"device{number}", where, size),
    }
    try:
        return calls[kind]()
    except ConfigError as exc:
        return str(exc)
