"""Device trees made from nothing: read back here, by the package `fdt`, and by `dtc`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import InternalError
from hfsched.memory.fdt import with_memory
from hfsched.memory.fdtbuilder import FdtBuilder

from .fdt_writer import Node, cells, read


def test_nodes_and_properties_are_where_they_were_put() -> None:
    tree = FdtBuilder()
    tree.cells("#address-cells", 2)
    tree.value("flag")
    with tree.node("soc@0"):
        tree.pairs("reg", 0x1_2345_6789, 7)
        with tree.node("inner"):
            tree.strings("compatible", "one", "two")
            tree.value("raw", b"\1\2\3\4\5")
    with tree.node("last"):
        tree.cells("reg", 1, 0xFFFF_FFFF)
    root, reserved = read(tree.finish())
    inner = Node("inner", {"compatible": b"one\0two\0", "raw": b"\1\2\3\4\5"})
    assert root == Node(
        "",
        {"#address-cells": cells(2), "flag": b""},
        [
            Node("soc@0", {"reg": cells(1, 0x2345_6789, 0, 7)}, [inner]),
            Node("last", {"reg": cells(1, 0xFFFF_FFFF)}),
        ],
    )
    assert reserved == []


def test_the_loader_s_editor_takes_what_is_made() -> None:
    tree = FdtBuilder()
    with tree.node("chosen"):
        tree.strings("bootargs", "")
    root, _ = read(with_memory(tree.finish(), 0x4000_0000, 4096))
    assert [node.name for node in root.children] == ["chosen", "memory"]


NAMES = st.from_regex(r"[a-z][a-z0-9,._+-]{0,30}", fullmatch=True)
NODES = st.recursive(
    st.builds(Node, NAMES, st.dictionaries(NAMES, st.binary(max_size=9), max_size=4)),
    lambda inner: st.builds(
        Node,
        NAMES,
        st.dictionaries(NAMES, st.binary(max_size=9), max_size=4),
        st.lists(inner, max_size=3, unique_by=lambda node: node.name),
    ),
    max_leaves=12,
)


@given(NODES)
def test_any_tree_is_read_back(wanted: Node) -> None:
    tree = FdtBuilder()

    def put(node: Node) -> None:
        for name, value in node.properties.items():
            tree.value(name, value)
        for child in node.children:
            with tree.node(child.name):
                put(child)

    put(wanted)
    root, _ = read(tree.finish())
    assert (root.properties, root.children) == (wanted.properties, wanted.children)


@pytest.mark.parametrize("name", ["", "1st", "a/b", "x" * 32, "a@", "a b", "a@1@2", "é"])
def test_a_malformed_name_of_a_node_is_refused(name: str) -> None:
    with pytest.raises(InternalError, match="malformed"), FdtBuilder().node(name):
        pass


@pytest.mark.parametrize("name", ["", "a b", "x" * 32, "a/b"])
def test_a_malformed_name_of_a_property_is_refused(name: str) -> None:
    with pytest.raises(InternalError, match="malformed"):
        FdtBuilder().value(name)


def test_what_is_there_twice_or_too_late_or_too_large_is_refused() -> None:
    tree = FdtBuilder()
    tree.value("a")
    with pytest.raises(InternalError, match="there twice"):
        tree.value("a")
    with tree.node("a"), pytest.raises(InternalError, match="still open"):
        tree.finish()
    with pytest.raises(InternalError, match="there twice"), tree.node("a"):
        pass
    with pytest.raises(InternalError, match="after a node"):
        tree.value("late")
    for number in (-1, 1 << 32):
        with pytest.raises(InternalError, match="unsigned, of 32 bits"):
            FdtBuilder().cells("reg", number)
    with pytest.raises(InternalError, match="a NUL ends a string"):
        FdtBuilder().strings("text", "a\0b")
