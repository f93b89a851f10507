"""The arm64 Linux header, and the x86-64 one."""

from __future__ import annotations

import pytest

from hfsched.errors import ImageError
from hfsched.memory.image import boot_problem, parse_image, place
from hfsched.memory.imagetypes import MAX_MEMORY
from hfsched.memory.ram import Ram

from .elf_writer import linux_header

X86 = b"HFX\x64"


def test_a_raw_image_is_entered_at_its_first_byte_anywhere() -> None:
    data = linux_header(300, image_size=0x3000)
    image = parse_image("guest.bin", data)
    assert (image.kind, image.machine, image.entry, image.fixed_base) == (
        "linux-raw",
        "aarch64",
        0,
        None,
    )
    assert image.text_offset == 0x1000
    assert image.memory_size == 0x3000
    assert bytes(image.segments[0].data) == data
    assert image.segments[0].permissions == "rwx"
    assert boot_problem(image) is None


@pytest.mark.parametrize("image_size", [0, 64, 299])
def test_an_image_size_below_the_file_means_the_file(image_size: int) -> None:
    image = parse_image("guest.bin", linux_header(300, image_size=image_size))
    assert image.memory_size == image.segments[0].memory_size == 300


def test_the_memory_beyond_the_file_becomes_zero() -> None:
    data = linux_header(300, image_size=0x1800)
    ram = Ram("vm", 0x2000)
    ram.write(0, b"\xaa" * 0x2000)
    assert place(parse_image("guest.bin", data), ram, 0x4000_0000) == 0x4000_0000
    assert ram.read(0, 0x2000) == data + bytes(0x1800 - 300) + b"\xaa" * 0x800
    ram.close()


def test_the_alignment_asked_for() -> None:
    assert parse_image("k", linux_header(text_offset=0)).alignment == 2 << 20
    assert parse_image("k", linux_header(text_offset=0x1000)).alignment == 0x1000


@pytest.mark.parametrize("size", [60, 61, 63])
def test_a_cut_header_is_one_clear_line(size: int) -> None:
    with pytest.raises(ImageError, match=f"^k: truncated: {size} bytes, .* has 64$"):
        parse_image("k", linux_header()[:size])


def test_an_absurd_image_size() -> None:
    assert parse_image("k", linux_header(image_size=MAX_MEMORY)).memory_size == MAX_MEMORY
    with pytest.raises(ImageError, match=r"^k: image_size 0x10000000001 .* above the limit"):
        parse_image("k", linux_header(image_size=MAX_MEMORY + 1))


def test_a_big_endian_kernel_does_not_boot() -> None:
    assert "big-endian" in (boot_problem(parse_image("k", linux_header(flags=1))) or "")
    assert boot_problem(parse_image("k", linux_header(flags=0b1110))) is None


def test_an_x86_image_differs_in_its_magic_alone() -> None:
    data = linux_header(300, image_size=0x3000, magic=X86)
    image = parse_image("guest.bin", data)
    assert (image.kind, image.machine, image.entry, image.fixed_base) == (
        "hfx-raw",
        "x86_64",
        0,
        None,
    )
    assert (image.memory_size, image.text_offset) == (0x3000, 0x1000)
    assert bytes(image.segments[0].data) == data
    assert boot_problem(image) is None
    ram = Ram("vm", 0x4000)
    ram.write(0, b"\xaa" * 0x4000)
    assert place(image, ram, 0x4000_1000) == 0x4000_1000
    assert ram.read(0, 0x4000) == data + bytes(0x3000 - 300) + b"\xaa" * 0x1000
    ram.close()


@pytest.mark.parametrize("text_offset", [0, 0x1000])
def test_an_x86_image_is_content_with_a_page(text_offset: int) -> None:
    data = linux_header(text_offset=text_offset, magic=X86)
    assert parse_image("guest.bin", data).alignment == 0x1000


@pytest.mark.parametrize("size", [60, 63])
def test_a_cut_x86_header_is_one_clear_line(size: int) -> None:
    with pytest.raises(ImageError, match=f"^k: truncated: {size} bytes, an x86-64 .* has 64$"):
        parse_image("k", linux_header(magic=X86)[:size])


def test_an_absurd_image_size_of_an_x86_image() -> None:
    with pytest.raises(ImageError, match=r"^k: image_size 0x10000000001 .* above the limit"):
        parse_image("k", linux_header(image_size=MAX_MEMORY + 1, magic=X86))
