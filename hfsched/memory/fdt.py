"""Device trees for guests: the memory node added, the blob put into RAM.

Source: the Devicetree Specification 0.4, chapters 2, 3.4 and 5; Linux, arm64/booting, for the
limit of 2 MiB.  The PyPI package `fdt` (an extra) edits the tree.  It trusts its input and
guesses what properties mean, so a blob is first walked here, with bounds on everything, and the result
is compared with the input.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hfsched.errors import ConfigError, UserError
from hfsched.memory.ram import PAGE_SIZE

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram

__all__ = ["MAX_BLOB", "place_fdt", "with_memory"]

MAX_BLOB = 2 << 20
"""The largest device tree blob, in bytes (arm64/booting)."""

_MAX_DEPTH = 32
_MAX_ITEMS = 1 << 15
# The package searches a node's items, and the block of names, once for each item.
_MAX_SIBLINGS = 1024
_MAX_NAME = 255
_MAX_NAMES = 1 << 16

_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_HEADER = struct.Struct(">10I")


class _Item(NamedTuple):
    """A node (value None) or a property, `path` long as many names as it is deep."""

    path: tuple[str, ...]
    value: bytes | None


@dataclass(frozen=True, slots=True)
class _Tree:
    """A blob's content, cut to its total size, with its items in their order.

    `plain` is the blob without NOP tokens, which the package does not know.
    """

    blob: bytes
    plain: bytes
    reserved: tuple[tuple[int, int], ...]
    items: tuple[_Item, ...]

    def root(self, name: str) -> bytes | None:
        """Return the value of a property of the root."""
        return next(
            (i.value for i in self.items if i.path == (name,) and i.value is not None), None
        )

    def memory_nodes(self) -> set[str]:
        """Return the names of the root's children that describe memory."""
        return {
            i.path[0]
            for i in self.items
            if (len(i.path) == 1 and i.value is None and i.path[0].split("@")[0] == "memory")
            or (len(i.path) == 2 and i.path[1] == "device_type" and i.value == b"memory\0")
        }

    def without(self, nodes: set[str]) -> list[_Item]:
        """Return the items outside those children of the root."""
        return [
            i
            for i in self.items
            if i.path[0] not in nodes or (len(i.path) == 1 and i.value is not None)
        ]


def with_memory(blob: bytes, base: int, size: int) -> bytes:
    """Return the device tree `blob` with `/memory` at IPA `base`, `size` bytes, and no other.

    The root's #address-cells and #size-cells (2 and 1 by default) decide the shape of `reg`.
    Raises ConfigError for a blob that is malformed, above `MAX_BLOB`, of a version other than 17,
    or that cannot hold the numbers; UserError where the package `fdt` is missing.
    """
    tree = _walk(blob)
    if base < 0 or size <= 0 or base + size > 1 << 64:
        raise ConfigError(f"device tree: memory [{base:#x}, +{size:#x}) is not in 64 bits")
    reg = _cells(tree, "#address-cells", 2, base) + _cells(tree, "#size-cells", 1, size)
    package = _package()
    old = tree.memory_nodes()
    try:
        edited = package.parse_dtb(tree.plain)
        # The package's default list of reservations is one list, shared by all trees.
        edited.entries.clear()
        edited.entries = [{"address": a, "size": n} for a, n in tree.reserved]
        edited.root.nodes[:] = [node for node in edited.root.nodes if node.name not in old]
        memory = package.Node("memory")
        memory.set_property("device_type", "memory")
        memory.set_property("reg", reg)
        edited.root.append(memory)
        out = bytes(edited.to_dtb())
    except Exception as error:  # noqa: BLE001 - it raises Exception itself
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"device tree: cannot be edited: {reason}") from None
    result = _walk(out)
    if (
        result.reserved != tree.reserved
        or result.without({"memory"}) != tree.without(old)
        or result.memory_nodes() != {"memory"}
    ):
        raise ConfigError("device tree: the package fdt does not preserve all of it: simplify it")
    return out


