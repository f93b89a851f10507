"""liblz4 and libzstd, loaded when first asked for; their calls release the interpreter lock.

Sources: lz4frame.h of 1.7.3 and later, lz4_Frame_format.md 1.6.x; zstd.h of 1.4.0 and later, RFC 8878.
Both interfaces are stable ones, used without their headers.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Protocol

from hfsched.errors import InternalError

__all__ = ["CODECS", "FrameError", "Library", "load", "problem"]

_LZ4F_VERSION = 100
_LZ4F_MAX_256_KIB = 5  # one block a frame
_LZ4F_INDEPENDENT = 1
_LZ4_HEAD = 15  # bytes: magic, FLG, BD, content size, header checksum
# Version 1, independent blocks, content size and checksum, no dictionary; blocks of 64 or 256 KiB.
_LZ4_MARKS = (b"\x04\x22\x4d\x18\x6c\x40", b"\x04\x22\x4d\x18\x6c\x50")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_CHECKED = 4  # a bit of the frame header descriptor, the byte after the magic
_ZSTD_LEVEL = 100
_ZSTD_CHECKSUM = 201
_ZSTD_FASTEST = 1


class FrameError(ValueError):
    """A frame that does not hold what it must; the text is what is wrong."""


class Library(Protocol):
    """One compressor.  Addresses are of memory that the caller keeps; every size is in bytes."""

    name: str

    def bound(self, size: int) -> int:
        """Return the room that compressing `size` bytes needs."""
        ...

    def compress(self, source: int, size: int, target: int, room: int) -> int:
        """Make one frame with a checksum; return its size."""
        ...

    def expand(self, stored: bytes, target: int, size: int) -> None:
        """Expand one frame into exactly `size` bytes; raises FrameError."""
        ...


class _FrameInfo(ctypes.Structure):
    _fields_ = (
        ("block_size", ctypes.c_uint),
        ("block_mode", ctypes.c_uint),
        ("content_checksum", ctypes.c_uint),
        ("frame_type", ctypes.c_uint),
        ("content_size", ctypes.c_ulonglong),
        ("dictionary", ctypes.c_uint),
        ("block_checksum", ctypes.c_uint),
    )


class _Preferences(ctypes.Structure):
    _fields_ = (
        ("info", _FrameInfo),
        ("level", ctypes.c_int),
        ("auto_flush", ctypes.c_uint),
        ("favour_decoding", ctypes.c_uint),
        ("reserved", ctypes.c_uint * 3),
    )


def _function(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> Any:
    found = getattr(library, name)
    found.restype, found.argtypes = result, arguments
    return found


class _Contexts:
    """Contexts of a library that nobody uses: making one costs more than a frame."""

    def __init__(self, make: Any) -> None:
        self._make = make
        self._idle: list[Any] = []

    def take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._make()

    def give(self, context: Any) -> None:
        self._idle.append(context)


class Lz4:
    """LZ4 frames of one block, with the content's size and checksum (xxh32)."""

    name = "lz4"

    def __init__(self, library: ctypes.CDLL) -> None:
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        sizes = ctypes.POINTER(size)
        self._is_error = _function(library, "LZ4F_isError", ctypes.c_uint, size)
        self._name_of = _function(library, "LZ4F_getErrorName", ctypes.c_char_p, size)
        self._bound = _function(library, "LZ4F_compressFrameBound", size, size, pointer)
        self._compress = _function(
            library, "LZ4F_compressFrame", size, pointer, size, pointer, size, pointer
        )
        self._create = _function(
            library, "LZ4F_createDecompressionContext", size, pointer, ctypes.c_uint
        )
        self._reset = _function(library, "LZ4F_resetDecompressionContext", None, pointer)
        self._expand = _function(
            library, "LZ4F_decompress", size, pointer, pointer, sizes, pointer, sizes, pointer
        )
        self._contexts = _Contexts(self._context)

    def _preferences(self, size: int) -> _Preferences:
        info = _FrameInfo(_LZ4F_MAX_256_KIB, _LZ4F_INDEPENDENT, 1, 0, size, 0, 0)
        return _Preferences(info, 0, 1)

    def _context(self) -> ctypes.c_void_p:
        made = ctypes.c_void_p()
        if self._is_error(self._create(ctypes.byref(made), _LZ4F_VERSION)):
            raise MemoryError
        return made

    def bound(self, size: int) -> int:
        """See `Library.bound`."""
        return int(self._bound(size, ctypes.byref(self._preferences(size))))

    def compress(self, source: int, size: int, target: int, room: int) -> int:
        """See `Library.compress`."""
        preferences = ctypes.byref(self._preferences(size))
        made = self._compress(target, room, source, size, preferences)
        if self._is_error(made):
            raise InternalError(f"lz4: {self._name_of(made).decode()}")
        return int(made)

    def expand(self, stored: bytes, target: int, size: int) -> None:
        """See `Library.expand`; the header is checked first, since it says how much is allocated."""
        if len(stored) < _LZ4_HEAD or not stored.startswith(_LZ4_MARKS):
            raise FrameError("no lz4 frame of this format")
        if int.from_bytes(stored[6:14], "little") != size:
            raise FrameError("an lz4 frame of another size")
        context = self._contexts.take()
        made, used = ctypes.c_size_t(size), ctypes.c_size_t(len(stored))
        left = self._expand(context, target, ctypes.byref(made), stored, ctypes.byref(used), None)
        if left:
            self._reset(context)
        self._contexts.give(context)
        if self._is_error(left):
            raise FrameError(f"lz4: {self._name_of(left).decode()}")
        if left or made.value != size or used.value != len(stored):
            raise FrameError("an lz4 frame that does not end where it must")


