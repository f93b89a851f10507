"""ELF files that are well formed and are no guests: debug files, and programs of an operating system.

Only what is certain is reported; what cannot be read is passed over, for whether a file is well formed
is `hfsched.memory.elf`'s concern.  Sources: the System V gABI, chapter 4 (sections, notes); LSB 5.0
(the ABI tag); the psABI supplements of AArch64 and x86-64 (what a process finds on its stack).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from msgspec import Struct

__all__ = ["not_a_guest"]

_SECTIONS_MAX = 4096
_NOTES_MAX = 64
_SHDR = struct.Struct("<IIQQQQIIQQ")
_STRTAB, _NOTE, _NOBITS = 3, 7, 8
_EXECINSTR = 4
# Notes that a linker writes into programs of an operating system, by owner; of GNU's, that of type 1.
_ABI_TAG = 1
_OWNERS = {
    b"Go": "Go",
    b"FreeBSD": "FreeBSD",
    b"NetBSD": "NetBSD",
    b"OpenBSD": "OpenBSD",
    b"Android": "Android",
}
_GNU_SYSTEMS = {0: "Linux", 1: "the Hurd", 2: "Solaris", 3: "FreeBSD"}
_ENTRY_BYTES = 32


class _Section(Struct, frozen=True):
    type: int
    flags: int
    address: int
    offset: int
    size: int


def not_a_guest(data: bytes, machine: str, entry: int, code: bytes) -> str | None:
    """Return on one line why an ELF64 file is no guest, None where nothing says so.

    `entry` is its e_entry, `code` begins with the bytes there.
    """
    sections = list(_sections(data))
    for section in sections:
        if (
            section.type == _NOBITS
            and section.flags & _EXECINSTR
            and section.address <= entry < section.address + section.size
        ):
            return (
                "its code is not in the file, as in a file of debugging information alone: boot"
                " the file that it was made from"
            )
    system = _system(data, sections)
    if system is None and _begins_as_process(machine, code):
        system = "an operating system"
    if system is None:
        return None
    return f"a program for {system}, which makes system calls: a guest runs on the bare machine"


def _sections(data: bytes) -> Iterator[_Section]:
    offset, size, count = struct.unpack_from("<Q10xHH", data, 40)
    if size != _SHDR.size or count > _SECTIONS_MAX or offset + count * size > len(data):
        return
    for index in range(count):
        _, kind, flags, address, start, length, *_ = _SHDR.unpack_from(data, offset + index * size)
        yield _Section(kind, flags, address, start, length)


def _system(data: bytes, sections: list[_Section]) -> str | None:
    """Return the operating system that notes or a C library's symbols tell."""
    for section in sections:
        if section.offset + section.size > len(data):
            continue
        content = memoryview(data)[section.offset : section.offset + section.size]
        if section.type == _NOTE:
            found = _of_notes(content)
            if found is not None:
                return found
        elif section.type == _STRTAB and b"\0__libc_start_main\0" in bytes(content):
            return "an operating system (it has a C library's start)"
    return None


def _of_notes(content: memoryview) -> str | None:
    at = 0
    for _ in range(_NOTES_MAX):
        if at + 12 > len(content):
            return None
        name_size, size, kind = struct.unpack_from("<III", content, at)
        if max(name_size, size) > len(content):
            return None
        name = bytes(content[at + 12 : at + 12 + name_size]).rstrip(b"\0")
        at += 12 + (name_size + 3 & -4)
        if name in _OWNERS:
            return _OWNERS[name]
        if name == b"GNU" and kind == _ABI_TAG and size >= 4 and at + 4 <= len(content):
            number = int.from_bytes(content[at : at + 4], "little")
            return _GNU_SYSTEMS.get(number, "an operating system")
        at += size + 3 & -4
    return None


def _begins_as_process(machine: str, code: bytes) -> bool:
    """Return whether the first instructions end the chain of frames and read the stack, not set it.

    A process finds its arguments there; a guest has no stack yet.
    """
    first = code[:_ENTRY_BYTES]
    if machine == "x86_64":
        start = first.removeprefix(b"\xf3\x0f\x1e\xfa")  # endbr64
        for cleared in (b"\x31\xed", b"\x48\x31\xed"):  # xor ebp, ebp; xor rbp, rbp
            if start.startswith(cleared):
                rest = start[len(cleared) :]
                # mov rdi, rsp; or mov r9, rdx; pop rsi
                return rest.startswith((b"\x48\x89\xe7", b"\x49\x89\xd1\x5e"))
        return False
    cleared_frame = cleared_link = False
    for (word,) in struct.iter_unpack("<I", first[: len(first) & -4]):
        if word == 0xD280001D:  # mov x29, #0
            cleared_frame = True
        elif word == 0xD280001E:  # mov x30, #0
            cleared_link = True
        elif word & 0xFFFFFC1F == 0x9100001F:  # mov sp, xN
            return False
        elif word & 0xFFFFFFE0 == 0x910003E0 or word & 0xFFC003E0 == 0xF94003E0:
            return cleared_frame and cleared_link  # mov xN, sp; ldr xN, [sp, ...]
    return False