def place_fdt(blob: bytes, ram: Ram, base: int, *, used: int = 0) -> int:
    """Put `blob` at the start of the last pages of `ram` that hold it; return the IPA.

    `ram` begins at IPA `base`; its first `used` bytes (an image) must stay.  The rest of the last
    page becomes zeros.  Raises ConfigError for a malformed blob and when it does not fit.
    """
    content = _walk(blob).blob
    size = -(-len(content) // PAGE_SIZE) * PAGE_SIZE
    offset = ram.size - size
    if offset < used:
        raise ConfigError(
            f"device tree: {size:#x} bytes at the end of {ram.size:#x} reach into the image,"
            f" which ends at {used:#x}: give the VM more memory"
        )
    ram.write(offset, content.ljust(size, b"\0"))
    return base + offset


def _package() -> Any:
    try:
        # It has escapes in its strings that a newer Python warns about.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import fdt  # noqa: PLC0415 - an extra
    except ImportError:
        raise UserError("device trees need the package fdt: pip install 'hfsched[fdt]'") from None
    return fdt


def _cells(tree: _Tree, name: str, default: int, value: int) -> list[int]:
    """Return `value` as 32-bit cells, as many as the root's property `name` says."""
    raw = tree.root(name)
    cells = default if raw is None else int.from_bytes(raw, "big")
    if (raw is not None and len(raw) != 4) or cells not in (1, 2):
        raise ConfigError(f"device tree: {name} of the root is {cells:#x}: 1 or 2 are supported")
    if value >> (32 * cells):
        raise ConfigError(f"device tree: {value:#x} does not fit into {name} = {cells}")
    return [value >> shift & 0xFFFF_FFFF for shift in range(32 * (cells - 1), -1, -32)]


def _bad(why: str) -> ConfigError:
    return ConfigError(f"device tree: {why}")


def _walk(blob: bytes) -> _Tree:
    """Decode an untrusted blob.  Raises ConfigError."""
    if len(blob) < _HEADER.size:
        raise _bad(f"truncated: {len(blob)} bytes, the header has {_HEADER.size}")
    magic, total, at_struct, at_names, at_reserved, version, oldest, _, n_names, n_struct = (
        _HEADER.unpack_from(blob)
    )
    if magic != 0xD00D_FEED:
        raise _bad(f"magic number {magic:#010x}, not 0xd00dfeed")
    if total > min(len(blob), MAX_BLOB):
        raise _bad(
            f"total size {total:#x}: the file has {len(blob):#x} bytes, the limit is {MAX_BLOB:#x}"
        )
    if version != 17 or oldest > 17:
        raise _bad(f"version {version} (compatible with {oldest}): only 17 is supported")
    for what, at, size, align in (
        ("structure", at_struct, n_struct, 4),
        ("strings", at_names, n_names, 1),
        ("reservation", at_reserved, 16, 8),
    ):
        if at < _HEADER.size or at + size > total or at % align:
            raise _bad(f"the {what} block [{at:#x}, +{size:#x}) is outside its {total:#x} bytes")
    reserved = []
    for address, size in struct.iter_unpack(">QQ", _whole(blob[at_reserved:total], 16)):
        if not address and not size:
            break
        reserved.append((address, size))
        if len(reserved) > _MAX_SIBLINGS:
            raise _bad(f"more than {_MAX_SIBLINGS} memory reservations")
    else:
        raise _bad("no end of the memory reservations")
    names = blob[at_names : at_names + n_names]
    items, kept = _items(blob[at_struct : at_struct + n_struct], names)
    plain = blob[:at_struct] + kept.ljust(n_struct, b"\0") + blob[at_struct + n_struct : total]
    return _Tree(blob[:total], plain, tuple(reserved), tuple(items))


def _whole(data: bytes, size: int) -> bytes:
    return data[: len(data) // size * size]


def _name(data: bytes, start: int, *, empty: bool = False) -> str:
    """Return the NUL-terminated name at `start`."""
    end = data.find(b"\0", start, start + _MAX_NAME + 1)
    if end < 0:
        raise _bad(f"a name not terminated within {_MAX_NAME} bytes")
    name = data[start:end].decode("ascii", "replace")
    if not name.isprintable() or not name.isascii() or "/" in name or bool(name) is empty:
        raise _bad(f"bad name {name!a}")
    return name


def _items(data: bytes, names: bytes) -> tuple[list[_Item], bytes]:
    """Return the items of a structure block, and the block without NOPs.

    Properties come before nodes in every node, and no sibling has another's name.
    """
    items: list[_Item] = []
    path: list[str] = []
    # For each open node: the names of its properties, and of its children.
    open_nodes: list[tuple[set[str], set[str]]] = []
    known: set[str] = set()
    plain: list[bytes] = []
    at, kept, names_size, closed = 0, 0, 0, False
    while True:
        if at + 4 > len(data):
            raise _bad("no end of the structure block")
        token = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if token == _NOP:
            plain.append(data[kept : at - 4])
            kept = at
            continue
        if token == _END and closed:
            plain.append(data[kept:at])
            return items, b"".join(plain)
        if closed or (token != _BEGIN_NODE and not open_nodes):
            raise _bad(f"token {token:#x} outside its root node")
        if token == _END_NODE:
            open_nodes.pop()
            closed = not open_nodes
            del path[-1:]
            continue
        if token == _BEGIN_NODE:
            name = _name(data, at, empty=not open_nodes)
            at = (at + len(name) + 4) & ~3
            value = None
        elif token == _PROP and at + 8 <= len(data):
            size, name_at = struct.unpack_from(">II", data, at)
            name = _name(names, name_at)
            at += 8
            if at + size > len(data):
                raise _bad(f"property {name} of {size:#x} bytes is outside the structure block")
            value = data[at : at + size]
            at = (at + size + 3) & ~3
        else:
            raise _bad(f"unknown token {token:#x} in the structure block")
        if open_nodes:
            properties, children = open_nodes[-1]
            siblings = children if value is None else properties
            if name in siblings or (value is not None and children):
                raise _bad(
                    f"{name} of /{'/'.join(path)} is a duplicate, or a property after a node"
                )
            siblings.add(name)
            items.append(_Item((*path, name), value))
            if value is not None and name not in known:
                known.add(name)
                names_size += len(name) + 1
            if names_size > _MAX_NAMES:
                raise _bad(f"more than {_MAX_NAMES} bytes of property names")
            if len(siblings) > _MAX_SIBLINGS or len(items) > _MAX_ITEMS:
                raise _bad(f"more than {_MAX_SIBLINGS} items in a node, or {_MAX_ITEMS} in all")
        if value is None:
            if open_nodes:
                path.append(name)
            open_nodes.append((set(), set()))
            if len(open_nodes) > _MAX_DEPTH:
                raise _bad(f"nodes nested more than {_MAX_DEPTH} deep")