class Zstd:
    """Zstandard frames, with the content's size and checksum (xxh64)."""

    name = "zstd"

    def __init__(self, library: ctypes.CDLL) -> None:
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._is_error = _function(library, "ZSTD_isError", ctypes.c_uint, size)
        self._name_of = _function(library, "ZSTD_getErrorName", ctypes.c_char_p, size)
        self._bound = _function(library, "ZSTD_compressBound", size, size)
        self._make = _function(library, "ZSTD_createCCtx", pointer)
        self._set = _function(
            library, "ZSTD_CCtx_setParameter", size, pointer, ctypes.c_int, ctypes.c_int
        )
        self._compress = _function(
            library, "ZSTD_compress2", size, pointer, pointer, size, pointer, size
        )
        self._size_of = _function(
            library, "ZSTD_getFrameContentSize", ctypes.c_ulonglong, pointer, size
        )
        self._make_reader = _function(library, "ZSTD_createDCtx", pointer)
        self._expand = _function(
            library, "ZSTD_decompressDCtx", size, pointer, pointer, size, pointer, size
        )
        self._writers = _Contexts(self._writer)
        self._readers = _Contexts(self._reader)

    def _writer(self) -> int:
        made = self._make()
        if not made:
            raise MemoryError
        for name, value in ((_ZSTD_LEVEL, _ZSTD_FASTEST), (_ZSTD_CHECKSUM, 1)):
            if self._is_error(self._set(made, name, value)):
                raise InternalError(f"zstd: parameter {name} is not known")
        return int(made)

    def _reader(self) -> int:
        made = self._make_reader()
        if not made:
            raise MemoryError
        return int(made)

    def bound(self, size: int) -> int:
        """See `Library.bound`."""
        return int(self._bound(size))

    def compress(self, source: int, size: int, target: int, room: int) -> int:
        """See `Library.compress`."""
        context = self._writers.take()
        made = self._compress(context, target, room, source, size)
        self._writers.give(context)
        if self._is_error(made):
            raise InternalError(f"zstd: {self._name_of(made).decode()}")
        return int(made)

    def expand(self, stored: bytes, target: int, size: int) -> None:
        """See `Library.expand`; older formats, which the library may know too, are refused."""
        if len(stored) < 6 or not stored.startswith(_ZSTD_MAGIC) or not stored[4] & _ZSTD_CHECKED:
            raise FrameError("no zstd frame of this format")
        if self._size_of(stored, len(stored)) != size:
            raise FrameError("a zstd frame of another size")
        context = self._readers.take()
        made = self._expand(context, target, size, stored, len(stored))
        self._readers.give(context)
        if self._is_error(made):
            raise FrameError(f"zstd: {self._name_of(made).decode()}")
        if made != size:
            raise FrameError("a zstd frame that does not end where it must")


# name: file, Debian's package, class
CODECS: dict[str, tuple[str, str, type[Lz4 | Zstd]]] = {
    "lz4": ("liblz4.so.1", "liblz4-1", Lz4),
    "zstd": ("libzstd.so.1", "libzstd1", Zstd),
}


@cache
def load(name: str) -> Library | None:
    """Return a compressor of `CODECS`, None where its library is not there; the first call opens it."""
    file, _, kind = CODECS[name]
    try:
        return kind(ctypes.CDLL(file))
    except (OSError, AttributeError):
        return None


def problem(name: str) -> str | None:
    """Return in a line why there is no such compressor, and the remedy; None: there is."""
    file, package, _ = CODECS[name]
    return None if load(name) else f"{file} is not installed: apt-get install {package}"
