"""For any tree, all but the memory node stays; for any bytes, the only exception is ConfigError."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import ConfigError
from hfsched.memory.fdt import with_memory

from .fdt_writer import TWO_CELLS, Node, assemble, cells, read, tree, write

NAME = st.text("abcdefgxyz,-#@0123456789", min_size=1, max_size=8)
VALUE = st.one_of(
    st.binary(max_size=12),
    st.lists(st.text("ab \t~", max_size=3), max_size=3).map(
        lambda parts: b"".join(part.encode() + b"\0" for part in parts)
    ),
)
NODES = st.recursive(
    st.builds(Node, NAME, st.dictionaries(NAME, VALUE, max_size=4)),
    lambda inner: st.builds(
        Node,
        NAME,
        st.dictionaries(NAME, VALUE, max_size=3),
        st.lists(inner, max_size=3, unique_by=lambda node: node.name),
    ),
    max_leaves=8,
)


@given(
    st.lists(NODES, max_size=4, unique_by=lambda node: node.name),
    st.dictionaries(NAME, VALUE, max_size=4),
    st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1)), max_size=3),
)
def test_everything_else_stays(
    children: list[Node], properties: dict[str, bytes], reserved: list[tuple[int, int]]
) -> None:
    root = Node("", {**properties, **TWO_CELLS}, children)
    result, kept = read(with_memory(write(root, tuple(reserved)), 0x1000, 0x2000))
    assert kept == reserved
    assert result.properties == root.properties
    assert result.children[:-1] == children
    assert result.children[-1].properties["reg"] == cells(0, 0x1000, 0, 0x2000)


def only_config_errors(blob: bytes) -> None:
    try:
        out = with_memory(blob, 0x1000, 0x1000)
    except ConfigError as error:
        message = str(error)
    else:
        assert read(out)[0].children[-1].name == "memory"
        return
    assert message.isprintable()


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes(data: bytes, magic: bool) -> None:
    only_config_errors(b"\xd0\x0d\xfe\xed" * magic + data)


@given(st.lists(st.sampled_from([0, 1, 2, 3, 4, 9, 0x61000000, 2**32 - 1]), max_size=24))
def test_random_tokens(words: list[int]) -> None:
    only_config_errors(assemble(cells(1, 0, *words), b"a\0bc\0"))


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 400),
)
def test_a_valid_blob_with_bytes_changed_and_cut(changes: list[tuple[int, int]], size: int) -> None:
    blob = bytearray(
        write(tree(Node("memory@0", {"reg": cells(0)}), Node("chosen", {"bootargs": b"x\0"})))
    )
    for at, value in changes:
        blob[at % len(blob)] = value
    only_config_errors(bytes(blob))
    only_config_errors(bytes(blob[:size]))
