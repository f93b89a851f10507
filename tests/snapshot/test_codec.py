"""Frames: each codec's round trip, hostile frames, and libraries that are not there."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import InternalError, SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot import libraries
from hfsched.snapshot.codec import FRAME_SIZE, LZ4, RAW, ZSTD, Decoder, Encoder, codec_name
from hfsched.snapshot.libraries import FrameError, load

from .layers import page

KINDS = {"raw": RAW, "lz4": LZ4, "zstd": ZSTD}
GUARD = 64
DATA = b"".join(map(page, (1, 3, 5, 2, 7)))


def encode(codec: str, data: bytes) -> tuple[int, bytes]:
    encoder = Encoder(codec)
    encoder.frame[: len(data)] = data
    out = bytearray(encoder.room)
    anchor = (ctypes.c_char * len(out)).from_buffer(out)
    kind, size = encoder.encode(len(data), ctypes.addressof(anchor), len(out))
    del anchor
    return kind, bytes(out[:size])


def decode(kind: int, stored: bytes, size: int) -> bytes:
    return bytes(Decoder("f").decode(7, kind, stored, zlib.crc32(stored), size))


@pytest.mark.parametrize("codec", KINDS)
@given(seeds=st.lists(st.integers(0, 9), min_size=1, max_size=32))
def test_round_trip(codec: str, seeds: list[int]) -> None:
    data = b"".join(map(page, seeds))
    kind, stored = encode(codec, data)
    assert kind in (RAW, KINDS[codec])
    assert len(stored) <= len(data)
    assert decode(kind, stored, len(data)) == data


def test_only_what_shrinks_is_compressed() -> None:
    assert encode("lz4", page(2))[0] == encode("zstd", page(2))[0] == RAW
    assert encode("lz4", page(1))[0] == LZ4
    assert encode("zstd", page(1))[0] == ZSTD


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@given(data=st.data())
def test_a_hostile_frame_is_refused_or_fills_what_it_must(codec: str, data: st.DataObject) -> None:
    """Its checksum is right: the decompressor itself is given the bytes, with guards around its room."""
    library = load(codec)
    assert library is not None
    _, stored = encode(codec, DATA)
    changed = bytearray(stored)
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(stored) - 1), st.integers(0, 255)), max_size=8)
    ):
        changed[at] = value
    cut = bytes(changed[: data.draw(st.sampled_from([len(stored), len(stored) - 1, 20, 6, 0]))])
    cut += data.draw(st.binary(max_size=8))
    size = data.draw(st.sampled_from([len(DATA), PAGE_SIZE, FRAME_SIZE]))
    room = bytearray(b"\xa5" * (GUARD + size + GUARD))
    anchor = (ctypes.c_char * len(room)).from_buffer(room)
    try:
        library.expand(cut, ctypes.addressof(anchor) + GUARD, size)
    except FrameError:
        pass
    else:
        assert room[GUARD:-GUARD] == DATA, "its own checksum holds"
    finally:
        del anchor
    assert room[:GUARD] == room[-GUARD:] == b"\xa5" * GUARD
    assert decode(*encode(codec, DATA), len(DATA)) == DATA, "its context is still of use"


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (b"", "no lz4 frame of this format"),
        (b"\x04\x22\x4d\x18\x6c\x70" + bytes(9), "no lz4 frame of this format"),  # 4 MiB blocks
        (b"\x04\x22\x4d\x18\x6c\x40" + (1 << 40).to_bytes(8, "little") + b"\0", "of another size"),
        (b"\x50\x2a\x4d\x18" + bytes(20), "no lz4 frame of this format"),  # a skippable frame
        (encode("lz4", DATA)[1] * 2, "does not end where it must"),
    ],
)
def test_what_is_no_lz4_frame_of_ours(stored: bytes, text: str) -> None:
    with pytest.raises(SnapshotError, match=f"^f: frame 7: .*{text}"):
        decode(LZ4, stored, len(DATA))


@pytest.mark.parametrize(
    ("stored", "text"),
    [
        (b"", "no zstd frame of this format"),
        (b"\x25\xb5\x2f\xfd" + bytes(20), "no zstd frame of this format"),  # version 0.5
        (b"\x28\xb5\x2f\xfd\xa0" + bytes(20), "no zstd frame of this format"),  # no checksum
        (encode("zstd", DATA[: 2 * PAGE_SIZE])[1], "of another size"),
        (encode("zstd", DATA)[1] * 2, "zstd"),
    ],
)
def test_what_is_no_zstd_frame_of_ours(stored: bytes, text: str) -> None:
    with pytest.raises(SnapshotError, match=f"^f: frame 7: .*{text}"):
        decode(ZSTD, stored, len(DATA))


def test_other_refusals() -> None:
    with pytest.raises(SnapshotError, match=r"^f: frame 7: 3 bytes instead of 4096"):
        decode(RAW, b"abc", PAGE_SIZE)
    with pytest.raises(SnapshotError, match=r"^f: frame 7: codec 9 is not known"):
        decode(9, b"abc", PAGE_SIZE)
    with pytest.raises(SnapshotError, match="no codec 'gzip': one of raw, lz4, zstd"):
        Encoder("gzip")
    assert codec_name(9) == "codec 9"


def test_a_frame_without_room_is_a_bug() -> None:
    for codec in KINDS:
        encoder = Encoder(codec)
        with pytest.raises(InternalError):
            encoder.encode(PAGE_SIZE, 0, encoder.room - 1)
        with pytest.raises(InternalError):
            encoder.encode(FRAME_SIZE + PAGE_SIZE, 0, 2 * encoder.room)


@pytest.fixture
def no_libraries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither library."""
    missing = {
        name: (f"lib{name}-missing.so.1", *rest) for name, (_, *rest) in libraries.CODECS.items()
    }
    monkeypatch.setattr(libraries, "CODECS", missing)
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.mark.usefixtures("no_libraries")
def test_without_its_library_a_frame_is_stored_and_one_line_says_so() -> None:
    encoder = Encoder("lz4")
    assert encoder.warning == (
        "pages are stored uncompressed: liblz4-missing.so.1 is not installed:"
        " apt-get install liblz4-1"
    )
    assert encode("zstd", page(1)) == (RAW, page(1))
    assert Encoder("raw").warning is None
    with pytest.raises(SnapshotError, match=r"^f: frame 7: libzstd-missing.so.1 is not installed"):
        decode(ZSTD, b"abc", PAGE_SIZE)
