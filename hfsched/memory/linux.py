"""Raw images with the arm64 Linux header (Linux, Documentation/arch/arm64/booting).

Hafnium's own guests carry it too.  The header's `text_offset` informs only: as Hafnium does, the
whole file goes to the start of the VM's memory and is entered at its first byte.
"""

from __future__ import annotations

import struct

from hfsched.memory.image import MAX_MEMORY, Image, Segment, refuse
from hfsched.memory.ram import PAGE_SIZE

__all__ = ["HEADER", "parse"]

# code0, code1, text_offset, image_size, flags, three reserved, magic, reserved (the PE header).
HEADER = struct.Struct("<IIQQQQQQ4sI")

_BIG_ENDIAN = 1 << 0
_TWO_MIB = 2 << 20


def parse(name: str, data: bytes) -> Image:
    """Return the image that `data`, with the magic "ARMd" at byte 56, describes.

    An `image_size` that is 0 (kernels before 3.17) or less than the file counts as the file's
    size; what it has beyond is memory that starts as zeros.  Raises ImageError.
    """
    if len(data) < HEADER.size:
        raise refuse(
            name, f"truncated: {len(data)} bytes, the arm64 Linux header has {HEADER.size}"
        )
    _, _, text_offset, image_size, flags, *_ = HEADER.unpack_from(data)
    if image_size > MAX_MEMORY:
        raise refuse(
            name, f"image_size {image_size:#x} in its header is above the limit {MAX_MEMORY:#x}"
        )
    size = max(image_size, len(data))
    return Image(
        name=name,
        kind="linux-raw",
        machine="aarch64",
        segments=(Segment(0, memoryview(data), size, "rwx"),),
        entry=0,
        fixed_base=None,
        memory_size=size,
        # The header asks for text_offset bytes past a 2 MiB boundary.  At the start of a region
        # only an offset of 0 can have that; the others are Hafnium's guests, content with a page.
        alignment=PAGE_SIZE if text_offset else _TWO_MIB,
        text_offset=text_offset,
        defect="a big-endian kernel: vCPUs start little-endian" if flags & _BIG_ENDIAN else None,
    )
