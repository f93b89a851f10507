"""Any bytes parse or are an ImageError; any image that parses stays in its RAM."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import ImageError
from hfsched.memory.image import boot_problem, looks_like, parse_image, place
from hfsched.memory.imagetypes import MAX_MEMORY, Image
from hfsched.memory.ram import Ram

from .elf_writer import (
    DYN,
    EHDR,
    ET_EXEC,
    HEADER_FIELDS,
    PHDR,
    PROGRAM_FIELDS,
    RELATIVE,
    Load,
    build,
    linux_header,
    patch,
)

SIZE = 0x8000
BASE = 0x4000_0000
GUARD = 0x1000

TEXT = Load(0x1000, b"\x01" * 64, flags="rx")
DATA = Load(0x2010, b"\x02" * 64, memory_size=0x100, flags="rw")
VALID = {
    "aarch64": build(TEXT, DATA, relocations=[(0x2010, 1027, 0x1000)], tables_at=0x4000),
    "x86_64": build(
        TEXT, DATA, relocations=[(0x2010, 8, 0x1000)], tables_at=0x4000, machine="x86_64"
    ),
    "fixed": build(
        Load(0x1000, b"\x01" * 64, physical=BASE + 0x1000), kind=ET_EXEC, interpreter=b"/ld\0"
    ),
    "raw": linux_header(200, image_size=0x2000),
    "raw-x86": linux_header(200, image_size=0x2000, magic=b"HFXd"),
}

# Numbers near every edge that a field may have.
EDGES = st.sampled_from([0, 1, 8, 24, 56, 64, 0x1000, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1])


def parsed(data: bytes) -> Image | None:
    """Parse; check what holds for every result."""
    try:
        image = parse_image("fuzz\n", data)
    except ImageError as error:
        message = str(error)
        assert message.startswith("fuzz\\n: ")
        assert message.isprintable()
        assert len(message) < 400
        return None
    assert 0 < image.memory_size <= MAX_MEMORY
    origin = image.fixed_base or 0
    end = origin
    for segment in image.segments:
        assert segment.address >= end
        end = segment.address + segment.memory_size
        assert len(segment.data) <= segment.memory_size
    assert end == origin + image.memory_size
    problem = boot_problem(image)
    assert problem is None or problem.isprintable()
    return image


def placed(image: Image) -> None:
    """Place; the bytes around the RAM that is given must stay."""
    ram = Ram("fuzz", SIZE)
    try:
        # `place` sees a RAM of less than there is: writes past its end land in the guard.
        ram.write(SIZE - GUARD, b"\xee" * GUARD)
        ram.size -= GUARD
        try:
            entry: int | None = place(image, ram, BASE)
        except ImageError:
            entry = None
        if entry is not None:
            assert BASE <= entry < BASE + ram.size
        else:
            assert ram.read(0, ram.size) == bytes(ram.size)
    finally:
        ram.size = SIZE
        assert ram.read(SIZE - GUARD, GUARD) == b"\xee" * GUARD
        ram.close()


def check(data: bytes) -> None:
    looks = looks_like(data)
    assert looks.isprintable()
    image = parsed(data)
    if image is not None:
        placed(image)


@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    check(data)


@given(
    st.sampled_from([b"\x7fELF", b"\x7fELF\x02\x01\x01", b"\x7fELF\x01\x01\x01"]),
    st.binary(max_size=400),
)
def test_random_bytes_after_a_magic(magic: bytes, data: bytes) -> None:
    check(magic + data)


@settings(max_examples=400)
@given(
    st.sampled_from(sorted(VALID)),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 700),
)
def test_valid_images_with_bytes_changed_and_cut(
    which: str, changes: list[tuple[int, int]], size: int
) -> None:
    data = bytearray(VALID[which])
    for at, value in changes:
        data[at % len(data)] = value
    check(bytes(data))
    check(bytes(data[:size]))


@settings(max_examples=400)
@given(
    st.sampled_from(["aarch64", "x86_64", "fixed"]),
    st.lists(
        st.tuples(st.sampled_from([*HEADER_FIELDS, *PROGRAM_FIELDS]), st.integers(0, 3), EDGES),
        min_size=1,
        max_size=4,
    ),
)
def test_elf_fields_with_edge_values(which: str, changes: list[tuple[str, int, int]]) -> None:
    data = VALID[which]
    for field, program, value in changes:
        _, code = (HEADER_FIELDS | PROGRAM_FIELDS)[field]
        if EHDR.size + (program + 1) * PHDR.size <= len(data):
            data = patch(data, field, value % 256 ** struct.calcsize(code), program)
    check(data)


@given(st.lists(st.tuples(st.integers(0, 40), EDGES), max_size=8))
def test_dynamic_tags_with_edge_values(tags: list[tuple[int, int]]) -> None:
    check(build(TEXT, DATA, relocations=[(0x2010, 1027, 0)], dynamic=tags, tables_at=0x4000))


@given(EDGES, EDGES, EDGES, st.integers(64, 300), st.sampled_from([b"ARMd", b"HFXd"]))
def test_flat_header_fields_with_edge_values(
    text_offset: int, image_size: int, flags: int, size: int, magic: bytes
) -> None:
    fields = {"text_offset": text_offset, "image_size": image_size, "flags": flags}
    check(linux_header(size, magic=magic, **fields))


@given(st.binary(min_size=56, max_size=56), st.sampled_from([b"ARMd", b"HFXd"]), st.binary())
def test_random_bytes_around_a_flat_magic(before: bytes, magic: bytes, after: bytes) -> None:
    check(before + magic + after)


@given(
    st.sampled_from(sorted(RELATIVE)),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2**64 - 1)), max_size=10),
    st.integers(0, 2**20),
    st.integers(0, 2**20),
)
def test_two_bases_differ_by_the_relocated_words_alone(
    machine: str, table: list[tuple[int, int]], first: int, second: int
) -> None:
    addresses = {0x2010 + 8 * index: addend for index, addend in table}
    file = build(
        TEXT,
        DATA,
        machine=machine,
        relocations=[(a, RELATIVE[machine], addend) for a, addend in addresses.items()],
        tables_at=0x4000,
    )
    image = parse_image("g", file)
    contents = []
    for base in (first * 0x1000, second * 0x1000):
        ram = Ram("vm", SIZE)
        assert place(image, ram, base) == base
        contents.append(ram.read(0, SIZE))
        ram.close()
    words = [struct.unpack(f"<{SIZE // 8}Q", content) for content in contents]
    for index, (one, other) in enumerate(zip(*words, strict=True)):
        addend = addresses.get(0x1000 + index * 8)
        if addend is None:
            assert one == other
        else:
            assert one == (first * 0x1000 + addend - 0x1000) % 2**64
            assert (other - one) % 2**64 == (second - first) * 0x1000 % 2**64


@pytest.mark.parametrize("which", sorted(VALID))
def test_the_seeds_are_valid(which: str) -> None:
    image = parsed(VALID[which])
    assert image is not None
    assert (boot_problem(image) is None) is (which != "fixed")
    assert DYN.size == 16
