"""ELF64: every check, once passing and once failing."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from hfsched.memory.image import boot_problem

from .elf_writer import (
    ET_CORE,
    ET_EXEC,
    ET_REL,
    PT_NOTE,
    Load,
    build,
    parse,
    patch,
    refused,
)

TEXT = Load(0x1000, b"\x01" * 16, flags="rx")
DATA = Load(0x2010, b"\x02" * 8, memory_size=32, flags="rw")


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_a_position_independent_image_counts_from_the_page_of_its_lowest_segment(
    machine: str,
) -> None:
    image = parse(build(DATA, TEXT, machine=machine, entry=0x1004))
    assert (image.kind, image.machine, image.fixed_base) == ("elf64", machine, None)
    assert [(s.address, s.memory_size, s.permissions) for s in image.segments] == [
        (0, 16, "rx"),
        (0x1010, 32, "rw"),
    ]
    assert [bytes(s.data) for s in image.segments] == [b"\x01" * 16, b"\x02" * 8]
    assert image.entry == 4
    assert image.memory_size == 0x1030
    assert boot_problem(image) is None


def test_the_base_is_a_page_even_where_the_lowest_segment_begins_inside_one() -> None:
    image = parse(build(Load(0x1040, b"\1" * 8)))
    assert (image.segments[0].address, image.entry, image.memory_size) == (0x40, 0x40, 0x48)


def test_a_fixed_image_goes_to_its_physical_addresses() -> None:
    text = Load(0xFFFF_0000_0000_1000, b"\1" * 16, flags="rx", physical=0x4008_1000)
    image = parse(build(text, kind=ET_EXEC, entry=0xFFFF_0000_0000_1008))
    assert image.fixed_base == image.segments[0].address == 0x4008_1000
    assert image.entry == 0x4008_1008
    assert boot_problem(image) is None


def test_a_fixed_image_may_give_its_entry_as_a_physical_address() -> None:
    text = Load(0xFFFF_0000_0000_1000, b"\1" * 16, flags="rx", physical=0x4008_1000)
    image = parse(build(text, kind=ET_EXEC, entry=0x4008_1004))
    assert image.entry == 0x4008_1004
    assert boot_problem(image) is None


def test_a_segment_without_memory_is_none() -> None:
    image = parse(build(TEXT, Load(0x1008, b"", memory_size=0)))
    assert len(image.segments) == 1


def test_the_alignment_is_the_largest_and_a_page_at_least() -> None:
    assert parse(build(TEXT)).alignment == 0x1000
    assert parse(build(Load(0, b"\1" * 4, alignment=0))).alignment == 0x1000
    assert parse(build(TEXT, Load(0x2_0000, b"\1", alignment=0x1_0000))).alignment == 0x1_0000


# The file's kind.


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("class", 1, "a 32-bit ELF file"),
        ("class", 7, "a class 7 ELF file"),
        ("data", 2, "a big-endian ELF file"),
        ("data", 0, "a byte order 0 ELF file"),
        ("version", 2, "ELF version 2"),
        ("type", ET_REL, "an object file"),
        ("type", ET_CORE, "a core dump"),
        ("type", 0, "of type ET_NONE"),
        ("type", 0x1234, "of type 0x1234"),
        ("machine", 243, "built for EM_RISCV"),
        ("machine", 0xABCD, "built for 0xabcd"),
        ("phnum", 0, "no program headers"),
        ("phnum", 1025, "1025 program headers"),
        ("phnum", 200, "truncated: program headers end at"),
        ("phentsize", 32, "program headers of 32 bytes"),
        ("phoff", 2**64 - 1, "truncated: program headers end at"),
    ],
)
def test_a_wrong_header(field: str, value: int, message: str) -> None:
    assert refused(patch(build(TEXT), field, value)).startswith(message)


@pytest.mark.parametrize("size", [4, 5, 16, 63])
def test_a_cut_header(size: int) -> None:
    assert refused(build(TEXT)[:size]) == f"truncated: {size} bytes, an ELF64 header has 64"


# Segments.


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("p_offset", 2**63, "truncated: PT_LOAD (program header 0) ends at"),
        ("p_filesz", 17, "PT_LOAD (program header 0) has 0x11 bytes for 0x10 of memory"),
        ("p_vaddr", 2**64 - 8, "PT_LOAD (program header 0) at 0xfffffffffffffff8 with 0x10"),
        ("p_paddr", 2**64 - 8, "PT_LOAD (program header 0) at 0xfffffffffffffff8 with 0x10"),
        ("p_memsz", 2**60, "PT_LOAD (program header 1) at 0x2010 overlaps"),
        ("p_align", 3, "PT_LOAD (program header 0) has alignment 0x3"),
    ],
)
def test_a_wrong_segment(field: str, value: int, message: str) -> None:
    assert refused(patch(build(TEXT, DATA), field, value)).startswith(message)


def test_a_cut_file() -> None:
    file = build(TEXT, DATA)
    assert refused(file[:-1]).startswith("truncated: PT_LOAD (program header 1) ends at")


def test_no_segment_to_load() -> None:
    assert refused(patch(build(TEXT), "p_type", PT_NOTE)).startswith("no PT_LOAD")
    assert refused(patch(patch(build(TEXT), "p_filesz", 0), "p_memsz", 0)).startswith("no PT_LOAD")


@pytest.mark.parametrize(("second", "fits"), [(0x100F, False), (0x1000, False), (0x1010, True)])
def test_overlapping_segments(second: int, fits: bool) -> None:
    file = build(TEXT, Load(second, b"\2" * 4))
    if fits:
        assert len(parse(file).segments) == 2
    else:
        assert "overlaps" in refused(file)


def test_a_fixed_image_overlaps_by_physical_addresses() -> None:
    file = build(
        Load(0x1000, b"\1" * 8, physical=0x5000),
        Load(0x2000, b"\1" * 8, physical=0x5004),
        kind=ET_EXEC,
    )
    assert "overlaps" in refused(file)


def test_a_small_file_that_claims_2_to_the_60_bytes_costs_nothing() -> None:
    file = patch(build(Load(0x1000, b"\1" * 4)), "p_memsz", 2**60)
    assert len(file) < 130
    tracemalloc.start()
    assert refused(file).startswith("needs 0x1000000000000000 bytes, above the limit")
    assert refused(patch(file, "p_filesz", 2**60)).startswith("truncated")
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


def test_many_program_headers_take_no_time() -> None:
    file = bytearray(build(*[Load(0x1000 * i, b"\1") for i in range(1, 1025)]))
    begin = time.process_time()
    assert len(parse(bytes(file)).segments) == 1024
    assert time.process_time() - begin < 5


# What is not read or loaded may say anything.


def test_other_program_headers_are_not_looked_at() -> None:
    file = patch(build(TEXT, DATA), "p_type", PT_NOTE, program=1)
    for field in ("p_offset", "p_filesz", "p_vaddr", "p_paddr", "p_align"):
        file = patch(file, field, 2**64 - 1, program=1)
    assert len(parse(file).segments) == 1


def test_the_file_offset_of_nothing_does_not_matter() -> None:
    file = build(TEXT, Load(0x2000, b"", memory_size=8))
    image = parse(patch(file, "p_offset", 2**64 - 1, program=1))
    assert (len(image.segments[1].data), image.segments[1].memory_size) == (0, 8)


def test_the_address_of_an_interpreter_does_not_matter() -> None:
    file = build(TEXT, interpreter=b"/ld\0")
    for field in ("p_vaddr", "p_memsz", "p_align"):
        file = patch(file, field, 2**64 - 1 if field != "p_memsz" else 0, program=1)
    assert "PT_INTERP /ld" in (boot_problem(parse(file)) or "")


# The entry.


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (0x100C, None),
        (0x1010, "in no executable segment"),
        (0x0FFC, "in no executable segment"),
        (0x2010, "in no executable segment"),
        (0x1002, "not a multiple of 4"),
    ],
)
def test_the_entry_is_an_instruction_of_an_executable_segment(
    entry: int, problem: str | None
) -> None:
    found = boot_problem(parse(build(TEXT, DATA, entry=entry)))
    assert found is None if problem is None else problem in (found or "")


def test_an_entry_in_zeroed_memory_does_not_boot() -> None:
    image = parse(build(Load(0x1000, b"\1" * 8, memory_size=64), entry=0x1010))
    assert "no executable segment" in (boot_problem(image) or "")


def test_an_x86_entry_may_have_any_address() -> None:
    assert boot_problem(parse(build(TEXT, entry=0x1003, machine="x86_64"))) is None
