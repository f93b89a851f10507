"""Device trees: the memory node, and a place in RAM."""

from __future__ import annotations

import struct
import sys
import time
from typing import TYPE_CHECKING

import pytest

from hfsched.errors import ConfigError, UserError
from hfsched.memory.fdt import MAX_BLOB, place_fdt, with_memory
from hfsched.memory.ram import Ram

from .fdt_writer import TWO_CELLS, Node, assemble, cells, read, tree, write

if TYPE_CHECKING:
    from collections.abc import Callable


def refused(blob: bytes, base: int = 0x4000_0000, size: int = 0x1000) -> str:
    with pytest.raises(ConfigError) as caught:
        with_memory(blob, base, size)
    message = str(caught.value)
    assert message.startswith("device tree: ")
    assert message.isprintable()
    return message.removeprefix("device tree: ")


# The memory node.


@pytest.mark.parametrize(
    ("properties", "reg"),
    [
        ({}, cells(0, 0x4000_0000, 0x10_0000)),
        ({"#address-cells": cells(1)}, cells(0x4000_0000, 0x10_0000)),
        (TWO_CELLS, cells(0, 0x4000_0000, 0, 0x10_0000)),
        (
            {"#address-cells": cells(1), "#size-cells": cells(2)},
            cells(0x4000_0000, 0, 0x10_0000),
        ),
    ],
)
def test_a_memory_node_in_the_root_s_cells(properties: dict[str, bytes], reg: bytes) -> None:
    root = tree()
    root.properties |= properties
    result, _ = read(with_memory(write(root), 0x4000_0000, 0x10_0000))
    assert result.properties == root.properties
    assert result.children == [Node("memory", {"device_type": b"memory\0", "reg": reg})]


def test_numbers_of_64_bits() -> None:
    root = tree()
    root.properties |= TWO_CELLS
    result, _ = read(with_memory(write(root), 0x12_3456_7000, 0x23_0000_0000))
    assert result.children[0].properties["reg"] == cells(0x12, 0x3456_7000, 0x23, 0)


def test_all_that_described_memory_is_replaced_and_nothing_else() -> None:
    cpus = Node("cpus", {"x": b"1"}, [Node("memory", {"y": b"2"})])
    reserved = Node("reserved-memory", {"ranges": b""})
    memory_like = Node("memory-controller", {"device_type": b"memory-controller\0"})
    root = tree(
        Node("memory", {"reg": cells(1, 2, 3)}),
        cpus,
        Node("memory@80000000", {"device_type": b"memory\0"}, [Node("child")]),
        reserved,
        Node("dram", {"device_type": b"memory\0"}),
        memory_like,
    )
    result, _ = read(with_memory(write(root), 0, 0x1000))
    assert result.children[:-1] == [cpus, reserved, memory_like]
    assert result.children[-1].name == "memory"
    assert result.children[-1].properties["reg"] == cells(0, 0, 0x1000)


def test_adding_twice_is_adding_once() -> None:
    once = with_memory(write(tree(Node("chosen"))), 0x1000, 0x1000)
    assert with_memory(once, 0x1000, 0x1000) == once


def test_reservations_stay_with_their_own_tree() -> None:
    # The package keeps one list for all the trees that it parses.
    one = write(tree(), ((0x1000, 0x2000),))
    other = write(tree(), ((0x5000, 0x6000), (0, 1)))
    assert read(with_memory(one, 0, 4096))[1] == [(0x1000, 0x2000)]
    assert read(with_memory(other, 0, 4096))[1] == [(0x5000, 0x6000), (0, 1)]
    assert read(with_memory(write(tree()), 0, 4096))[1] == []


@pytest.mark.parametrize(
    ("base", "size"), [(-1, 1), (0, 0), (0, -1), (2**64 - 1, 2), (2**64, 1), (0, 2**64 + 1)]
)
def test_memory_outside_64_bits(base: int, size: int) -> None:
    assert "is not in 64 bits" in refused(write(tree()), base, size)


def test_numbers_that_the_cells_cannot_hold() -> None:
    root = tree()
    root.properties["#address-cells"] = cells(1)
    assert refused(write(root), 2**32) == "0x100000000 does not fit into #address-cells = 1"
    assert refused(write(root), 0, 2**32) == "0x100000000 does not fit into #size-cells = 1"
    with_memory(write(root), 2**32 - 1, 2**32 - 1)


