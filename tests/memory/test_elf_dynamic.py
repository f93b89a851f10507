"""Dynamic linking and relocations: every check, once passing and once failing."""

from __future__ import annotations

import pytest

from hfsched.memory.image import boot_problem, parse_image

from .elf_writer import (
    DT_JMPREL,
    DT_NEEDED,
    DT_PLTREL,
    DT_PLTRELSZ,
    DT_RELA,
    DT_RELAENT,
    DT_RELASZ,
    DT_RELRSZ,
    DT_RELSZ,
    ET_EXEC,
    PT_DYNAMIC,
    PT_INTERP,
    RELATIVE,
    Load,
    build,
    parse,
    patch,
    refused,
)

TEXT = Load(0x1000, b"\x01" * 16, flags="rx")
DATA = Load(0x2010, b"\x02" * 8, memory_size=32, flags="rw")


# Dynamic linking.


def test_an_interpreter_means_dynamic_linking() -> None:
    image = parse(build(TEXT, interpreter=b"/lib/ld\x1b[31m.so\0"))
    assert boot_problem(image) == (
        "dynamically linked (PT_INTERP /lib/ld\\x1b[31m.so): link with -static-pie"
    )


def test_a_needed_library_means_dynamic_linking() -> None:
    assert "DT_NEEDED" in (boot_problem(parse(build(TEXT, dynamic=[(DT_NEEDED, 1)]))) or "")
    fixed = parse(build(TEXT, kind=ET_EXEC, dynamic=[(DT_NEEDED, 1)]))
    assert "DT_NEEDED" in (boot_problem(fixed) or "")


@pytest.mark.parametrize("kind", [PT_INTERP, PT_DYNAMIC])
def test_a_table_outside_the_file(kind: int) -> None:
    file = patch(build(TEXT, DATA), "p_type", kind, program=1)
    assert "truncated" in refused(patch(file, "p_filesz", 2**60, program=1))


def test_a_dynamic_section_of_an_odd_size() -> None:
    odd = patch(build(TEXT, DATA), "p_type", PT_DYNAMIC, program=1)  # 8 bytes: no whole entry
    assert boot_problem(parse_image("x", odd)) is None
    large = build(TEXT, Load(0x2000, bytes(16 * 4097)))
    file = patch(large, "p_type", PT_DYNAMIC, program=1)
    assert refused(file).startswith("PT_DYNAMIC of 0x10010 bytes")


def test_two_dynamic_sections() -> None:
    file = build(TEXT, DATA, DATA)
    for program in (1, 2):
        file = patch(file, "p_type", PT_DYNAMIC, program)
    assert refused(file).startswith("2 PT_DYNAMIC")


# Relocations.


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_relative_relocations_are_counted(machine: str) -> None:
    table = [(0x2010, RELATIVE[machine], 0x1000), (0x2018, RELATIVE[machine], 0), (0, 0, 0)]
    image = parse(build(TEXT, DATA, machine=machine, relocations=table))
    prefix = {"aarch64": "R_AARCH64", "x86_64": "R_X86_64"}[machine]
    assert dict(image.relocations)[f"{prefix}_RELATIVE"] == 2
    assert boot_problem(image) is None


@pytest.mark.parametrize(
    ("machine", "number", "name"),
    [
        ("aarch64", 1025, "R_AARCH64_GLOB_DAT"),
        ("aarch64", 1032, "R_AARCH64_IRELATIVE"),
        ("aarch64", 8, "R_AARCH64_8"),
        ("x86_64", 37, "R_X86_64_IRELATIVE"),
        ("x86_64", 1027, "R_X86_64_1027"),
        ("x86_64", 6, "R_X86_64_GLOB_DAT"),
    ],
)
def test_other_relocations_are_named(machine: str, number: int, name: str) -> None:
    image = parse(build(TEXT, DATA, machine=machine, relocations=[(0x2010, number, 0)]))
    assert f"relocation {name}" in (boot_problem(image) or "")


@pytest.mark.parametrize(
    ("tag", "name"), [(DT_RELSZ, "DT_REL (2 times)"), (DT_RELRSZ, "DT_RELR (4 times)")]
)
def test_tables_with_addends_in_place_are_named(tag: int, name: str) -> None:
    image = parse(build(TEXT, DATA, dynamic=[(tag, 32)]))
    assert f"relocation {name} is not supported" in (boot_problem(image) or "")


@pytest.mark.parametrize("address", [0, 0x0FFF, 0x1009, 0x2029, 0x3000, 2**64 - 8])
def test_a_relocation_outside_the_segments(address: int) -> None:
    file = build(TEXT, DATA, relocations=[(address, RELATIVE["aarch64"], 0)])
    assert refused(file) == f"relocation at {address:#x} is in no segment"


@pytest.mark.parametrize("address", [0x1000, 0x1008, 0x2010, 0x2028])
def test_a_relocation_at_the_edges_of_the_segments(address: int) -> None:
    parse(build(TEXT, DATA, relocations=[(address, RELATIVE["aarch64"], 0)]))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ([(DT_RELAENT, 16)], "DT_RELAENT is 16"),
        ([(DT_RELASZ, 25)], "DT_RELA has 0x19 bytes"),
        ([(DT_RELASZ, 24 * (2**20 + 1))], "DT_RELA has 1048577 entries"),
        ([(DT_RELASZ, 24 * 2**20)], "DT_RELA at 0x100000 with"),
        ([(DT_RELA, 0)], "DT_RELA at 0x0 with"),
        ([(DT_RELA, 2**64 - 8)], "DT_RELA at 0xfffffffffffffff8 with"),
        ([(DT_JMPREL, 0x9000), (DT_PLTRELSZ, 24)], "DT_JMPREL at 0x9000 with"),
        ([(DT_JMPREL, 0x10_0000), (DT_PLTRELSZ, 24), (DT_PLTREL, 17)], "DT_PLTREL is 17"),
    ],
)
def test_a_wrong_table(tags: list[tuple[int, int]], message: str) -> None:
    table = [(0x2010, RELATIVE["aarch64"], 0)]
    assert refused(build(TEXT, DATA, relocations=table, dynamic=tags)).startswith(message)


def test_plt_entries_inside_the_table_count_once_and_outside_it_too() -> None:
    table = [(0x2010, RELATIVE["aarch64"], 0), (0x2018, RELATIVE["aarch64"], 0)]
    for rela_size in (48, 24):
        tags = [(DT_RELASZ, rela_size), (DT_JMPREL, 0x10_0018), (DT_PLTRELSZ, 24)]
        image = parse(build(TEXT, DATA, relocations=table, dynamic=tags))
        assert image.relocations == (("R_AARCH64_RELATIVE", 2),)


def test_a_relocation_table_in_zeroed_memory_is_refused() -> None:
    tags = [(DT_RELA, 0x2010), (DT_RELASZ, 24)]
    assert "is in no segment" in refused(build(TEXT, DATA, dynamic=tags))


def test_the_kind_of_plt_entries_matters_only_where_there_are_some() -> None:
    image = parse(build(TEXT, DATA, dynamic=[(DT_PLTREL, 17), (DT_PLTRELSZ, 0)]))
    assert image.relocations == ()
