"""Chains: the newest layer's page is read, and layers that do not belong together are refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import InternalError, SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import _KEPT, ZERO_PAGE, Chain
from hfsched.snapshot.compare import compared_text, diff, merge
from hfsched.snapshot.directory import open_chain
from hfsched.snapshot.index import Component, MachineIdentity, Parent
from hfsched.snapshot.layer import Layer

from .layers import MACHINE, Memory, contents, page, read, subject, vms, write

PLACE = st.tuples(st.integers(0, 1), st.integers(0, 39))
CHANGES = st.lists(st.dictionaries(PLACE, st.integers(0, 9), max_size=40), max_size=4)
SIZES = (40, 40)


def chain_of(
    base: list[int], changes: list[dict[tuple[int, int], int]]
) -> tuple[list[tuple[bytes, bytes]], Memory]:
    """Return the files of a chain of two VMs with 40 pages, and what it must hold."""
    places = [(vm, number) for vm in range(2) for number in range(40)]
    memory = {place: page(base[at % len(base)]) for at, place in enumerate(places)}
    files = [write(subject(*SIZES), memory, state={"a": Component(0, b"")})]
    for at, change in enumerate(changes):
        pages = {place: page(seed) for place, seed in change.items()}
        memory |= pages
        parent = Parent(f"layer{at}", read_hash(files[-1]))
        made = subject(*SIZES, parent=parent, created=at + 2)
        files.append(write(made, pages, state={"a": Component(at + 1, b"")}))
    return files, memory


def read_hash(files: tuple[bytes, bytes]) -> bytes:
    layer = read(*files)
    layer.close()
    return layer.hash


def opened(files: list[tuple[bytes, bytes]]) -> Chain:
    return Chain([read(*each, name=f"layer{at}") for at, each in enumerate(files)])


@given(base=st.lists(st.integers(0, 5), min_size=1, max_size=80), changes=CHANGES)
def test_a_chain_holds_what_was_written_last(
    base: list[int], changes: list[dict[tuple[int, int], int]]
) -> None:
    files, memory = chain_of(base, changes)
    chain = opened(files)
    assert contents(chain) == memory
    assert chain.state["a"].version == len(changes)
    for vm in range(2):
        table = chain.table(vm)
        assert len(table) == 40
        assert [*table] == [chain.places(vm).find(number) for number in range(40)]
        assert {at for at, place in enumerate(table) if place == ZERO_PAGE} == {
            at for at in range(40) if not any(memory[vm, at])
        }
        runs = [*chain.places(vm)]
        assert sum(count for _, count, _ in runs) == 40, "no holes"
        assert all(a[0] + a[1] == b[0] for a, b in pairwise(runs))
    chain.close()


@given(base=st.lists(st.integers(0, 5), min_size=1, max_size=80), changes=CHANGES, data=st.data())
def test_diff_tells_exactly_the_pages_that_differ(
    base: list[int], changes: list[dict[tuple[int, int], int]], data: st.DataObject
) -> None:
    files, memory = chain_of(base, changes)
    at = data.draw(st.integers(0, len(changes)))
    older, newer = opened(files[: at + 1]), opened(files)
    before = contents(older)
    found = diff(older, newer)
    told = {
        ("ab".index(name), number)
        for name, vm in found["vms"].items()
        for first, count in vm["pages"]
        for number in range(first, first + count)
    }
    assert told == {place for place, each in memory.items() if before[place] != each}
    assert (found["state"] == {}) == (at == len(changes))
    assert found["machine"] == {}
    older.close()
    newer.close()


@pytest.mark.parametrize("codec", ["lz4", "zstd", "raw"])
def test_a_merge_is_equal_to_its_chain(tmp_path: Path, codec: str) -> None:
    files, memory = chain_of([1, 2, 0, 3], [{(0, 3): 9, (1, 39): 0}, {}, {(0, 4): 6, (0, 3): 0}])
    chain = opened(files)
    told: list[tuple[int, int]] = []
    merge(chain, tmp_path / "one", codec=codec, progress=lambda *each: told.append(each))
    merged = open_chain(tmp_path / "one")
    assert len(merged.layers) == 1
    assert contents(merged) == memory
    assert diff(chain, merged) == {"machine": {}, "vms": {}, "state": {}}
    assert told[-1] == (80 * PAGE_SIZE, 80 * PAGE_SIZE)
    merged.close()
    chain.close()


@given(base=st.lists(st.integers(0, 5), min_size=1, max_size=80), changes=CHANGES)
def test_merges_of_random_chains(
    tmp_path_factory: pytest.TempPathFactory,
    base: list[int],
    changes: list[dict[tuple[int, int], int]],
) -> None:
    files, memory = chain_of(base, changes)
    chain = opened(files)
    there = tmp_path_factory.mktemp("merge") / "one"
    merge(chain, there)
    merged = open_chain(there)
    assert contents(merged) == memory
    merged.close()
    chain.close()


def test_a_page_that_no_vm_has() -> None:
    chain = opened(chain_of([1], [])[0])
    for number in (-1, 40):
        with pytest.raises(InternalError):
            chain.read_page(0, number)
    assert chain.number("b") == 1
    with pytest.raises(SnapshotError, match=r"^layer0: no VM c$"):
        chain.number("c")
    chain.close()


# What does not belong together.


def layer(name: str, *, below: Layer | None = None, **changes: Any) -> Layer:
    """Return a layer of a VM a with 2 pages and b with 1, with other fields."""
    parent = None if below is None else Parent(below.name, below.hash)
    made = replace(subject(2, 1, parent=parent), **changes)
    pages = {
        (vm, number): page(1)
        for vm, each in enumerate(made.vms)
        for number in range(each.size // PAGE_SIZE if below is None else 1)
    }
    return read(*write(made, pages), name=name)


def refused(*layers: Layer) -> str:
    with pytest.raises(SnapshotError) as found:
        Chain(layers)
    return str(found.value)


def test_a_hole_in_the_chain() -> None:
    base = layer("base")
    middle = layer("middle", below=base)
    assert refused(middle) == "middle: a hole in the chain: its parent base is missing"
    base = layer("base")
    assert refused(base, layer("base2")) == "base2: a full layer: base is not its parent"


def test_a_foreign_parent() -> None:
    base = layer("base")
    other = layer("base", created=99)
    top = layer("top", below=base)
    assert refused(other, top) == (
        f"top: a foreign parent: base has hash {other.hash.hex()[:16]}, not {base.hash.hex()[:16]}"
    )
    base.close()


def test_a_foreign_machine() -> None:
    def changed(**changes: Any) -> str:
        base = layer("base")
        return refused(base, layer("top", below=base, **changes))

    a, b = vms(2, 1)
    assert changed(machine=MachineIdentity("x86_64", 62_500_000)) == (
        "top: of another machine than base: architecture x86_64, not aarch64"
    )
    assert changed(machine=MachineIdentity("aarch64", 1)) == (
        "top: of another machine than base: counter hz 1, not 62500000"
    )
    assert changed(vms=(a,)) == "top: VM b is missing"
    assert changed(vms=(a, b, replace(b, name="c"))) == "base: VM c is missing"
    assert changed(vms=(b, a)) == "top: VM b: name b, in base a"
    assert changed(vms=(a, replace(b, size=2 * PAGE_SIZE))) == "top: VM b: size 8192, in base 4096"
    assert changed(vms=(a, replace(b, base=0))) == "top: VM b: base 0x0, in base 0x40000000"
    assert changed(vms=(a, replace(b, dialect="x"))) == "top: VM b: dialect x, in base ffa-1.0"


def test_the_machine_that_it_is_for() -> None:
    chain = Chain([layer("base")])
    a, b = vms(2, 1)
    chain.check_machine(MACHINE, (b, a))
    for machine, here, text in (
        (
            msgspec.structs.replace(MACHINE, counter_hz=5),
            (a, b),
            "of another machine: counter hz 62500000, here 5",
        ),
        (MACHINE, (a,), "VM b is missing here"),
        (MACHINE, (a, b, replace(b, name="c")), "has no VM c"),
        (MACHINE, (a, replace(b, base=1)), "VM b: base 0x40000000, here 0x1"),
        (MACHINE, (replace(a, size=PAGE_SIZE), b), "VM a: size 8192, here 4096"),
    ):
        with pytest.raises(SnapshotError, match=f"^base: {text}$"):
            chain.check_machine(machine, here)
    chain.close()


def test_diff_of_machines_that_are_not_the_same() -> None:
    a, b = vms(2, 1)
    c = replace(b, name="c")
    other_machine = MachineIdentity("x86_64", 62_500_000)
    longer = replace(a, size=5 * PAGE_SIZE, base=0)
    one, other = (
        Chain([layer("one")]),
        Chain([layer("two", machine=other_machine, vms=(longer, c))]),
    )
    found = diff(one, other)
    assert found == {
        "machine": {"architecture": ["aarch64", "x86_64"]},
        "vms": {
            "a": {
                "base": [0x4000_0000, 0],
                "size": [2 * PAGE_SIZE, 5 * PAGE_SIZE],
                "pages": [(2, 3)],
            },
            "b": {"only": "first"},
            "c": {"only": "second"},
        },
        "state": {},
    }
    assert compared_text(found) == [
        "machine  architecture: aarch64, and x86_64",
        "VM       a: base 1073741824, and 0",
        "VM       a: size 8192, and 20480",
        "VM       a: 3 pages of 1 range",
        "  0x2000+0x3000",
        "VM       b: only in the first",
        "VM       c: only in the second",
    ]
    one.close()
    other.close()


def test_diff_of_state() -> None:
    states = [
        {"a": Component(1, b"x"), "b": Component(1, b""), "c": Component(1, b"x"), "d": Component(1, b"")},
        {"a": Component(1, b"y"), "b": Component(2, b""), "c": Component(1, b"xy"), "e": Component(1, b"")},
    ]  # fmt: skip
    one, other = (Chain([read(*write(subject(1), {(0, 0): page(1)}, state=s))]) for s in states)
    assert diff(one, other)["state"] == {
        "a": "other contents of 1 bytes",
        "b": "version 1, and 2",
        "c": "1 bytes, and 2",
        "d": "only in the first",
        "e": "only in the second",
    }
    one.close()
    other.close()


def test_a_reader_keeps_few_frames() -> None:
    memory = {(0, number): page(2 * number + 2) for number in range(32 * 40)}
    chain = Chain([read(*write(subject(32 * 40), memory, codec="raw"))])
    assert contents(chain) == memory
    assert len(chain._frames) == _KEPT
    assert chain.read_page(0, 0) == page(2)
    chain.close()
