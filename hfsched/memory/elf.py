"""Static ELF64 images: fixed (ET_EXEC, at p_paddr) or position independent (ET_DYN, at p_vaddr).

Source: the System V gABI, chapters 4 and 5, and the AArch64 and x86-64 supplements.  pyelftools
decodes the headers; it is not asked for sections or dynamic segments, where a malformed file can
keep it busy without end.  Tables are checked against the file before anything is read from them.
"""

from __future__ import annotations

import io
import struct
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Any, NoReturn

from hfsched.memory.elfkind import not_a_guest
from hfsched.memory.imagetypes import MAX_MEMORY, Image, Segment, refuse
from hfsched.memory.ram import PAGE_SIZE
from hfsched.text import printable

__all__ = ["parse"]

_MACHINES = {"EM_AARCH64": "aarch64", "EM_X86_64": "x86_64"}
_WRONG_TYPE = {"ET_REL": "an object file: link it first", "ET_CORE": "a core dump"}
# The dynamic relocations of the two supplements (pyelftools misnames those of AArch64 for TLS).
_COMMON = ("COPY", "GLOB_DAT", "JUMP_SLOT", "RELATIVE")
_NAMES = (*_COMMON, "TLS_DTPMOD", "TLS_DTPREL", "TLS_TPREL", "TLSDESC", "IRELATIVE")
_X86_NUMBERS = (5, 6, 7, 8, 16, 17, 18, 36, 37)
_RELOCATIONS: dict[str, dict[int, str]] = {
    "aarch64": {0: "NONE", 257: "ABS64", **dict(enumerate(_NAMES, 1024))},
    "x86_64": {0: "NONE", 1: "64", **dict(zip(_X86_NUMBERS, _NAMES, strict=True))},
}
# What a _Program takes from a program header, in its order.
_PHDR = ("p_flags", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz", "p_align")
_EHDR_SIZE, _PHDR_SIZE, _RELA_SIZE = 64, 56, 24
_MAX_HEADERS = 1024
_MAX_DYNAMIC = 4096
_MAX_RELOCATIONS = 1 << 20
_TOP = 1 << 64

_DT_NULL, _DT_NEEDED, _DT_PLTRELSZ, _DT_RELA, _DT_RELASZ, _DT_RELAENT = 0, 1, 2, 7, 8, 9
_DT_RELSZ, _DT_PLTREL, _DT_JMPREL, _DT_RELRSZ = 18, 20, 23, 35


@dataclass(frozen=True, slots=True)
class _Program:
    """One program header; `index` is its place in the table."""

    index: int
    type: str
    flags: int
    offset: int
    virtual: int
    physical: int
    file_size: int
    memory_size: int
    alignment: int


def parse(name: str, data: bytes) -> Image:
    """Return the image that the ELF file `data` describes.

    Raises ImageError for what is malformed, or of another class, byte order, type or machine.
    """
    _check_ident(name, data)
    kind, machine, entry, programs = _read_headers(name, data)
    loads = [p for p in programs if p.type == "PT_LOAD" and p.memory_size]
    for program in programs:
        _check_program(name, program, len(data))
    if not loads:
        raise refuse(name, "no PT_LOAD segment with memory: there is nothing to load")
    fixed = kind == "ET_EXEC"
    lowest = min(p.physical if fixed else p.virtual for p in loads)
    link_base = lowest & -PAGE_SIZE
    segments, memory_size = _segments(name, data, loads, link_base, fixed=fixed)
    defect, tags = _dynamic(name, data, programs)
    tables: tuple[memoryview, ...] = ()
    counts: Counter[str] = Counter()
    if not fixed:
        tables = _tables(name, tags, segments, link_base)
        counts = _count(name, machine, tables, segments, link_base)
        # Their addends are in the relocated words: applied twice, by us and by the image, they
        # are wrong.
        for tag, what, size in ((_DT_RELSZ, "DT_REL", 16), (_DT_RELRSZ, "DT_RELR", 8)):
            if tags.get(tag):
                counts[what] = -(-tags[tag] // size)
    physical = _physical(entry, loads) if fixed else entry - link_base
    if defect is None:
        defect = not_a_guest(data, machine, entry, _code_at(segments, physical))
    return Image(
        name=name,
        kind="elf64",
        machine=machine,
        segments=segments,
        entry=physical,
        fixed_base=link_base if fixed else None,
        memory_size=memory_size,
        alignment=max(PAGE_SIZE, *(p.alignment for p in loads)),
        relocations=tuple(sorted(counts.items())),
        rela=tables,
        link_base=link_base,
        defect=defect,
    )


def _code_at(segments: tuple[Segment, ...], address: int) -> bytes:
    """Return some bytes from an address on, none where no segment has content."""
    for segment in segments:
        offset = address - segment.address
        if 0 <= offset < len(segment.data):
            return bytes(segment.data[offset : offset + 64])
    return b""


def _check_ident(name: str, data: bytes) -> None:
    if len(data) < _EHDR_SIZE:
        raise refuse(name, f"truncated: {len(data)} bytes, an ELF64 header has {_EHDR_SIZE}")
    if data[4] != 2:
        width = "32-bit" if data[4] == 1 else f"class {data[4]}"
        raise refuse(name, f"a {width} ELF file: guests are 64-bit")
    if data[5] != 1:
        order = "big-endian" if data[5] == 2 else f"byte order {data[5]}"
        raise refuse(name, f"a {order} ELF file: guests are little-endian")
    if data[6] != 1:
        raise refuse(name, f"ELF version {data[6]}: only 1 exists")


def _read_headers(name: str, data: bytes) -> tuple[str, str, int, list[_Program]]:
    """Return (type, machine, e_entry, program headers), decoded by pyelftools."""
    # Half of a fast start-up, and only ELF images need it.
    from elftools.common.utils import struct_parse  # noqa: PLC0415
    from elftools.elf.elffile import ELFFile  # noqa: PLC0415

    try:
        file = ELFFile(io.BytesIO(data))
        header = dict(file.header)
    except Exception as error:  # noqa: BLE001 - it raises exceptions of any type
        _malformed(name, "header", error)
    kind, machine = header["e_type"], header["e_machine"]
    if machine not in _MACHINES:
        raise refuse(name, f"built for {_label(machine)}: guests are aarch64 or x86_64")
    if kind not in ("ET_EXEC", "ET_DYN"):
        raise refuse(name, _WRONG_TYPE.get(kind, f"of type {_label(kind)}"))
    offset, size, count = header["e_phoff"], header["e_phentsize"], header["e_phnum"]
    if not count:
        raise refuse(name, "no program headers: there is nothing to load")
    if size != _PHDR_SIZE:
        raise refuse(name, f"program headers of {size} bytes: ELF64 has {_PHDR_SIZE}")
    if count > _MAX_HEADERS:
        raise refuse(name, f"{count} program headers: at most {_MAX_HEADERS} are read")
    if offset + count * size > len(data):
        end = offset + count * size
        raise refuse(name, f"truncated: program headers end at {end:#x} {_of(len(data))}")
    programs = []
    for index in range(count):
        try:
            raw = struct_parse(file.structs.Elf_Phdr, file.stream, offset + index * size)
        except Exception as error:  # noqa: BLE001 - as above
            _malformed(name, f"program header {index}", error)
        programs.append(_Program(index, _label(raw["p_type"]), *(raw[key] for key in _PHDR)))
    return kind, _MACHINES[machine], header["e_entry"], programs


def _malformed(name: str, what: str, error: Exception) -> NoReturn:
    raise refuse(name, f"malformed ELF {what}: {str(error) or type(error).__name__}") from None


def _label(value: Any) -> str:
    """Return pyelftools' name of an enumeration's value; it leaves unknown ones as numbers."""
    return value if isinstance(value, str) else f"{value:#x}"


def _of(size: int) -> str:
    return f"of a file of {size:#x} bytes"


def _check_program(name: str, program: _Program, file_end: int) -> None:
    """Check that what will be read lies in the file and what will be loaded has an address."""
    if program.type not in ("PT_LOAD", "PT_DYNAMIC", "PT_INTERP"):
        return
    what = f"{program.type} (program header {program.index})"
    end = program.offset + program.file_size
    if program.file_size and end > file_end:
        raise refuse(name, f"truncated: {what} ends at {end:#x} {_of(file_end)}")
    if program.type != "PT_LOAD":
        return
    if program.file_size > program.memory_size:
        sizes = f"{program.file_size:#x} bytes for {program.memory_size:#x} of memory"
        raise refuse(name, f"{what} has {sizes}")
    if program.alignment & (program.alignment - 1):
        raise refuse(name, f"{what} has alignment {program.alignment:#x}, no power of two")
    for address in (program.virtual, program.physical):
        if address + program.memory_size > _TOP:
            size = program.memory_size
            raise refuse(name, f"{what} at {address:#x} with {size:#x} bytes wraps around")


def _segments(
    name: str, data: bytes, loads: list[_Program], link_base: int, *, fixed: bool
) -> tuple[tuple[Segment, ...], int]:
    """Return the sorted segments and the bytes from the base to the end of the last."""
    view = memoryview(data)
    found = []
    end = link_base
    for p in sorted(loads, key=lambda p: p.physical if fixed else p.virtual):
        address = p.physical if fixed else p.virtual
        if address < end:
            what = f"PT_LOAD (program header {p.index}) at {address:#x}"
            raise refuse(name, f"{what} overlaps the one below, which ends at {end:#x}")
        end = address + p.memory_size
        permissions = "".join(c for c, bit in (("r", 4), ("w", 2), ("x", 1)) if p.flags & bit)
        content = view[p.offset : p.offset + p.file_size] if p.file_size else view[:0]
        found.append(
            Segment(address if fixed else address - link_base, content, p.memory_size, permissions)
        )
    if end - link_base > MAX_MEMORY:
        raise refuse(name, f"needs {end - link_base:#x} bytes, above the limit {MAX_MEMORY:#x}")
    return tuple(found), end - link_base


def _physical(entry: int, loads: list[_Program]) -> int:
    """Translate a fixed image's e_entry as its segments are: the MMU is off at the start.

    Some images (x86 vmlinux) give a physical address already.
    """
    for p in loads:
        if 0 <= entry - p.virtual < p.memory_size:
            return entry - p.virtual + p.physical
    return entry


def _dynamic(name: str, data: bytes, programs: list[_Program]) -> tuple[str | None, dict[int, int]]:
    """Return why dynamic linking would be needed, and the dynamic section's tags."""
    tags: dict[int, int] = {}
    dynamic = [p for p in programs if p.type == "PT_DYNAMIC"]
    if len(dynamic) > 1:
        raise refuse(name, f"{len(dynamic)} PT_DYNAMIC segments: there may be one")
    for p in dynamic:
        if p.file_size > _MAX_DYNAMIC * 16:
            raise refuse(name, f"PT_DYNAMIC of {p.file_size:#x} bytes: at most {_MAX_DYNAMIC} x 16")
        whole = p.file_size - p.file_size % 16  # a linker may put more than the table there
        content = memoryview(data)[p.offset : p.offset + whole]
        for tag, value in struct.iter_unpack("<QQ", content):
            if tag == _DT_NULL:
                break
            tags[tag] = value
    for p in programs:
        if p.type == "PT_INTERP":
            path = bytes(data[p.offset : p.offset + min(p.file_size, 256)]).split(b"\0")[0]
            shown = printable(path.decode("ascii", "backslashreplace"))
            return f"dynamically linked (PT_INTERP {shown}): link with -static-pie", tags
    if _DT_NEEDED in tags:
        return "dynamically linked (DT_NEEDED): link with -static-pie", tags
    return None, tags


def _tables(
    name: str, tags: dict[int, int], segments: tuple[Segment, ...], link_base: int
) -> tuple[memoryview, ...]:
    """Return the RELA tables that the dynamic section names, bounds checked."""
    if tags.get(_DT_RELAENT, _RELA_SIZE) != _RELA_SIZE:
        raise refuse(name, f"DT_RELAENT is {tags[_DT_RELAENT]}: ELF64 has {_RELA_SIZE}")
    if tags.get(_DT_PLTRELSZ) and tags.get(_DT_PLTREL, _DT_RELA) != _DT_RELA:
        raise refuse(name, f"DT_PLTREL is {tags[_DT_PLTREL]}: this machine has RELA ({_DT_RELA})")
    main = (tags.get(_DT_RELA, 0), tags.get(_DT_RELASZ, 0))
    plt = (tags.get(_DT_JMPREL, 0), tags.get(_DT_PLTRELSZ, 0))
    ranges = [("DT_RELA", *main)]
    # Some linkers put the PLT's entries at the end of DT_RELA and count them in both.
    if not (main[0] <= plt[0] and sum(plt) <= sum(main)):
        ranges.append(("DT_JMPREL", *plt))
    found = []
    for what, address, size in ranges:
        if not size:
            continue
        if size % _RELA_SIZE:
            raise refuse(name, f"{what} has {size:#x} bytes, no multiple of {_RELA_SIZE}")
        if size > _MAX_RELOCATIONS * _RELA_SIZE:
            count = size // _RELA_SIZE
            raise refuse(name, f"{what} has {count} entries: at most {_MAX_RELOCATIONS}")
        start = address - link_base
        for segment in segments:
            offset = start - segment.address
            if offset >= 0 and offset + size <= len(segment.data):
                found.append(segment.data[offset : offset + size])
                break
        else:
            raise refuse(name, f"{what} at {address:#x} with {size:#x} bytes is in no segment")
    return tuple(found)


def _count(
    name: str,
    machine: str,
    tables: tuple[memoryview, ...],
    segments: tuple[Segment, ...],
    link_base: int,
) -> Counter[str]:
    """Count the relocations by type; check that those to apply lie in a segment."""
    names = _RELOCATIONS[machine]
    starts = [segment.address for segment in segments]
    ends = [segment.address + segment.memory_size for segment in segments]
    counts: Counter[int] = Counter()
    for rela in tables:
        for address, info, _ in struct.iter_unpack("<QQQ", rela):
            number = info & 0xFFFF_FFFF
            counts[number] += 1
            if names.get(number) == "RELATIVE":
                offset = address - link_base
                index = bisect_right(starts, offset) - 1
                if index < 0 or offset + 8 > ends[index]:
                    raise refuse(name, f"relocation at {address:#x} is in no segment")
    prefix = f"R_{machine.upper()}_"
    return Counter({prefix + names.get(n, str(n)): count for n, count in counts.items()})
