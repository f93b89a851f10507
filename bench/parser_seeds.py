"""Valid inputs for `bench/parsers.py`: of messages, from their types."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, get_args

import msgspec
from memory.elf_writer import ET_EXEC, Load, build, linux_header
from memory.fdt_writer import Node, cells, write
from msgspec import inspect
from snapshot.layers import page, subject
from snapshot.layers import write as write_layer

from hfsched.abi.dialects import DEFAULT
from hfsched.explore import token
from hfsched.explore.schedule import Schedule
from hfsched.snapshot.codec import LZ4, RAW, ZSTD
from hfsched.snapshot.index import HASH_SIZE, HEAD_SIZE, Component, Parent
from hfsched.vmm.guests import bundled_images

__all__ = [
    "BASE",
    "calls",
    "command_lines",
    "frames",
    "images",
    "indices",
    "json_of",
    "manifests",
    "packed",
    "samples",
    "tokens",
    "trees",
]

BASE = 0x4000_0000

# Seeds from the types of messages.


def _sample(kind: inspect.Type) -> Any:
    if isinstance(kind, inspect.StructType):
        found = {field.encode_name: _sample(field.type) for field in kind.fields}
        return {kind.tag_field: kind.tag, **found} if kind.tag_field else found
    if isinstance(kind, inspect.UnionType):
        return _sample(kind.types[0])
    if isinstance(kind, inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, inspect.EnumType):
        return next(iter(kind.cls)).value
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return [_sample(kind.item_type)]
    if isinstance(kind, inspect.TupleType):
        return [_sample(each) for each in kind.item_types]
    if isinstance(kind, inspect.DictType):
        return {_sample(kind.key_type): _sample(kind.value_type)}
    if isinstance(kind, inspect.IntType):
        return max(kind.ge or 0, 1)
    simple = {inspect.StrType: "a", inspect.BoolType: True, inspect.FloatType: 1.5}
    return simple.get(type(kind))


def samples(union: Any) -> list[Any]:
    """Return a value of each type in a union."""
    return [_sample(inspect.type_info(each)) for each in get_args(union) or (union,)]


def packed(union: Any) -> tuple[bytes, ...]:
    """Return a message of each type, as swap sends it."""
    number = (7).to_bytes(8, "little")
    return tuple(number + msgspec.msgpack.encode(each) for each in samples(union))


def json_of(values: Iterable[Any]) -> tuple[bytes, ...]:
    """Return values as JSON."""
    return tuple(json.dumps(each).encode() for each in values)


def images() -> tuple[bytes, ...]:
    """Return images that boot."""
    text = Load(0x1000, b"\x01" * 64, flags="rx")
    data = Load(0x2010, b"\x02" * 64, memory_size=0x100, flags="rw")
    return (
        build(text, data, relocations=[(0x2010, 1027, 0x1000)], tables_at=0x4000),
        build(text, data, relocations=[(0x2010, 8, 0x1000)], tables_at=0x4000, machine="x86_64"),
        build(
            Load(0x1000, b"\x01" * 64, physical=BASE + 0x1000), kind=ET_EXEC, interpreter=b"/ld\0"
        ),
        linux_header(200, image_size=0x2000),
        linux_header(200, image_size=0x2000, magic=b"HFXd"),
        *(
            path.read_bytes()[:2000]
            for path in bundled_images().values()
            if path.name[:4] == "echo"
        ),
    )


def trees() -> tuple[bytes, ...]:
    """Return device trees."""
    memory = Node("memory@0", {"device_type": b"memory\0", "reg": cells(0, 0, 0, 4096)})
    root = {"#address-cells": cells(2), "#size-cells": cells(2)}
    return (
        write(Node("", root, [memory, Node("chosen", {"bootargs": b"x\0"})]), ((4096, 4096),)),
        write(Node("", {}, [Node("a", {}, [Node("b", {"c": b"d"})])])),
    )


def manifests() -> tuple[bytes, ...]:
    """Return manifests."""
    return (
        b'name = "m"\nengine = "unicorn"\n[[vm]]\nimage = "echo.bin"\nmemory = "16MiB"\nvcpus = 2\n',
        (
            b'swap = "/tmp"\nswap_idle = "30s"\n[[vm]]\nname = "a"\nimage = "x"\nbase = 0x40000000\n'
            b'uuid = "01234567-89ab-cdef-0123-456789abcdef"\nfdt = "auto"\nbootargs = "x"\n'
            b'[vm.ports]\ntext = 3\n[[vm]]\nname = "b"\nimage = "y"\nframing = "raw"\nformat = "raw"\n'
        ),
    )


def tokens() -> tuple[bytes, ...]:
    """Return tokens of schedules."""
    return tuple(
        token.encode(
            token.Token(spec, Schedule(deviations), "0" * 2 * token.HASH, "1" * 2 * token.END)
        ).encode()
        for spec, deviations in (("mailbox", ()), ("swap+none", ((1, 2), (5, 1), (900, 3))))
    )


def command_lines() -> tuple[bytes, ...]:
    """Return arguments of `run`, one a line."""
    return (
        b"echo.bin\na=relay.bin\n--memory\n16MiB",
        b"--guest\nx.py:f\n--engine\nscript\n--json\n--name\ndemo",
        b"--swap-dir\n/tmp\n--swap-idle\n30s\n--vcpus\n2\necho.bin\n--linger\n1",
    )


def indices() -> tuple[bytes, ...]:
    """Return the indices of snapshots' layers: a full one and one on top of it."""
    state = {"clock": Component(1, b"x")}
    pages = {(0, number): page(number % 4) for number in range(40)}
    full, _ = write_layer(subject(40), pages, state=state, hot=[(0, 2, 3)])
    parent = Parent("full", full[HEAD_SIZE - HASH_SIZE : HEAD_SIZE])
    return full, write_layer(subject(40, parent=parent), {(0, 7): page(1)}, state=state)[0]


def frames() -> tuple[bytes, ...]:
    """Return frames of a page, each after the number of its codec and that of its pages less one."""
    return tuple(
        bytes([codec, 0]) + write_layer(subject(1), {(0, 0): page(seed)}, codec=name)[1]
        for codec, name, seed in ((RAW, "raw", 2), (LZ4, "lz4", 1), (ZSTD, "zstd", 1))
    )


def calls() -> tuple[bytes, ...]:
    """Return registers of each call."""
    return tuple(struct.pack("<2Q", number, 0x10001) for number in DEFAULT.calls)
