"""Build device tree blobs, right or wrong, and read them back independently of the code tested."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field


@dataclass
class Node:
    name: str
    properties: dict[str, bytes] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)


def cells(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


def structure(node: Node, names: bytearray) -> bytes:
    def padded(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % 4)

    out = cells(1) + padded(node.name.encode() + b"\0")
    for name, value in node.properties.items():
        at = names.find(name.encode() + b"\0")
        if at < 0:
            at = len(names)
            names += name.encode() + b"\0"
        out += cells(3, len(value), at) + padded(value)
    for child in node.children:
        out += structure(child, names)
    return out + cells(2)


def assemble(
    body: bytes,
    names: bytes = b"",
    reserved: tuple[tuple[int, int], ...] = (),
    *,
    magic: int = 0xD00DFEED,
    version: int = 17,
    oldest: int = 16,
    cpu: int = 0,
) -> bytes:
    table = b"".join(struct.pack(">QQ", *r) for r in (*reserved, (0, 0)))
    at = 40 + len(table)
    total = at + len(body) + len(names)
    header = cells(
        magic, total, at, at + len(body), 40, version, oldest, cpu, len(names), len(body)
    )
    return header + table + body + names


def write(root: Node, reserved: tuple[tuple[int, int], ...] = ()) -> bytes:
    names = bytearray()
    body = structure(root, names) + cells(9)
    return assemble(body, bytes(names), reserved)


def read(blob: bytes) -> tuple[Node, list[tuple[int, int]]]:
    """Decode a well-formed blob."""
    _, _, at, strings, reserve, *_ = struct.unpack_from(">10I", blob)
    reserved: list[tuple[int, int]] = []
    while (pair := struct.unpack_from(">QQ", blob, reserve)) != (0, 0):
        reserved.append((pair[0], pair[1]))
        reserve += 16
    stack = [Node("")]
    while True:
        (token,) = struct.unpack_from(">I", blob, at)
        at += 4
        if token == 1:
            end = blob.index(b"\0", at)
            node = Node(blob[at:end].decode())
            stack[-1].children.append(node)
            stack.append(node)
            at = (end + 4) & ~3
        elif token == 2:
            stack.pop()
        elif token == 3:
            size, name = struct.unpack_from(">II", blob, at)
            name += strings
            key = blob[name : blob.index(b"\0", name)].decode()
            stack[-1].properties[key] = blob[at + 8 : at + 8 + size]
            at = (at + 8 + size + 3) & ~3
        elif token == 9:
            return stack[0].children[0], reserved


TWO_CELLS = {"#address-cells": cells(2), "#size-cells": cells(2)}


def tree(*children: Node, **properties: bytes) -> Node:
    root = Node("", {"compatible": b"some,board\0other\0"})
    root.properties |= {name.replace("_", "-"): value for name, value in properties.items()}
    root.children = [*children]
    return root
