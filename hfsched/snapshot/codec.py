"""Frames: up to 32 pages that are compressed together, or stored as they are where that is smaller.

Each frame has a crc32 of its stored bytes in the layer's index, beside the checksum of the content that
lz4's and zstd's frames carry: it costs a tenth of compressing, finds a frame of another layer in this
one's place, and no decompressor is given bytes that have changed by accident.
"""

from __future__ import annotations

import ctypes
import zlib

from hfsched.errors import InternalError, SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.libraries import CODECS, FrameError, Library, load, problem

__all__ = ["FRAME_PAGES", "FRAME_SIZE", "LZ4", "RAW", "ZSTD", "Decoder", "Encoder", "codec_name"]

FRAME_PAGES = 32
FRAME_SIZE = FRAME_PAGES * PAGE_SIZE
RAW, LZ4, ZSTD = range(3)  # as in the index
_NAMES = ("raw", "lz4", "zstd")


def codec_name(kind: int) -> str:
    """Return a codec's name; of a number that no codec has, the number."""
    return _NAMES[kind] if 0 <= kind < len(_NAMES) else f"codec {kind}"


class Encoder:
    """Makes frames of what is in `frame`, for one thread.

    `codec`: "lz4", "zstd" or "raw".  `warning` says why "raw" is used instead, None: it is not.
    """

    def __init__(self, codec: str = "lz4") -> None:
        if codec not in _NAMES:
            raise SnapshotError(f"no codec {codec!r}: one of {', '.join(_NAMES)}")
        self.frame = bytearray(FRAME_SIZE)
        self._anchor = (ctypes.c_char * FRAME_SIZE).from_buffer(self.frame)
        self._source = ctypes.addressof(self._anchor)
        self._library: Library | None = load(codec) if codec in CODECS else None
        self._kind = _NAMES.index(codec)
        self.warning: str | None = None
        if codec in CODECS and self._library is None:
            self.warning = f"pages are stored uncompressed: {problem(codec)}"
        self.room = FRAME_SIZE if self._library is None else self._library.bound(FRAME_SIZE)

    def encode(self, size: int, target: int, room: int) -> tuple[int, int]:
        """Put a frame of the first `size` bytes of `frame` at an address; return its codec and size.

        `room` there is at least `self.room` bytes.
        """
        if size > FRAME_SIZE or room < self.room:
            raise InternalError(f"a frame of {size} bytes, for which there are {room}")
        if self._library is not None:
            made = self._library.compress(self._source, size, target, room)
            if made < size:
                return self._kind, made
        ctypes.memmove(target, self._source, size)
        return RAW, size


class Decoder:
    """Expands the frames of a layer's file; `name` is the file's, for errors."""

    def __init__(self, name: str) -> None:
        self.name = name

    def decode(self, number: int, kind: int, stored: bytes, crc: int, size: int) -> bytearray:
        """Return the `size` bytes of frame `number`; raises SnapshotError.

        The bytes may be anything: nothing is read or written outside them and the `size` bytes.
        """
        if zlib.crc32(stored) != crc:
            raise self._error(number, "its checksum is wrong: the file is damaged")
        if kind == RAW:
            if len(stored) != size:
                raise self._error(number, f"{len(stored)} bytes instead of {size}")
            return bytearray(stored)
        if kind not in (LZ4, ZSTD):
            raise self._error(number, f"{codec_name(kind)} is not known")
        library = load(_NAMES[kind])
        if library is None:
            raise self._error(number, str(problem(_NAMES[kind])))
        made = bytearray(size)
        anchor = (ctypes.c_char * size).from_buffer(made)
        try:
            library.expand(stored, ctypes.addressof(anchor), size)
        except FrameError as exc:
            raise self._error(number, str(exc)) from None
        finally:
            del anchor
        return made

    def _error(self, number: int, text: str) -> SnapshotError:
        return SnapshotError(f"{self.name}: frame {number}: {text}")
