"""Pages that are in the layers of a snapshot, as the page store gets them: see `frames.h`.

Main makes them, of numbers that it has checked, and keeps their descriptors open; each monitor gets the same
ones.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Sequence
from contextlib import ExitStack

from hfsched.errors import UserError
from hfsched.memory.ram import sealed_memfd
from hfsched.swap.core.device import core
from hfsched.swap.core.guestpages import GivenPages
from hfsched.swap.core.table import DAMAGED_OFFSET, PHASE_OFFSET, SETTLED, CoreTable

__all__ = ["FRAME_PAGES", "StoredPages", "packed_frames"]

FRAME_PAGES = 32  # HFS_FRAME_PAGES
_HEADER = struct.Struct("<QQ")
_WORD = struct.Struct("<Q")
_FRAME_SIZE = 24  # bytes: see `struct hfs_frame`


def packed_frames(
    layer: int, pages: int, offsets: Sequence[int], stored: array[int], checksums: array[int]
) -> bytes:
    """Return the frames of layer number `layer`, which stores so many pages.

    `offsets` are where they begin; `stored` has {codec << 24 | bytes} of each, u32.
    """
    count = len(stored)
    starts = array("I", array("Q", offsets[:count]).tobytes())
    words = array("I", bytes(_FRAME_SIZE * count))
    words[0::6], words[1::6] = starts[0::2], starts[1::2]
    words[2::6], words[3::6] = stored, checksums
    words[4::6] = array("I", [layer]) * count
    words[5::6] = array("I", [FRAME_PAGES]) * count
    if count:
        words[-1] = pages - (count - 1) * FRAME_PAGES
    return words.tobytes()


class StoredPages:
    """Frames in the files `layers`, which stay the caller's, and the runs of pages that are in them.

    `frames` are those of each layer, as `packed_frames` returns them; `hot` pages are brought in first.
    `runs` are {first page, pages, location of the first}, three u64 each; a location is `FRAME_PAGES` times
    a frame's number, plus the page's number there.  All other pages are in memory, or zero.
    Raises UserError if there is no memory or descriptor for it.
    """

    def __init__(
        self,
        layers: Sequence[int],
        frames: Sequence[bytes],
        runs: array[int],
        hot: Sequence[int] = (),
    ) -> None:
        self.layers = tuple(layers)
        packed = b"".join(frames)
        data = _HEADER.pack(len(packed) // _FRAME_SIZE, len(hot)) + packed
        data += struct.pack(f"<{len(hot)}Q", *hot)
        with ExitStack() as undo:
            try:
                self.frames = sealed_memfd("hfsched:frames", len(data))
                undo.callback(os.close, self.frames)
                written = os.pwrite(self.frames, data, 0)
                self.alarm = core().lib.hfs_alarm_open()
                if self.alarm < 0:
                    raise OSError(-self.alarm, os.strerror(-self.alarm))
                undo.callback(os.close, self.alarm)
            except OSError as exc:
                raise UserError(f"swap: the pages of a snapshot: {exc.strerror}") from exc
            if written != len(data):
                raise UserError("swap: the pages of a snapshot: no memory is left")
            undo.pop_all()
        self._runs = runs

    @property
    def given(self) -> GivenPages:
        """What other objects read them by."""
        return GivenPages(self.frames, self.alarm, self.layers)

    def begin(self, fd: int, pages: int) -> None:
        """Note them in a new page table; before its first monitor."""
        table = CoreTable(fd, pages)
        try:
            table.store(self._runs)
        finally:
            table.close()
        os.pwrite(fd, SETTLED, PHASE_OFFSET)
        self._runs = array("Q")

    def damaged(self, table: int) -> int | None:
        """Return the last page whose frame a fault could not read; None: there was none."""
        (word,) = _WORD.unpack(os.pread(table, _WORD.size, DAMAGED_OFFSET))
        return int(word) - 1 if word else None

    def close(self) -> None:
        """Close what is its own."""
        os.close(self.frames)
        os.close(self.alarm)
