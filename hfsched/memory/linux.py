"""Flat images with a 64-byte header: the arm64 Linux one, and the same for x86-64.

Source: Linux, Documentation/arch/arm64/booting; `docs/x86-abi.md` for the other, which differs in
the magic alone.  Hafnium's own guests carry the first too.  The header's `text_offset` informs
only: as Hafnium does, the whole file goes to the start of the VM's memory and is entered at its
first byte.
"""

from __future__ import annotations

import struct

from hfsched.memory.imagetypes import MAX_MEMORY, Image, Segment, refuse
from hfsched.memory.ram import PAGE_SIZE

__all__ = ["HEADER", "parse"]

# code0, code1, text_offset, image_size, flags, three reserved, magic, reserved (the PE header).
HEADER = struct.Struct("<IIQQQQQQ4sI")

_BIG_ENDIAN = 1 << 0
_TWO_MIB = 2 << 20


def parse(name: str, data: bytes, kind: str = "linux-raw") -> Image:
    """Return the image that `data`, of the `kind` that its magic says, describes.

    An `image_size` that is 0 (kernels before 3.17) or less than the file counts as the file's
    size; what it has beyond is memory that starts as zeros.  Raises ImageError.
    """
    linux = kind == "linux-raw"
    if len(data) < HEADER.size:
        header = "the arm64 Linux header" if linux else "an x86-64 flat image's header"
        raise refuse(name, f"truncated: {len(data)} bytes, {header} has {HEADER.size}")
    _, _, text_offset, image_size, flags, *_ = HEADER.unpack_from(data)
    if image_size > MAX_MEMORY:
        raise refuse(
            name, f"image_size {image_size:#x} in its header is above the limit {MAX_MEMORY:#x}"
        )
    size = max(image_size, len(data))
    return Image(
        name=name,
        kind=kind,
        machine="aarch64" if linux else "x86_64",
        segments=(Segment(0, memoryview(data), size, "rwx"),),
        entry=0,
        fixed_base=None,
        memory_size=size,
        # The header asks for text_offset bytes past a 2 MiB boundary.  At the start of a region
        # only an offset of 0 can have that; the others are Hafnium's guests, which need a page only.
        alignment=_TWO_MIB if linux and not text_offset else PAGE_SIZE,
        text_offset=text_offset,
        defect="a big-endian kernel: vCPUs start little-endian" if flags & _BIG_ENDIAN else None,
    )
