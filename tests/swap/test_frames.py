"""Frames of a snapshot, as the C core reads them, beside the reader in Python: the same bytes, or refused by both."""

from __future__ import annotations

import ctypes
import os
import zlib
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.codec import FRAME_SIZE, Decoder, Encoder
from hfsched.swap.core import device
from hfsched.swap.core.device import core
from hfsched.swap.core.guestpages import GuestPages, Region
from hfsched.swap.core.stored import StoredPages, packed_frames
from hfsched.swap.core.stores import Stores
from hfsched.swap.pages.entries import Staging

pytestmark = pytest.mark.skipif(device.problem() is not None, reason=f"no swap: {device.problem()}")
CODECS = ("raw", "lz4", "zstd")


class Reader:
    """The C core's reader of one layer with one frame, whatever bytes that has."""

    def __init__(self, fd: int | None = None) -> None:
        loaded = core()
        self._lib, self._ffi = loaded.lib, loaded.ffi
        self._fd = os.memfd_create("layer") if fd is None else fd
        self._layers = self._ffi.new("int[]", [self._fd])

    def read(self, kind: int, stored: bytes, crc: int, pages: int) -> bytes | None:
        """Write a frame, and return its pages, None if it is refused."""
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, stored, 0)
        return self.again(kind, stored, crc, pages)

    def again(self, kind: int, stored: bytes, crc: int, pages: int) -> bytes | None:
        """Return the pages of a frame that is there, or not."""
        word = array("I", [kind << 24 | len(stored)])
        frames = packed_frames(0, pages, [0], word, array("I", [crc]))
        with closing(StoredPages([self._fd], [frames], array("Q"))) as given:
            made: Any = self._ffi.new("struct hfs_frames *")
            reader: Any = self._ffi.new("struct hfs_frame_reader *")
            if self._lib.hfs_frames_open(made, given.frames, self._layers, 1, 1):
                return None
            try:
                assert self._lib.hfs_reader_open(reader) == 0
                found = self._lib.hfs_stored_page(made, reader, 0)
                beyond = self._lib.hfs_stored_page(made, reader, pages)
                assert beyond == self._ffi.NULL
                if found == self._ffi.NULL:
                    return None
                return bytes(self._ffi.buffer(found, pages * PAGE_SIZE))
            finally:
                self._lib.hfs_reader_close(reader)
                self._lib.hfs_frames_close(made)

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with closing(Reader()) as made:
        yield made


def encoded(codec: str, data: bytes) -> tuple[int, bytes]:
    """Return {codec, stored bytes} of a frame."""
    encoder = Encoder(codec)
    if encoder.warning is not None:
        pytest.skip(encoder.warning)
    encoder.frame[: len(data)] = data
    out = ctypes.create_string_buffer(encoder.room)
    kind, size = encoder.encode(len(data), ctypes.addressof(out), encoder.room)
    return kind, out.raw[:size]


def decoded(kind: int, stored: bytes, crc: int, pages: int) -> bytes | None:
    try:
        return bytes(Decoder("layer").decode(0, kind, stored, crc, pages * PAGE_SIZE))
    except SnapshotError:
        return None


contents = st.integers(1, 32).flatmap(
    lambda pages: st.binary(min_size=1, max_size=400).map(
        lambda part: (part * (pages * PAGE_SIZE // len(part) + 1))[: pages * PAGE_SIZE]
    )
)


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=60, deadline=None)
@given(data=contents)
def test_what_was_written_is_read(reader: Reader, codec: str, data: bytes) -> None:
    kind, stored = encoded(codec, data)
    pages = len(data) // PAGE_SIZE
    assert reader.read(kind, stored, zlib.crc32(stored), pages) == data


@pytest.mark.parametrize("codec", CODECS)
@settings(max_examples=300, deadline=None)
@given(
    data=contents,
    changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), max_size=6),
    cut=st.integers(0, 40),
    longer=st.binary(max_size=8),
    pages=st.integers(-1, 1),
)
def test_bytes_that_somebody_has_made_are_read_as_python_reads_them_or_refused(
    reader: Reader,
    codec: str,
    data: bytes,
    changes: list[tuple[int, int]],
    cut: int,
    longer: bytes,
    pages: int,
) -> None:
    """Their checksum is right: the decompressors see them."""
    kind, stored = encoded(codec, data)
    made = bytearray(stored[: max(1, len(stored) - cut)] + longer)
    for at, byte in changes:
        made[at % min(len(made), 64)] = byte  # of the header, and what follows it
    made = made[:FRAME_SIZE]
    count = max(1, min(32, len(data) // PAGE_SIZE + pages))
    found = reader.read(kind, bytes(made), zlib.crc32(made), count)
    expected = decoded(kind, bytes(made), zlib.crc32(made), count)
    assert found is None or expected is None or found == expected
    if expected is not None:  # what only the content's checksum finds is read by the core alone
        assert found == expected


@pytest.mark.parametrize("codec", CODECS)
def test_each_bit_that_changes_is_found(reader: Reader, codec: str) -> None:
    kind, stored = encoded(codec, bytes(range(256)) * 16)
    crc = zlib.crc32(stored)
    assert reader.read(kind, stored, crc, 1) is not None
    for at in range(0, len(stored) * 8, 7):
        wrong = bytearray(stored)
        wrong[at // 8] ^= 1 << at % 8
        assert reader.read(kind, bytes(wrong), crc, 1) is None


def test_an_error_of_the_device_refuses_a_frame() -> None:
    """Reading this process's memory where nothing is mapped is one."""
    kind, stored = encoded("raw", bytes(range(256)) * 16)
    fd = os.open("/proc/self/mem", os.O_RDONLY)
    with closing(Reader(fd)) as broken:
        with pytest.raises(OSError, match="Input/output"):
            os.pread(fd, 1, 0)
        assert broken.again(kind, stored, zlib.crc32(stored), 1) is None


@given(st.binary(max_size=300))
def test_the_checksum_is_zlibs(data: bytes) -> None:
    assert core().lib.hfs_crc32(data, len(data)) == zlib.crc32(data)


def test_frames_that_cannot_be_read_are_looked_at_in_bounded_pieces() -> None:
    """Else the monitor would answer nothing for as long as it takes to read all of them."""
    frames = 64
    pages = 32 * frames
    with ExitStack() as stack:
        memory, layer = os.memfd_create("memory"), os.memfd_create("layer")
        stack.callback(os.close, memory)
        stack.callback(os.close, layer)
        os.ftruncate(memory, pages * PAGE_SIZE)
        os.ftruncate(layer, pages * PAGE_SIZE)
        stores = stack.enter_context(closing(Stores.create(None, pages, Staging.MINOR, 0)))
        packed = packed_frames(
            0,
            pages,
            [number * FRAME_SIZE for number in range(frames)],
            array("I", [FRAME_SIZE]) * frames,
            array("I", [1]) * frames,  # not the checksum of zeros
        )
        given = stack.enter_context(
            closing(StoredPages([layer], [packed], array("Q", [0, pages, 0]), range(40)))
        )
        given.begin(stores.table, pages)
        swap = GuestPages(stores, [Region(memory, pages)], stored=given.given)
        stack.callback(swap.close)
        calls = 1
        while swap.swap_in(64).problem is None:
            calls += 1
        assert calls >= pages // 64
        assert swap.counts().stored == pages
