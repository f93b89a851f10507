"""Guest images: what a file is, what it needs, and how it gets into a VM's RAM.

    image = read_image("service.elf")
    ram = Ram("service", 2 << 20)
    entry = place(image, ram, 0x40000000)   # PC of vCPU 0, MMU off

Two kinds boot: a flat file with the arm64 Linux header or its like for x86-64 (`linux`), and a
static ELF64 (`elf`); any other file does where the user says so (`raw_image`).  This file detects the format and places what its parser returns.  Parsing copies
nothing and writes nothing; `place` checks everything before its first write.  Memory use and time are
bounded by the file's size, whatever its headers say.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hfsched.memory import linux
from hfsched.memory.imagetypes import Image, Segment, refuse
from hfsched.memory.ram import PAGE_SIZE

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram

__all__ = [
    "MAX_FILE",
    "NOTHING_KNOWN",
    "boot_problem",
    "check_kind",
    "is_image",
    "kind_of",
    "looks_like",
    "parse_image",
    "place",
    "raw_image",
    "read_bytes",
    "read_head",
    "read_image",
]

MAX_FILE = 1 << 30
"""The largest image file that is read, in bytes."""

_CHUNK = 1 << 20
NOTHING_KNOWN = "nothing known"  # how `looks_like` begins where it has no better word
_HEAD = 4096  # bytes, which have every magic number
_WORD = 0xFFFF_FFFF_FFFF_FFFF

# The relocation types that `place` handles: base + addend, and none.
_RELATIVE = {"aarch64": 1027, "x86_64": 8}
_HARMLESS = frozenset(
    {"R_AARCH64_NONE", "R_AARCH64_RELATIVE", "R_X86_64_NONE", "R_X86_64_RELATIVE"}
)

# The flat images: the magic at byte 56 of their header, the kind, and what a user calls it.
_FLAT = {
    b"ARM\x64": ("linux-raw", "an arm64 Linux image"),
    b"HFX\x64": ("hfx-raw", "an x86-64 flat image"),
}

# How well-known files begin, and what to do to boot one.
_FIRST_BYTES = (
    (b"\x1f\x8b", "gzip data: gunzip it first"),
    (b"\x28\xb5\x2f\xfd", "zstd data: decompress it first"),
    (b"\xfd7zXZ\0", "xz data: decompress it first"),
    (b"\x02\x21\x4c\x18", "lz4 data: decompress it first"),
    (b"\x04\x22\x4d\x18", "lz4 data: decompress it first"),
    (b"BZh", "bzip2 data: decompress it first"),
    (b"\xd0\x0d\xfe\xed", "a flattened device tree, or a FIT image"),
    (b"\x27\x05\x19\x56", "a U-Boot uImage: boot what is in it"),
    (b"#!", "a script"),
    (b"!<arch>\n", "an archive of object files: link it first"),
    (b"BC\xc0\xde", "LLVM bitcode: compile it first"),
    (b"PK\x03\x04", "a zip archive"),
    (b"ANDROID!", "an Android boot image: boot the kernel in it"),
    (b"QFI\xfb", "a qcow2 disk image"),
    (b"070701", "a cpio archive (an initramfs)"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file"),
)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of the regular file at `path`.

    Raises ImageError for anything else there, for what cannot be read, and above `MAX_FILE`.
    """
    with _opened(path) as (name, descriptor):
        return _read(name, descriptor)


def read_head(path: str | os.PathLike[str]) -> tuple[bytes, int]:
    """Return how a regular file begins, enough to know its kind, and its size; raises as `read_bytes`."""
    with _opened(path) as (name, descriptor):
        size = _size(name, descriptor)
        return os.read(descriptor, _HEAD), size


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[str, int]]:
    """Open a file; what fails inside is an ImageError, too."""
    name = os.fspath(path)
    try:
        # O_NONBLOCK: opening a FIFO must not wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            yield name, descriptor
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise refuse(name, f"cannot be read: {reason}") from None


def _size(name: str, descriptor: int) -> int:
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise refuse(name, "a directory: it must be a regular file")
    if not stat.S_ISREG(status.st_mode):
        raise refuse(name, "not a regular file: it must be one")
    if status.st_size > MAX_FILE:
        raise refuse(name, f"{status.st_size} bytes: at most {MAX_FILE}")
    return status.st_size


def _read(name: str, descriptor: int) -> bytes:
    size = _size(name, descriptor)
    # One byte more than the size, to detect a file that grows.  Usually one part, not copied.
    parts: list[bytes] = []
    wanted = size + 1
    while part := os.read(descriptor, wanted):
        parts.append(part)
        wanted -= len(part)
    if wanted != 1:
        raise refuse(name, "changed while it was read: try again")
    return b"".join(parts)


def read_image(path: str | os.PathLike[str]) -> Image:
    """Read and parse the image at `path`.  Raises ImageError, one line that names the file.

    A file that is none is not read to its end, which may be far away.
    """
    head, size = read_head(path)
    check_kind(os.fspath(path), head, size)
    return parse_image(os.fspath(path), read_bytes(path))


def kind_of(data: bytes) -> str:
    """Return "elf64", "linux-raw", "hfx-raw" or "unknown", by the magic numbers alone."""
    if data[:5] == b"\x7fELF\x02":
        return "elf64"
    kind, _ = _FLAT.get(data[56:60], ("unknown", ""))
    return kind


