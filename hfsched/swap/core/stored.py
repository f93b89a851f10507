"""Pages that are in the layers of a snapshot, as the page store gets them: see `frames.h`.

Main makes them, of numbers that it has checked, and keeps their descriptors open; each monitor gets the same
ones.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from contextlib import ExitStack

from hfsched.errors import UserError
from hfsched.memory.ram import sealed_memfd
from hfsched.swap.core.table import DAMAGED_OFFSET, PHASE_OFFSET, SETTLED, entry_offset
from hfsched.swap.pages.entries import Entry, State

__all__ = ["FRAME_PAGES", "LAYERS_MAX", "STORED_STEP", "StoredPages", "stored_entry"]

FRAME_PAGES = 32
LAYERS_MAX = 256
STORED_STEP = 1 << 24  # from the entry of a page to that of the next one in its frame
_HEADER = struct.Struct("<QQ")
_FRAME = struct.Struct("<QIIHBBI")
_WORD = struct.Struct("<Q")


def stored_entry(location: int) -> int:
    """Return the entry of a page at a location: 32 times its frame's number, plus its number there."""
    return Entry(State.STORED, State.STORED, location=location).encode()


class StoredPages:
    """Frames in the files `layers`, which stay the caller's, and the `entries` of all pages.

    `frames` are {offset, stored bytes, crc32, layer, codec, pages}, by their number; `hot` pages are brought
    in first.  `entries` are 8 bytes for each page: `stored_entry`, or 0 for a page that is in memory, or zero.
    Raises UserError if there is no memory or descriptor for it.
    """

    def __init__(
        self,
        layers: Sequence[int],
        frames: Iterable[tuple[int, int, int, int, int, int]],
        entries: bytes,
        hot: Sequence[int] = (),
    ) -> None:
        self.layers = tuple(layers)
        packed = [_FRAME.pack(*frame, 0) for frame in frames]
        data = _HEADER.pack(len(packed), len(hot)) + b"".join(packed)
        data += struct.pack(f"<{len(hot)}Q", *hot)
        with ExitStack() as undo:
            try:
                self.frames = sealed_memfd("hfsched:frames", len(data))
                undo.callback(os.close, self.frames)
                written = os.pwrite(self.frames, data, 0)
                self.alarm = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                undo.callback(os.close, self.alarm)
            except OSError as exc:
                raise UserError(f"swap: the pages of a snapshot: {exc.strerror}") from exc
            if written != len(data):
                raise UserError("swap: the pages of a snapshot: no memory is left")
            undo.pop_all()
        self._entries = entries

    def begin(self, table: int) -> None:
        """Put the entries into a new page table; before its first monitor."""
        os.pwrite(table, self._entries, entry_offset(0))
        os.pwrite(table, SETTLED, PHASE_OFFSET)
        self._entries = b""

    def damaged(self, table: int) -> int | None:
        """Return the last page whose frame a fault could not read; None: there was none."""
        (word,) = _WORD.unpack(os.pread(table, _WORD.size, DAMAGED_OFFSET))
        return int(word) - 1 if word else None

    def close(self) -> None:
        """Close what is its own."""
        os.close(self.frames)
        os.close(self.alarm)
