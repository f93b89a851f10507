"""Build small ELF64 files, right or wrong.

`build` lays out: header, program headers, the loads' contents, then (when asked for) one more
read-only load with the relocation table and the dynamic section.  `patch` makes a file wrong at
one named field.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import pytest

from hfsched.errors import ImageError
from hfsched.memory.image import parse_image
from hfsched.memory.imagetypes import Image

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
PHDR = struct.Struct("<IIQQQQQQ")
RELA = struct.Struct("<QQQ")
DYN = struct.Struct("<QQ")

ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_NOTE = 1, 2, 3, 4
MACHINES = {"x86_64": 62, "aarch64": 183}
RELATIVE = {"x86_64": 8, "aarch64": 1027}
DT_NEEDED, DT_PLTRELSZ, DT_RELA, DT_RELASZ, DT_RELAENT = 1, 2, 7, 8, 9
DT_RELSZ, DT_PLTREL, DT_JMPREL, DT_RELRSZ = 18, 20, 23, 35

# Fields of the header and of a program header: (offset, struct format).
HEADER_FIELDS = {
    "class": (4, "B"),
    "data": (5, "B"),
    "version": (6, "B"),
    "type": (16, "<H"),
    "machine": (18, "<H"),
    "entry": (24, "<Q"),
    "phoff": (32, "<Q"),
    "phentsize": (54, "<H"),
    "phnum": (56, "<H"),
}
PROGRAM_FIELDS = {
    "p_type": (0, "<I"),
    "p_flags": (4, "<I"),
    "p_offset": (8, "<Q"),
    "p_vaddr": (16, "<Q"),
    "p_paddr": (24, "<Q"),
    "p_filesz": (32, "<Q"),
    "p_memsz": (40, "<Q"),
    "p_align": (48, "<Q"),
}


@dataclass(frozen=True)
class Load:
    virtual: int
    data: bytes
    memory_size: int | None = None
    flags: str = "rwx"
    physical: int | None = None
    alignment: int = 0x1000


def build(
    *loads: Load,
    machine: str = "aarch64",
    kind: int = ET_DYN,
    entry: int | None = None,
    relocations: list[tuple[int, int, int]] | None = None,
    dynamic: list[tuple[int, int]] | None = None,
    tables_at: int = 0x10_0000,
    interpreter: bytes | None = None,
) -> bytes:
    """`relocations`: (address, type, addend), in a table at the virtual address `tables_at`.

    `dynamic` adds tags to (or replaces) those that describe that table.
    """
    parts = [*loads]
    tags: dict[int, int] = {}
    tables = b""
    if relocations is not None:
        tables = b"".join(
            RELA.pack(address, number, addend % 2**64) for address, number, addend in relocations
        )
        tags = {DT_RELA: tables_at, DT_RELASZ: len(tables), DT_RELAENT: 24}
    tags |= dict(dynamic or [])
    table_size = len(tables)
    if tags:
        tables += b"".join(DYN.pack(*item) for item in [*tags.items(), (0, 0)])
        parts.append(Load(tables_at, tables, flags="r"))
    count = len(parts) + bool(tags) + (interpreter is not None)
    at = EHDR.size + count * PHDR.size
    headers, contents = [], []
    for part in parts:
        flags = sum({"r": 4, "w": 2, "x": 1}[c] for c in part.flags)
        physical = part.virtual if part.physical is None else part.physical
        size = len(part.data) if part.memory_size is None else part.memory_size
        headers.append(
            PHDR.pack(
                PT_LOAD,
                flags,
                at,
                part.virtual,
                physical,
                len(part.data),
                size,
                part.alignment,
            )
        )
        contents.append(part.data)
        at += len(part.data)
    if tags:
        size = len(tables) - table_size
        headers.append(PHDR.pack(PT_DYNAMIC, 4, at - size, 0, 0, size, size, 8))
    if interpreter is not None:
        headers.append(PHDR.pack(PT_INTERP, 4, at, 0, 0, len(interpreter), len(interpreter), 1))
        contents.append(interpreter)
    if entry is None:
        entry = loads[0].virtual if loads else 0
    ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = EHDR.pack(
        ident,
        kind,
        MACHINES[machine],
        1,
        entry,
        EHDR.size,
        0,
        0,
        EHDR.size,
        PHDR.size,
        count,
        64,
        0,
        0,
    )
    return header + b"".join(headers) + b"".join(contents)


def patch(file: bytes, field: str, value: int, program: int = 0) -> bytes:
    """Return `file` with one field of its header, or of program header `program`, replaced."""
    if field in HEADER_FIELDS:
        offset, code = HEADER_FIELDS[field]
    else:
        offset, code = PROGRAM_FIELDS[field]
        offset += EHDR.size + program * PHDR.size
    out = bytearray(file)
    struct.pack_into(code, out, offset, value)
    return bytes(out)


def linux_header(
    size: int = 64,
    *,
    text_offset: int = 0x1000,
    image_size: int = 0,
    flags: int = 0,
    magic: bytes = b"ARMd",
) -> bytes:
    """A flat image of `size` bytes, at least its header."""
    header = struct.pack(
        "<IIQQQQQQ4sI", 0x1400_0010, 0, text_offset, image_size, flags, 0, 0, 0, magic, 0
    )
    return header + bytes(i % 251 + 1 for i in range(size - len(header)))


def parse(data: bytes) -> Image:
    """Parse, under the name that `refused` expects."""
    return parse_image("guest.elf", data)


def refused(data: bytes) -> str:
    """Return why `data` is no image: one line, without the name before it."""
    with pytest.raises(ImageError) as caught:
        parse(data)
    message = str(caught.value)
    assert message.startswith("guest.elf: ")
    assert "\n" not in message
    return message.removeprefix("guest.elf: ")