def looks_like(data: bytes) -> str:
    """Describe in a few words what a file that begins with `data` seems to be."""
    if not data:
        return "an empty file"
    if data[:4] == b"\x7fELF":
        bits = {1: "32-bit ", 2: "64-bit "}.get(data[4] if len(data) > 4 else 0, "")
        order = {1: "little-endian ", 2: "big-endian "}.get(data[5] if len(data) > 5 else 0, "")
        return f"{'a' if bits + order else 'an'} {bits}{order}ELF file"
    if data[56:60] in _FLAT:
        return _FLAT[data[56:60]][1]
    for magic, what in _FIRST_BYTES:
        if data.startswith(magic):
            return what
    if data[56:60] == b"RSC\x05":
        return "a RISC-V Linux image"
    if data[0x202:0x206] == b"HdrS":
        return "an x86 Linux bzImage: boot the vmlinux in it"
    if data[:2] == b"MZ":
        return "a PE/EFI executable"
    if data[510:512] == b"\x55\xaa":
        return "an x86 boot sector"
    if not any(data[:4096]):
        return "zeros"
    if _is_text(data):
        return "text"
    return f"{NOTHING_KNOWN}, first bytes {data[:8].hex(' ')}"


def _is_text(data: bytes) -> bool:
    """Return whether bytes are UTF-8, which may be cut in a character, and what a text has."""
    text = data[:4096].decode("utf-8", "replace")
    return all(c.isprintable() or c in "\t\n\r\f" for c in text) and "\ufffd" not in text[:-1]


def parse_image(name: str, data: bytes) -> Image:
    """Parse the file content `data`; `name` is for messages.

    Raises ImageError for what is malformed or unknown.  What is well-formed and yet would not boot
    is returned: see `boot_problem`.  The segments look into `data`.
    """
    check_kind(name, data, len(data))
    if data[:4] == b"\x7fELF":
        from hfsched.memory import elf  # noqa: PLC0415 - only ELF images need it

        return elf.parse(name, data)
    return linux.parse(name, data, kind_of(data))


def is_image(head: bytes) -> bool:
    """Return whether a file that begins so is to be parsed: an ELF file of any class, or a flat image."""
    return head[:4] == b"\x7fELF" or kind_of(head) != "unknown"


def check_kind(name: str, head: bytes, size: int) -> None:
    """Raise ImageError for a file of `size` bytes that begins with `head` and is no image."""
    if not is_image(head):
        raise refuse(
            name,
            "neither an arm64 Linux image, an x86-64 flat image nor an ELF64 file"
            f" ({size} bytes): {looks_like(head)}",
        )


def raw_image(name: str, data: bytes, machine: str) -> Image:
    """Return any file as an image: it is loaded as it is, and entered at its first byte.

    Raises ImageError for an empty file.
    """
    if not data:
        raise refuse(name, "an empty file")
    segment = Segment(0, memoryview(data), len(data), "rwx")
    return Image(
        name=name,
        kind="raw",
        machine=machine,
        segments=(segment,),
        entry=0,
        fixed_base=None,
        memory_size=len(data),
        alignment=PAGE_SIZE,
    )


def boot_problem(image: Image) -> str | None:
    """Return on one line why `image` would not boot, None when it would."""
    if image.defect is not None:
        return image.defect
    for kind, count in image.relocations:
        if kind not in _HARMLESS:
            return f"relocation {kind} ({count} times) is not supported: link with -static-pie"
    if not any(
        "x" in segment.permissions and 0 <= image.entry - segment.address < len(segment.data)
        for segment in image.segments
    ):
        return f"the entry {image.entry:#x} is in no executable segment"
    if image.machine == "aarch64" and image.entry % 4:
        return f"the entry {image.entry:#x} is not a multiple of 4"
    return None


def place(image: Image, ram: Ram, base: int, *, fresh: bool = False) -> int:
    """Write `image` into `ram`, whose first byte is at IPA `base`; return the entry's IPA.

    A position-independent image goes to the start of the RAM and is relocated (ELF gABI: base plus
    addend, the addend from the table, so that an image may do the same again by itself).  A fixed
    one goes where it wants.  Memory that no segment claims stays as it is.  `fresh`: nothing was ever
    written to the RAM, and its zeros need not be, which would take memory.  Raises ImageError, with
    nothing written, when the image would not boot or does not fit.
    """
    if problem := boot_problem(image):
        raise refuse(image.name, problem)
    if base < 0 or base % PAGE_SIZE:
        raise refuse(image.name, f"base {base:#x} is not a multiple of {PAGE_SIZE}")
    origin = 0 if image.fixed_base is None else base
    for segment in image.segments:
        offset = segment.address - origin
        if offset < 0 or offset + segment.memory_size > ram.size:
            where = "" if image.fixed_base is None else f" at {image.fixed_base:#x}"
            raise refuse(
                image.name,
                f"needs {image.memory_size:#x} bytes{where}, the VM has {ram.size:#x} at {base:#x}",
            )
    for segment in image.segments:
        offset = segment.address - origin
        size = len(segment.data)
        for start in range(0, size, _CHUNK):
            ram.write(offset + start, bytes(segment.data[start : start + _CHUNK]))
        if not fresh:
            ram.zero(offset + size, segment.memory_size - size)
    relative = _RELATIVE[image.machine]
    for table in image.rela:
        for address, info, addend in struct.iter_unpack("<QQQ", table):
            if info & 0xFFFF_FFFF == relative:
                value = (base + addend - image.link_base) & _WORD
                ram.write(address - image.link_base, value.to_bytes(8, "little"))
    return image.entry if image.fixed_base is not None else base + image.entry
