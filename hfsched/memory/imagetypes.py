"""What a parsed image is, and the limits and errors that the parsers share."""

from __future__ import annotations

from msgspec import Struct

from hfsched.errors import ImageError
from hfsched.text import printable

__all__ = ["MAX_MEMORY", "Image", "Segment", "refuse"]

MAX_MEMORY = 1 << 40
"""The most memory that an image may ask for, in bytes: a 40-bit IPA space."""


class Segment(Struct, frozen=True):
    """One stretch of memory that an image fills.

    `address` is an offset in bytes from the base when the image is position independent, an IPA
    when it is fixed.  `data` goes there; zeros follow up to `memory_size` bytes.  `permissions`
    is some of the letters of "rwx", in that order.
    """

    address: int
    data: memoryview
    memory_size: int
    permissions: str


class Image(Struct, frozen=True):
    """A parsed image.  Its segments are sorted and do not overlap.

    `kind` is "linux-raw" (arm64), "hfx-raw" (x86-64), "elf64" or "raw" (any file), `machine` "aarch64" or "x86_64".
    `fixed_base` is None for a position-independent image, which may be placed at any page, else the
    IPA of its first page.
    `entry` follows the same convention as a segment's address.  `memory_size` is the bytes from
    the base to the end of the last segment, zeroed memory included.  `relocations` are pairs
    (type, count).  `text_offset` is what a flat image's header says (0 for an ELF) and informs only.
    `alignment` is the one that the file asks for; `place` insists on a page alone.
    """

    name: str
    kind: str
    machine: str
    segments: tuple[Segment, ...]
    entry: int
    fixed_base: int | None
    memory_size: int
    alignment: int
    text_offset: int = 0
    relocations: tuple[tuple[str, int], ...] = ()
    # Elf64_Rela tables as they are in the file, and the address that means the base in them.
    rela: tuple[memoryview, ...] = ()
    link_base: int = 0
    # What makes a well-formed image unbootable, where its parser knows.
    defect: str | None = None


def refuse(name: str, why: str) -> ImageError:
    """Return the error that names the file `name` and gives the reason, on one line."""
    return ImageError(printable(f"{name}: {why}"))
