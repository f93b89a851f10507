"""Makes device tree blobs.

Source: the Devicetree Specification 0.4, chapters 2.2 (names) and 5 (the format).  `hfsched.memory.fdt`
edits the blobs of others, and puts a blob into RAM.

    tree = FdtBuilder()
    with tree.node("chosen"):
        tree.strings("stdout-path", "/pl011@9000000")
    blob = tree.finish()
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from hfsched.errors import InternalError

__all__ = ["FdtBuilder"]

_BEGIN_NODE, _END_NODE, _PROP, _END = (token.to_bytes(4, "big") for token in (1, 2, 3, 9))
_HEADER = struct.Struct(">10I")
_VERSION, _COMPATIBLE = 17, 16
_NODE_NAME = re.compile(r"[A-Za-z][0-9A-Za-z,._+-]{0,30}(@[0-9A-Za-z,._+-]+)?")
_PROPERTY_NAME = re.compile(r"[0-9A-Za-z,._+?#-]{1,31}")


class FdtBuilder:
    """A tree under construction: properties go to the innermost open node, the root at first.

    A node's properties come before its children.  Raises InternalError for a tree against the
    specification: a name that is malformed or there twice, a property after a child, a cell that is no
    unsigned 32-bit number.
    """

    def __init__(self) -> None:
        self._structure = bytearray(_BEGIN_NODE + bytes(4))  # the root's name is empty
        self._names = bytearray()
        self._offsets: dict[str, int] = {}
        # {properties, children} of the nodes that are open.
        self._open: list[tuple[set[str], set[str]]] = [(set(), set())]

    @contextmanager
    def node(self, name: str) -> Iterator[None]:
        """Open a node, inside the block; `name` has the unit address, if any, after an "@"."""
        siblings = self._open[-1][1]
        if not _NODE_NAME.fullmatch(name) or name in siblings:
            raise InternalError(f"device tree: node {name!r} is malformed or there twice")
        siblings.add(name)
        self._structure += _BEGIN_NODE + _padded(name.encode() + b"\0")
        self._open.append((set(), set()))
        yield
        self._open.pop()
        self._structure += _END_NODE

    def value(self, name: str, value: bytes = b"") -> None:
        """Add a property of these bytes; an empty one says by its presence that something is so."""
        properties, children = self._open[-1]
        if not _PROPERTY_NAME.fullmatch(name) or name in properties or children:
            raise InternalError(
                f"device tree: property {name!r} is malformed, there twice, or after a node"
            )
        properties.add(name)
        if name not in self._offsets:
            self._offsets[name] = len(self._names)
            self._names += name.encode() + b"\0"
        self._structure += _PROP + struct.pack(">II", len(value), self._offsets[name])
        self._structure += _padded(value)

    def cells(self, name: str, *values: int) -> None:
        """Add a property of 32-bit numbers."""
        if any(value >> 32 for value in values):
            raise InternalError(f"device tree: {name} {values}: cells are unsigned, of 32 bits")
        self.value(name, struct.pack(f">{len(values)}I", *values))

    def pairs(self, name: str, *values: int) -> None:
        """Add a property of 64-bit numbers, two cells each."""
        self.cells(name, *(half for value in values for half in (value >> 32, value & 0xFFFF_FFFF)))

    def strings(self, name: str, *texts: str) -> None:
        """Add a property of texts, which have no NUL."""
        if any("\0" in text for text in texts):
            raise InternalError(f"device tree: {name} {texts!r}: a NUL ends a string")
        self.value(name, b"".join(text.encode() + b"\0" for text in texts))

    def finish(self) -> bytes:
        """Return the blob; every node but the root has been closed."""
        if len(self._open) != 1:
            raise InternalError("device tree: a node is still open")
        structure = self._structure + _END_NODE + _END
        reserved = bytes(16)  # the end of an empty list of reserved ranges
        at_structure = _HEADER.size + len(reserved)
        at_names = at_structure + len(structure)
        header = _HEADER.pack(
            0xD00D_FEED,
            at_names + len(self._names),
            at_structure,
            at_names,
            _HEADER.size,
            _VERSION,
            _COMPATIBLE,
            0,  # the boot CPU's number
            len(self._names),
            len(structure),
        )
        return header + reserved + bytes(structure + self._names)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