@pytest.mark.parametrize("value", [cells(0), cells(3), b"\0\1", b"", cells(0, 1)])
@pytest.mark.parametrize("name", ["#address-cells", "#size-cells"])
def test_cells_that_are_not_supported(name: str, value: bytes) -> None:
    root = tree()
    root.properties[name] = value
    assert refused(write(root)).startswith(f"{name} of the root is ")


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fdt", None)
    with pytest.raises(UserError, match=r"pip install 'hfsched\[fdt\]'"):
        with_memory(write(tree()), 0, 4096)


def test_what_the_package_drops_is_noticed() -> None:
    # It keeps names of this form for itself.
    root = tree(Node("chosen", {"a_with_references": b"1"}))
    assert refused(write(root)).startswith("the package fdt does not preserve all of it")


@pytest.mark.parametrize(
    "changed",
    [
        write(tree(Node("memory"))),
        write(tree(), ((1, 2),)),
        write(tree(Node("memory"), Node("memory@1")), ((1, 2),)),
        write(tree(Node("memory"), Node("more")), ((1, 2),)),
    ],
)
def test_what_the_package_changes_is_noticed(
    monkeypatch: pytest.MonkeyPatch, changed: bytes
) -> None:
    import fdt  # noqa: PLC0415 - an extra

    monkeypatch.setattr(fdt.FDT, "to_dtb", lambda _: changed)
    assert refused(write(tree(), ((1, 2),))).startswith(
        "the package fdt does not preserve all of it"
    )


def test_what_the_package_raises_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import fdt  # noqa: PLC0415 - an extra

    def parse_dtb(_: bytes) -> None:
        raise Exception("two\nlines")  # noqa: TRY002 - as it does

    monkeypatch.setattr(fdt, "parse_dtb", parse_dtb)
    assert refused(write(tree())) == "cannot be edited: two lines"


# Malformed blobs.


def header(index: int, value: int) -> bytes:
    """A valid blob with one word of its header replaced."""
    blob = bytearray(write(tree(Node("chosen"))))
    struct.pack_into(">I", blob, 4 * index, value)
    return bytes(blob)


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "truncated: 0 bytes"),
        (write(tree())[:39], "truncated: 39 bytes"),
        (header(0, 0xEDFE0DD0), "magic number 0xedfe0dd0"),
        (header(1, 0xFFFFFFFF), "total size 0xffffffff:"),
        (write(tree())[:-1], "total size"),
        (write(tree(x=bytes(MAX_BLOB))), "total size"),
        (header(5, 16), "version 16"),
        (header(5, 18), "version 18"),
        (header(6, 18), "version 17 (compatible with 18)"),
        (header(2, 0xFFFFFFFC), "the structure block"),
        (header(2, 58), "the structure block"),
        (header(9, 0xFFFFFFFF), "the structure block"),
        (header(2, 0), "the structure block"),
        (header(3, 0xFFFFFFFF), "the strings block"),
        (header(8, 0xFFFF), "the strings block"),
        (header(4, 0xFFFFFFF8), "the reservation block"),
        (header(4, 44), "the reservation block"),
        (header(4, 56), "no end of the memory reservations"),
        (write(tree(), tuple((i, 1) for i in range(1025))), "more than 1024 memory reservations"),
        (assemble(b""), "no end of the structure block"),
        (assemble(cells(4)), "no end of the structure block"),
        (assemble(cells(9)), "token 0x9 outside"),
        (assemble(cells(2)), "token 0x2 outside"),
        (assemble(cells(3, 0, 0)), "token 0x3 outside"),
        (assemble(cells(1, 0, 9)), "unknown token 0x9"),
        (assemble(cells(1, 0, 7)), "unknown token 0x7"),
        (assemble(cells(1, 0, 2)), "no end of the structure block"),
        (assemble(cells(1, 0, 2, 1, 0, 2, 9)), "token 0x1 outside"),
        (assemble(cells(1, 0, 3, 0)), "unknown token 0x3"),
        (assemble(cells(1, 0, 3, 50, 0, 0, 2, 9), b"a\0"), "property a of 0x32 bytes"),
        (assemble(cells(1, 0, 3, 0, 0, 2, 9), b"a"), "a name not terminated"),
        (assemble(cells(1, 0, 3, 0, 7, 2, 9), b"a\0"), "a name not terminated"),
        (assemble(cells(1, 0, 3, 0, 0, 2, 9), b"a" * 256 + b"\0"), "a name not terminated"),
        (assemble(cells(1, 0, 3, 0, 1, 2, 9), b"a\0"), "bad name ''"),
        (assemble(cells(1, 0, 1, 0, 2, 2, 9)), "bad name ''"),
        (assemble(cells(1, 0x61000000, 2, 9)), "bad name 'a'"),
        (assemble(cells(1, 0, 1, 0x0A000000, 2, 2, 9)), "bad name '\\n'"),
        (assemble(cells(1, 0, 1, 0xFF000000, 2, 2, 9)), "bad name '\\ufffd'"),
        (assemble(cells(1, 0, 1, 0x612F6200, 2, 2, 9)), "bad name 'a/b'"),
        (write(tree(Node("a"), Node("a"))), "a of / is a duplicate"),
        (assemble(cells(1, 0, 3, 0, 0, 3, 0, 0, 2, 9), b"a\0"), "a of / is a duplicate"),
        (
            assemble(cells(1, 0, 1, 0x62000000, 2, 3, 0, 0, 2, 9), b"a\0"),
            "a of / is a duplicate, or a property after a node",
        ),
        (write(tree(*[Node(f"n{i}") for i in range(1025)])), "more than 1024 items"),
    ],
)
def test_a_malformed_blob(blob: bytes, message: str) -> None:
    assert refused(blob).startswith(message)


