"""One layer: what is written is read back, and every damage is refused by name."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.errors import InternalError, SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import Chain
from hfsched.snapshot.codec import RAW
from hfsched.snapshot.index import Component
from hfsched.snapshot.layer import CancelledError, LayerWriter, read_layer

from .layers import Memory, MemoryFile, contents, page, read, subject, write

SEEDS = st.integers(0, 9)
STATE = {"mailbox.a": Component(3, b"\x00\x01"), "clock": Component(1, b"")}


def full(*sizes: int, seeds: list[int] | None = None) -> Memory:
    """Return contents for VMs with so many pages: seeds by turns."""
    places = [(vm, number) for vm, size in enumerate(sizes) for number in range(size)]
    chosen = seeds or [1, 2, 0, 3, 0, 0, 4]
    return {place: page(chosen[at % len(chosen)]) for at, place in enumerate(places)}


SMALL = write(subject(40, 3), full(40, 3), state=STATE, hot=[(0, 2, 3), (1, 0, 1)])


@given(seeds=st.lists(SEEDS, min_size=1, max_size=80), data=st.data())
def test_round_trip(seeds: list[int], data: st.DataObject) -> None:
    """In any batches, in any order."""
    codec = data.draw(st.sampled_from(["lz4", "zstd", "raw"]))
    cuts = data.draw(st.sets(st.integers(1, len(seeds))))
    edges = [0, *sorted(cuts | {len(seeds)})]
    batches = [*pairwise(edges)]
    pages = [page(seed) for seed in seeds]
    with MemoryFile() as index, MemoryFile() as file:
        writer = LayerWriter("w", file.fd, index.fd, subject(len(seeds)), codec=codec)
        for first, end in data.draw(st.permutations(batches)):
            writer.put(0, first, memoryview(b"".join(pages[first:end])))
        found = writer.finish(STATE)
        layer = read(index.read(), file.read())
    assert layer.hash == found
    chain = Chain([layer])
    assert contents(chain) == {(0, number): each for number, each in enumerate(pages)}
    assert chain.state == STATE
    assert layer.size_problem() is None
    assert layer.index.pages == sum(map(bool, seeds)), "zero pages take no room"
    chain.close()


def test_what_an_index_says() -> None:
    layer = read(*SMALL)
    assert layer.layout.hot() == [(0, 2, 3), (1, 0, 1)]
    assert (layer.index.hfsched, layer.index.created, layer.index.parent) == ("0.1.0", 1, None)
    assert [(vm.name, vm.base, vm.size) for vm in layer.index.vms] == [
        ("a", 0x4000_0000, 40 * PAGE_SIZE),
        ("b", 0x4000_0000, 3 * PAGE_SIZE),
    ]
    layer.close()


def test_frames_that_do_not_shrink_are_stored() -> None:
    layer = read(*write(subject(32), full(32, seeds=[*range(2, 66, 2)])))
    assert [*layer.layout.kinds] == [RAW]
    assert layer.layout.offsets[-1] == 32 * PAGE_SIZE
    layer.close()


@pytest.mark.parametrize("codec", ["lz4", "raw"])
def test_more_than_is_written_at_once(codec: str) -> None:
    pages = full(600, seeds=[*range(2, 1202, 2)])
    chain = Chain([read(*write(subject(600), pages, codec=codec))])
    assert contents(chain) == pages
    chain.close()


def test_every_byte_of_an_index_changed_is_refused() -> None:
    index, pages = SMALL
    for at in range(len(index)):
        damaged = bytearray(index)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(SnapshotError, match=r"^layer/index: "):
            read(bytes(damaged), pages)


def test_an_index_cut_off_anywhere_is_refused() -> None:
    index, pages = SMALL
    for length in range(len(index)):
        with pytest.raises(SnapshotError, match=r"^layer/index: "):
            read(index[:length], pages)
    with pytest.raises(SnapshotError, match="bytes instead of"):
        read(index + b"\0", pages)


@pytest.mark.parametrize("codec", ["lz4", "zstd", "raw"])
def test_a_changed_bit_in_a_frame_is_named(codec: str) -> None:
    index, pages = write(subject(100), full(100, seeds=[1, 3, 5]), codec=codec)
    layer = read(index, pages)
    offsets = [*layer.layout.offsets]
    layer.close()
    for frame, (start, end) in enumerate(pairwise(offsets)):
        for at in range(start, end, max(1, (end - start) // 50)):
            damaged = bytearray(pages)
            damaged[at] ^= 1 << at % 8
            layer = read(index, bytes(damaged))
            with pytest.raises(SnapshotError, match=f"^layer/pages: frame {frame}: its checksum"):
                layer.frame(frame)
            for other in range(len(offsets) - 1):
                if other != frame:
                    layer.frame(other)
            layer.close()


def test_pages_cut_off_anywhere_are_named() -> None:
    index, pages = write(subject(70), full(70, seeds=[1, 3]))
    for length in range(len(pages)):
        layer = read(index, pages[:length])
        assert layer.size_problem() == (f"layer/pages: {length} bytes instead of {len(pages)}")
        with pytest.raises(SnapshotError, match=r"frame 2: the file ends within it"):
            layer.frame(2)
        layer.close()


def test_a_frame_of_another_layer_is_found() -> None:
    index, _ = write(subject(32), full(32, seeds=[1]))
    _, pages = write(subject(32), full(32, seeds=[3]))
    layer = read(index, pages)
    with pytest.raises(SnapshotError, match="frame 0: its checksum is wrong"):
        layer.frame(0)
    layer.close()


# Writing.


def writer_to(pages: int, index: int, **options: object) -> LayerWriter:
    return LayerWriter("w", pages, index, subject(64), **options)  # type: ignore[arg-type]


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("wb", buffering=0) as full_disk, MemoryFile() as index:
        writer = writer_to(full_disk.fileno(), index.fd)
        writer.put(0, 0, b"".join(full(64, seeds=[*range(2, 66, 2)]).values()))
        with pytest.raises(SnapshotError) as found:
            writer.finish({})
        assert str(found.value) == "w/pages: cannot be written: No space left on device"


def test_an_error_of_the_device_is_one_line() -> None:
    with Path("/proc/self/mem").open("r+b", buffering=0) as bad, MemoryFile() as good:
        writer = writer_to(bad.fileno(), good.fd)  # nothing is mapped at 0
        writer.put(0, 0, bytes(63 * PAGE_SIZE) + page(1))
        with pytest.raises(SnapshotError) as found:
            writer.finish({})
        assert str(found.value) == "w/pages: cannot be written: Input/output error"
        with pytest.raises(SnapshotError, match=r"^r/index: cannot be read: Input/output error$"):
            read_layer("r", bad.fileno(), MemoryFile().fd)


def test_an_error_of_the_device_while_a_frame_is_read() -> None:
    index, _ = SMALL
    with MemoryFile(index) as file, Path("/proc/self/mem").open("rb") as bad:
        layer = read_layer("r", file.fd, os.dup(bad.fileno()))
        with pytest.raises(SnapshotError, match=r"^r/pages: cannot be read: Input/output error$"):
            layer.frame(0)
        layer.close()


def test_short_writes_are_continued(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = write(subject(64), full(64))
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: whole(fd, data[:1000]))
    assert write(subject(64), full(64)) == expected


def test_cancelling_ends_it_before_the_next_frame() -> None:
    answers = iter([False, True])
    told: list[int] = []
    with MemoryFile() as index, MemoryFile() as file:
        writer = writer_to(
            file.fd,
            index.fd,
            cancelled=lambda: next(answers),
            progress=told.append,
        )
        with pytest.raises(CancelledError, match=r"^w: cancelled$"):
            writer.put(0, 0, page(1) * 64)
        assert told == [32 * PAGE_SIZE]
        assert index.read() == b"", "nothing that could be read as a layer"


def test_progress_counts_zero_pages_too() -> None:
    told: list[int] = []
    with MemoryFile() as index, MemoryFile() as file:
        writer = writer_to(file.fd, index.fd, progress=told.append)
        writer.put(0, 0, page(1) * 40)
        writer.put_zeros(0, 40, 24)
        writer.finish({})
    assert told == [32 * PAGE_SIZE, 64 * PAGE_SIZE, 64 * PAGE_SIZE]


def test_a_full_layer_must_have_every_page() -> None:
    pages = full(5)
    del pages[0, 3]
    with pytest.raises(SnapshotError, match="VM a: a full layer without 1 of its pages"):
        write(subject(5), pages)


def test_pages_that_no_vm_has_are_a_bug() -> None:
    with MemoryFile() as index, MemoryFile() as file:
        writer = writer_to(file.fd, index.fd)
        for first, data in ((64, page(1)), (-1, page(1)), (63, page(1) * 2), (0, b"x")):
            with pytest.raises(InternalError):
                writer.put(0, first, data)
        writer.put(0, 5, page(1))
        writer.put(0, 5, page(1))
        with pytest.raises(InternalError, match="page 5 was written twice"):
            writer.finish({})
