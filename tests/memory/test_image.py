"""Reading files, telling kinds apart, and placing images into RAM."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from hfsched.errors import ImageError
from hfsched.memory.image import (
    MAX_FILE,
    boot_problem,
    kind_of,
    looks_like,
    parse_image,
    place,
    read_bytes,
    read_image,
)
from hfsched.memory.ram import Ram
from hfsched.text import printable

from .elf_writer import DT_NEEDED, ET_EXEC, RELATIVE, Load, build, linux_header

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = Load(0x1000, b"\x01" * 16, flags="rx")
DATA = Load(0x2010, b"\x02" * 8, memory_size=32, flags="rw")


@pytest.fixture
def ram() -> Iterator[Ram]:
    memory = Ram("vm", 0x4000)
    memory.write(0, b"\xaa" * 0x4000)
    yield memory
    memory.close()


# Reading.


def test_a_file_is_read_and_parsed(tmp_path: Path) -> None:
    path = tmp_path / "guest.elf"
    path.write_bytes(build(TEXT))
    assert read_bytes(path) == build(TEXT)
    image = read_image(path)
    assert (image.name, image.kind) == (str(path), "elf64")
    assert read_image(str(path)) == image


@pytest.mark.parametrize("size", [1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_a_file_is_read_whole(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert read_bytes(tmp_path / "f") == content


def refused(path: Path | str) -> str:
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "absent") == "cannot be read: No such file or directory"
    assert refused(tmp_path).startswith("a directory")
    assert refused("a\0b").endswith("cannot be read: embedded null byte")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refused(tmp_path / "loop").startswith("cannot be read: Too many levels")
    assert refused("/dev/null").startswith("not a regular file")


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert refused(tmp_path / "fifo").startswith("not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "f").chmod(0)
    assert refused(tmp_path / "f") == "cannot be read: Permission denied"


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(MAX_FILE + 1)
    assert refused(tmp_path / "f") == f"{MAX_FILE + 1} bytes: at most {MAX_FILE}"


def test_a_file_whose_size_is_not_its_content() -> None:
    # The kernel says 0 bytes, and there are some.
    with pytest.raises(ImageError, match="/proc/self/status: changed while it was read: try again"):
        read_bytes("/proc/self/status")


def test_a_file_that_is_no_image_is_not_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.write(b"#!/bin/sh\n")
        file.truncate(MAX_FILE)
    what = "neither an arm64 Linux image, an x86-64 flat image nor an ELF64 file"
    tracemalloc.start()
    assert refused(tmp_path / "f") == f"{what} ({MAX_FILE} bytes): a script"
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_no_descriptor_is_left_open(tmp_path: Path, descriptors: Callable[[], int]) -> None:
    (tmp_path / "f").write_bytes(b"x")
    before = descriptors()
    read_bytes(tmp_path / "f")
    refused(tmp_path)
    refused("/dev/null")
    refused("/proc/self/status")
    assert descriptors() == before


def test_a_hostile_name_stays_on_one_line() -> None:
    with pytest.raises(ImageError) as caught:
        parse_image("a\nb\x1b[31m", b"")
    assert str(caught.value).startswith("a\\nb\\x1b[31m: ")
    assert printable("gäst-1.elf") == "gäst-1.elf"


# Kinds.


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "an empty file"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"\x28\xb5\x2f\xfd", "zstd data"),
        (b"\xfd7zXZ\0", "xz data"),
        (b"\x02\x21\x4c\x18", "lz4 data"),
        (b"\xd0\x0d\xfe\xed", "a flattened device tree"),
        (b"\x27\x05\x19\x56", "a U-Boot uImage"),
        (b"#!/bin/sh\n", "a script"),
        (b"!<arch>\n", "an archive"),
        (b"MZ" + bytes(98), "a PE/EFI executable"),
        (b"\xeb" + bytes(509) + b"\x55\xaa", "an x86 boot sector"),
        (b"MZ" + bytes(508) + b"\x55\xaa" + bytes(2) + b"HdrS", "an x86 Linux bzImage"),
        (b"\1" + bytes(55) + b"RSC\x05", "a RISC-V Linux image"),
        (bytes(100), "zeros"),
        (b"hello", "text"),
        ("gr\u00fc\u00dfe".encode()[:-2], "text"),
        (b"hello\0", "nothing known, first bytes 68 65 6c 6c 6f 00"),
        (b"hello\x01", "nothing known, first bytes 68 65 6c 6c 6f 01"),
    ],
)
def test_unknown_files_are_recognized_and_refused(data: bytes, what: str) -> None:
    assert looks_like(data).startswith(what)
    assert kind_of(data) == "unknown"
    with pytest.raises(ImageError, match=f"^f: neither .* \\({len(data)} bytes\\): {what}"):
        parse_image("f", data)


def test_elf_files_are_recognized_by_class_and_order() -> None:
    assert looks_like(b"\x7fELF") == "an ELF file"
    assert looks_like(b"\x7fELF\1\1") == "a 32-bit little-endian ELF file"
    assert looks_like(b"\x7fELF\2\2") == "a 64-bit big-endian ELF file"
    assert kind_of(build(TEXT)) == "elf64"
    assert kind_of(b"\x7fELF\1") == "unknown"


def test_a_kernel_with_an_efi_stub_is_a_linux_image() -> None:
    data = b"MZ" + linux_header()[2:]
    assert (kind_of(data), looks_like(data)) == ("linux-raw", "an arm64 Linux image")
    assert parse_image("Image", data).kind == "linux-raw"


def test_a_flat_x86_image_is_told_from_an_arm64_one() -> None:
    data = linux_header(magic=b"HFXd")
    assert (kind_of(data), looks_like(data)) == ("hfx-raw", "an x86-64 flat image")
    assert (kind_of(data[:59]), kind_of(data[:60])) == ("unknown", "hfx-raw")


@pytest.mark.parametrize("magic", [b"ARMd", b"HFXd"])
def test_elf_goes_before_a_flat_image_s_magic(magic: bytes) -> None:
    file = bytearray(build(TEXT))
    file[56:60] = magic
    assert kind_of(bytes(file)) == "elf64"
    assert looks_like(bytes(file)) == "a 64-bit little-endian ELF file"


# Placing.


def test_a_relocatable_image_is_placed_and_relocated(ram: Ram) -> None:
    table = [
        (0x2010, RELATIVE["aarch64"], 0x1004),
        (0x2028, RELATIVE["aarch64"], 0x2010),
        (0, 0, 9),
    ]
    image = parse_image("g", build(TEXT, DATA, entry=0x1004, relocations=table, tables_at=0x3000))
    assert place(image, ram, 0x4000_0000) == 0x4000_0004
    assert ram.read(0, 16) == b"\x01" * 16
    assert ram.read(16, 0x1000) == b"\xaa" * 0x1000
    first, zeros, last = struct.unpack("<Q16sQ", ram.read(0x1010, 32))
    assert (first, zeros, last) == (0x4000_0004, bytes(16), 0x4000_1010)
    assert ram.read(0x1030, 16) == b"\xaa" * 16


def test_a_relocation_may_point_below_the_base_and_wraps(ram: Ram) -> None:
    image = parse_image(
        "g", build(TEXT, DATA, relocations=[(0x2010, 8, -8)], machine="x86_64", tables_at=0x3000)
    )
    place(image, ram, 0)
    assert struct.unpack("<Q", ram.read(0x1010, 8)) == ((-8 - 0x1000) % 2**64,)


def test_a_fixed_image_is_placed_where_it_wants_and_nothing_is_relocated(ram: Ram) -> None:
    text = Load(0x9000, b"\x01" * 16, physical=0x8000_1000, memory_size=24)
    table = [(0x9000, RELATIVE["aarch64"], 0)]
    image = parse_image(
        "g", build(text, kind=ET_EXEC, relocations=table, tables_at=0x8000_2000, entry=0x9004)
    )
    assert place(image, ram, 0x8000_0000) == 0x8000_1004
    assert ram.read(0x1000, 32) == b"\x01" * 16 + bytes(8) + b"\xaa" * 8
    assert ram.read(0, 0x1000) == b"\xaa" * 0x1000


@pytest.mark.parametrize("base", [0x7FFF_D000, 0x8000_2000])
def test_a_fixed_image_outside_the_ram(ram: Ram, base: int) -> None:
    image = parse_image("g", build(Load(0x8000_1000, b"\x01" * 16), kind=ET_EXEC))
    with pytest.raises(
        ImageError, match=r"^g: needs 0x10 bytes at 0x80001000, the VM has 0x4000 at"
    ):
        place(image, ram, base)
    assert ram.read(0, 0x4000) == b"\xaa" * 0x4000


@pytest.mark.parametrize(("size", "fits"), [(0x4000, True), (0x4001, False)])
def test_an_image_must_fit(ram: Ram, size: int, fits: bool) -> None:
    image = parse_image("g", build(Load(0, b"\x01" * 16, memory_size=size)))
    if fits:
        place(image, ram, 0)
        assert ram.read(0, 0x4000) == b"\x01" * 16 + bytes(0x3FF0)
        return
    with pytest.raises(ImageError, match=r"^g: needs 0x4001 bytes, the VM has 0x4000 at 0x0"):
        place(image, ram, 0)
    assert ram.read(0, 0x4000) == b"\xaa" * 0x4000


@pytest.mark.parametrize("base", [1, 0x800, -0x1000])
def test_a_base_is_a_page(ram: Ram, base: int) -> None:
    with pytest.raises(ImageError, match="not a multiple of 4096"):
        place(parse_image("g", build(TEXT)), ram, base)


def test_what_would_not_boot_is_not_placed(ram: Ram) -> None:
    image = parse_image("g", build(TEXT, dynamic=[(DT_NEEDED, 1)], tables_at=0x2000))
    with pytest.raises(ImageError, match=r"^g: dynamically linked"):
        place(image, ram, 0)
    assert ram.read(0, 0x4000) == b"\xaa" * 0x4000


def test_boot_problem_names_the_parser_s_own_finding_first() -> None:
    image = parse_image("g", build(TEXT))
    assert boot_problem(image) is None
    assert boot_problem(replace(image, defect="why", entry=-1)) == "why"
    assert "entry -0x1 is" in (boot_problem(replace(image, entry=-1)) or "")


def test_large_images_are_copied_in_parts() -> None:
    data = bytes(range(256)) * 0x1800
    ram = Ram("vm", 0x20_0000)
    place(parse_image("g", build(Load(0, data))), ram, 0)
    assert ram.read(0, len(data)) == data
    ram.close()


def test_raw_images_do_not_import_elftools() -> None:
    code = (
        "import sys; from hfsched.memory.image import parse_image\n"
        f"parse_image('k', {linux_header()!r})\n"
        "assert not [m for m in sys.modules if m.startswith(('elftools', 'fdt'))]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