def test_nodes_nested_too_deep() -> None:
    def nest(depth: int) -> bytes:
        node = tree()
        for _ in range(depth - 1):
            node = Node("n", {}, [node])
            node.children[0].name = "c"
        node.name = ""
        return write(node)

    with_memory(nest(32), 0, 4096)
    assert refused(nest(33)) == "nodes nested more than 32 deep"


def test_too_many_items_or_names_in_all() -> None:
    def wide(count: int, name: Callable[[int, int], str]) -> bytes:
        return write(
            tree(*[Node(f"n{i}", {name(i, j): b"" for j in range(1000)}) for i in range(count)])
        )

    assert "32768 in all" in refused(wide(33, lambda _, j: f"p{j}"))
    assert "bytes of property names" in refused(wide(10, lambda i, j: f"property{i},{j}"))


def test_the_worst_tree_that_is_accepted_takes_seconds_at_most() -> None:
    nodes = [Node(f"n{i}", {f"p{i % 4},{j}": b"1" for j in range(1000)}) for i in range(30)]
    blob = write(tree(*nodes))
    begin = time.process_time()
    with_memory(blob, 0, 4096)
    assert time.process_time() - begin < 20


def test_nops_and_padding_are_skipped() -> None:
    body = cells(4, 1, 0, 4, 4, 3, 4, 0, 4, 4, 1, 0x61000000, 4, 2, 4, 2, 4, 9)
    result, _ = read(with_memory(assemble(body, b"p\0") + b"padding", 0, 4096))
    assert result.properties == {"p": cells(4)}
    assert [node.name for node in result.children] == ["a", "memory"]


# A place in RAM.


@pytest.mark.parametrize(("extra", "pages"), [(0, 1), (4096, 2)])
def test_a_blob_lies_in_the_last_pages(extra: int, pages: int) -> None:
    blob = write(tree(x=bytes(extra)))
    ram = Ram("vm", 0x4000)
    ram.write(0, b"\xaa" * 0x4000)
    at = 0x4000 - pages * 4096
    assert place_fdt(blob + b"padding", ram, 0x8000_0000) == 0x8000_0000 + at
    assert ram.read(0, at) == b"\xaa" * at
    assert ram.read(at, pages * 4096) == blob.ljust(pages * 4096, b"\0")
    ram.close()


def test_a_blob_needs_room_beside_the_image() -> None:
    blob = write(tree())
    ram = Ram("vm", 0x2000)
    assert place_fdt(blob, ram, 0, used=0x1000) == 0x1000
    with pytest.raises(ConfigError, match="reach into the image"):
        place_fdt(blob, ram, 0, used=0x1001)
    with pytest.raises(ConfigError, match="give the VM more memory"):
        place_fdt(write(tree(x=bytes(0x2000))), ram, 0)
    ram.close()


def test_a_malformed_blob_is_not_placed() -> None:
    ram = Ram("vm", 0x1000)
    with pytest.raises(ConfigError, match="magic number"):
        place_fdt(bytes(64), ram, 0)
    assert ram.read(0, 0x1000) == bytes(0x1000)
    ram.close()
