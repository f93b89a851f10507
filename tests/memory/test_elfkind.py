"""Files that are well-formed ELF images and no guests."""

from __future__ import annotations

import struct
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.memory.elfkind import not_a_guest
from hfsched.memory.image import boot_problem, parse_image

from .elf_writer import ET_EXEC, Load, build

SHDR = struct.Struct("<IIQQQQIIQQ")
STRTAB, NOTE, NOBITS = 3, 7, 8
ALLOC, EXECINSTR = 2, 4
BASE = 0x4000_0000
NOTHING = b"\x1f\x20\x03\xd5" * 16  # nop


def with_sections(
    *sections: tuple[int, int, int, bytes | int], code: bytes = NOTHING, machine: str = "aarch64"
) -> bytes:
    """Return an image with sections {type, flags, address, content or size of none}."""
    data = bytearray(build(Load(BASE, code), kind=ET_EXEC, machine=machine))
    table = []
    for kind, flags, address, content in sections:
        size = content if isinstance(content, int) else len(content)
        table.append(SHDR.pack(0, kind, flags, address, len(data), size, 0, 0, 1, 0))
        data += content if isinstance(content, bytes) else b""
    struct.pack_into("<Q", data, 40, len(data))
    struct.pack_into("<HH", data, 58, SHDR.size, len(table))
    return bytes(data + b"".join(table))


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    name = owner + b"\0"
    padded = name.ljust(len(name) + 3 & -4, b"\0")
    return struct.pack("<III", len(name), len(content), kind) + padded + content


def problem(data: bytes) -> str | None:
    return boot_problem(parse_image("f", data))


def test_a_guest_with_sections_boots() -> None:
    build_id = note(b"GNU", 3, b"x" * 20)
    assert (
        problem(with_sections((1, ALLOC | EXECINSTR, BASE, NOTHING), (NOTE, 0, 0, build_id)))
        is None
    )


def test_code_that_is_not_in_the_file() -> None:
    text = problem(with_sections((NOBITS, ALLOC | EXECINSTR, BASE, 64)))
    assert text is not None
    assert text.startswith("its code is not in the file")
    assert problem(with_sections((NOBITS, ALLOC | EXECINSTR, BASE + 0x1000, 64))) is None


@pytest.mark.parametrize(
    ("content", "system"),
    [
        (note(b"GNU", 1, struct.pack("<4I", 0, 3, 2, 0)), "Linux"),
        (note(b"GNU", 3, b"x" * 20) + note(b"FreeBSD", 1, b"\0" * 4), "FreeBSD"),
        (note(b"Go", 4, b"id"), "Go"),
    ],
)
def test_notes_of_programs(content: bytes, system: str) -> None:
    text = problem(with_sections((NOTE, ALLOC, 0, content)))
    assert text is not None
    assert text.startswith(f"a program for {system}, which makes system calls")


def test_a_c_library_that_starts_a_program() -> None:
    assert problem(with_sections((STRTAB, 0, 0, b"\0main\0__libc_start_main\0")))
    assert problem(with_sections((STRTAB, 0, 0, b"\0not__libc_start_main\0"))) is None


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values) + NOTHING


@pytest.mark.parametrize(
    ("machine", "code", "program"),
    [
        ("aarch64", words(0xD280001D, 0xD280001E, 0x910003E0), True),  # musl
        (
            "aarch64",
            words(0xD503245F, 0xD280001D, 0xD280001E, 0xAA0003E5, 0xF94003E1),
            True,
        ),  # glibc
        ("aarch64", words(0xD280001D, 0xD280001E, 0x9100001F, 0x910003E0), False),  # sets sp itself
        ("aarch64", words(0xD280001D, 0x910003E0), False),
        ("x86_64", b"\x48\x31\xed\x48\x89\xe7" + b"\x90" * 64, True),
        ("x86_64", b"\xf3\x0f\x1e\xfa\x31\xed\x49\x89\xd1\x5e" + b"\x90" * 64, True),
        ("x86_64", b"\x31\xed\xbc\x00\x00\x00\x00" + b"\x90" * 64, False),
    ],
)
def test_a_program_reads_the_stack_that_it_is_given(
    machine: str, code: bytes, program: bool
) -> None:
    assert (problem(with_sections(code=code, machine=machine)) is not None) == program


@pytest.mark.skipif(find_spec("ziglang") is None, reason="no package ziglang")
def test_a_real_program(tmp_path: Path) -> None:
    source, program = tmp_path / "t.c", tmp_path / "t"
    source.write_text("int main(void) { return 0; }\n")
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    subprocess.run(
        [*command, "-s", "-o", str(program), str(source)], check=True, capture_output=True
    )
    assert "which makes system calls" in (problem(program.read_bytes()) or "")


@given(st.binary(max_size=400), st.integers(0, 1 << 64 - 1), st.integers(0, 70))
def test_any_bytes_may_follow_the_header(data: bytes, offset: int, count: int) -> None:
    header = bytearray(build(Load(BASE, NOTHING), kind=ET_EXEC))
    struct.pack_into("<Q", header, 40, offset % (len(header) + len(data) + 9))
    struct.pack_into("<HH", header, 58, SHDR.size, count)
    not_a_guest(bytes(header) + data, "aarch64", BASE, data)


@given(
    st.lists(st.tuples(st.sampled_from([STRTAB, NOTE, NOBITS]), st.binary(max_size=80)), max_size=4)
)
def test_any_content_of_a_section(contents: list[tuple[int, bytes]]) -> None:
    not_a_guest(
        with_sections(*((kind, 0, 0, content) for kind, content in contents)), "x86_64", 0, b""
    )
