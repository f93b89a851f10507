"""A layer's index: its records, and how they become bytes and are checked when they come back.

The file is `MAGIC`, the format's version (u32), the body's length (u64), blake2b-256 of all the other
bytes, and the body: an `Index` in msgpack.  Numbers are little-endian.  Page maps and the table of frames
are packed u32, because a fragmented map has a run for every second page:

- `VmPages.runs`: {first page, pages, position} of each run, in order of pages;
- `Index.frames`: {codec << 24 | stored size, crc32 of the stored bytes} of each frame;
- `Index.hot`: {number of the VM, first page, pages}, what was touched last coming first.

A *position* counts the stored pages of the layer: page `position` is page `position % 32` of frame
`position // 32`.  All frames but the last have 32 pages, and they follow each other in the file `pages`
without gaps.  The position `ZERO` is of pages that are zero and not stored.
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated

import msgspec
from msgspec import Meta

from hfsched.errors import SnapshotError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.codec import FRAME_PAGES, FRAME_SIZE, RAW, ZSTD, codec_name
from hfsched.text import one_line

__all__ = [
    "HASH_SIZE",
    "HEAD_SIZE",
    "INDEX_MAX",
    "VERSION",
    "ZERO",
    "Component",
    "Index",
    "Layout",
    "MachineIdentity",
    "Parent",
    "Runs",
    "VmPages",
    "body_size",
    "decode_index",
    "encode_index",
    "name_problem",
    "packed",
]

VERSION = 1
MAGIC = b"HFSNAPIX"
INDEX_MAX = 256 << 20  # bytes: 64 GiB of memory with a run for every second page, and as much state
ZERO = (1 << 32) - 1
HASH_SIZE = 32
_HEAD = struct.Struct(f"<8sIQ{HASH_SIZE}s")
HEAD_SIZE = _HEAD.size
_LENGTH_BITS = 24

Name = Annotated[str, Meta(min_length=1, max_length=64)]
_U63 = (1 << 63) - 1


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class MachineIdentity(_Record, frozen=True):
    """What a machine must have in common with the one that was saved, beside its VMs."""

    architecture: Name  # of the guests: aarch64, x86_64
    counter_hz: Annotated[int, Meta(ge=1, le=_U63)]  # of the guests' counter


class Parent(_Record, frozen=True):
    """The layer below: its directory's name, beside this one's, and the hash of its index."""

    name: Annotated[str, Meta(min_length=1, max_length=255)]
    hash: Annotated[bytes, Meta(min_length=HASH_SIZE, max_length=HASH_SIZE)]


class VmPages(_Record, frozen=True):
    """A VM, and which of its pages the layer has; `base` and `size` are in bytes."""

    name: Name
    dialect: Name
    base: Annotated[int, Meta(ge=0, le=_U63)]
    size: Annotated[int, Meta(ge=PAGE_SIZE, le=(ZERO - 1) * PAGE_SIZE)]
    runs: bytes


class Component(_Record, frozen=True):
    """The state of one component, in a form that its `version` determines."""

    version: Annotated[int, Meta(ge=0, le=ZERO)]
    data: bytes


class Index(_Record, frozen=True):
    """All of a layer but its pages.  `created` is in ns since 1970; `parent` None: a full layer."""

    hfsched: Name  # its version
    created: Annotated[int, Meta(ge=0, le=_U63)]
    machine: MachineIdentity
    parent: Parent | None
    vms: Annotated[tuple[VmPages, ...], Meta(min_length=1, max_length=4096)]
    pages: Annotated[int, Meta(ge=0, lt=ZERO)]  # that are stored
    frames: bytes
    hot: bytes
    state: Annotated[dict[Name, Component], Meta(max_length=4096)]


@dataclass(frozen=True, slots=True)
class Runs:
    """A page map: three arrays of u32 of one length, in order of pages."""

    firsts: Sequence[int]
    counts: Sequence[int]
    positions: Sequence[int]  # ZERO: pages that are zero

    def __len__(self) -> int:
        return len(self.firsts)


@dataclass(frozen=True, slots=True)
class Layout:
    """What was checked and unpacked of an index."""

    index: Index
    hash: bytes
    runs: tuple[Runs, ...]  # of each VM
    kinds: Sequence[int]  # of each frame: its codec
    offsets: Sequence[int]  # of each frame, in bytes, and of the end
    checksums: array[int]  # of each frame, u32
    stored: array[int]  # of each frame: codec << 24 | stored size, u32

    def frame_size(self, number: int) -> int:
        """Return how many bytes of pages a frame has."""
        return min(FRAME_PAGES, self.index.pages - number * FRAME_PAGES) * PAGE_SIZE

    def hot(self) -> list[tuple[int, int, int]]:
        """Return {number of the VM, first page, pages} of what was touched last, in that order."""
        words = _words(self.index.hot)
        return [*zip(words[0::3], words[1::3], words[2::3], strict=True)]


def packed(*columns: Iterable[int]) -> bytes:
    """Return columns of u32, packed by rows."""
    lists = [array("I", column) for column in columns]
    words = array("I", bytes(4 * len(lists) * len(lists[0])))
    for number, column in enumerate(lists):
        words[number :: len(lists)] = column
    return words.tobytes()


def _words(data: bytes | bytearray) -> array[int]:
    words = array("I")
    words.frombytes(data)
    return words


def name_problem(name: str) -> str | None:
    """Return why a text is not the name of a directory beside another one, None if it is."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        return f"{one_line(repr(name), 80)} is not a name of a directory beside it"
    return None


def _digest(length: int, version: int, body: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(struct.pack("<8sIQ", MAGIC, version, length), digest_size=HASH_SIZE)
    digest.update(body)
    return digest.digest()


def encode_index(index: Index) -> tuple[bytes, bytes]:
    """Return an index as bytes, and its hash; raises SnapshotError where it is too long."""
    body = msgspec.msgpack.encode(index)
    if len(body) + HEAD_SIZE > INDEX_MAX:
        raise SnapshotError(f"index: {len(body)} bytes: at most {INDEX_MAX - HEAD_SIZE}")
    found = _digest(len(body), VERSION, body)
    return _HEAD.pack(MAGIC, VERSION, len(body), found) + body, found


def body_size(name: str, head: bytes) -> int:
    """Return how long the body is that follows a head; raises SnapshotError. `name` is the file's."""
    if not head.startswith(MAGIC):
        raise SnapshotError(f"{name}: not the index of a snapshot")
    if len(head) < HEAD_SIZE:
        raise SnapshotError(f"{name}: cut off after {len(head)} bytes")
    length = int(_HEAD.unpack_from(head)[2])
    if length > INDEX_MAX - HEAD_SIZE:
        raise SnapshotError(f"{name}: {length} bytes: at most {INDEX_MAX - HEAD_SIZE}")
    return length


def decode_index(name: str, data: bytes) -> Layout:
    """Check an index, any bytes; raises SnapshotError, which begins with the file's `name`."""
    length = body_size(name, data[:HEAD_SIZE])
    body = memoryview(data)[HEAD_SIZE:]
    if len(body) != length:
        raise SnapshotError(f"{name}: {len(data)} bytes instead of {HEAD_SIZE + length}")
    _, version, _, told = _HEAD.unpack_from(data)
    if _digest(length, version, body) != told:
        raise SnapshotError(f"{name}: its hash is wrong: it is damaged")
    if version != VERSION:
        raise SnapshotError(f"{name}: format version {version}: this hfsched reads {VERSION}")
    try:
        index = msgspec.msgpack.decode(body, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise SnapshotError(f"{name}: {one_line(str(exc), 300)}") from None
    return _Checker(name, index).layout(told)


class _Checker:
    """Checks every number of an index against the others."""

    def __init__(self, name: str, index: Index) -> None:
        self._name = name
        self._index = index

    def _check(self, holds: bool, what: str) -> None:  # noqa: FBT001 - reads like an assertion
        if not holds:
            raise SnapshotError(f"{self._name}: {what}")

    def layout(self, found: bytes) -> Layout:
        index = self._index
        if index.parent is not None:
            problem = name_problem(index.parent.name)
            self._check(problem is None, f"parent: {problem}")
        names = {vm.name for vm in index.vms}
        self._check(len(names) == len(index.vms), "two VMs have one name")
        maps = [self._runs(vm) for vm in index.vms]
        stored = sum(count for _, count in maps)
        self._check(stored == index.pages, f"{stored} pages in the maps, {index.pages} are stored")
        kinds, offsets, words = self._frames()
        self._hot()
        return Layout(
            index, found, tuple(runs for runs, _ in maps), kinds, offsets, words[1::2], words[0::2]
        )

    def _runs(self, vm: VmPages) -> tuple[Runs, int]:
        """Return a VM's map, and how many of its pages are stored."""
        what = f"VM {one_line(vm.name, 64)}"
        self._check(not vm.size % PAGE_SIZE, f"{what}: {vm.size} is no whole number of pages")
        self._check(not len(vm.runs) % 12, f"{what}: its page map ends within a run")
        words = _words(vm.runs)
        runs = Runs(words[0::3], words[1::3], words[2::3])
        after = stored = covered = 0
        last = self._index.pages
        for first, count, position in zip(runs.firsts, runs.counts, runs.positions, strict=True):
            if first < after or not count:
                raise SnapshotError(f"{self._name}: {what}: page {first}: empty, or out of order")
            after = first + count
            covered += count
            if position != ZERO:
                if position + count > last:
                    raise SnapshotError(f"{self._name}: {what}: page {first}: is not stored")
                stored += count
        size = vm.size // PAGE_SIZE
        self._check(after <= size, f"{what}: page {after - 1} of {size}")
        if self._index.parent is None:
            missing = size - covered
            self._check(not missing, f"{what}: a full layer without {missing} of its pages")
        return runs, stored

    def _frames(self) -> tuple[Sequence[int], Sequence[int], array[int]]:
        """Return the codecs, the offsets, and all words of the frames."""
        pages, data = self._index.pages, self._index.frames
        number = -(-pages // FRAME_PAGES)
        self._check(len(data) == 8 * number, f"{len(data)} bytes of frames instead of {8 * number}")
        words = _words(data)
        stored = words[0::2]
        lengths = bytearray(stored.tobytes())
        kinds = bytes(lengths[_LENGTH_BITS // 8 :: 4])
        lengths[_LENGTH_BITS // 8 :: 4] = bytes(number)
        for word in set(stored[:-1]):  # frames of one word are alike
            self._frame(stored.index, word, FRAME_SIZE)
        if number:
            last = (pages - (number - 1) * FRAME_PAGES) * PAGE_SIZE
            self._frame(lambda _word: number - 1, stored[-1], last)
        return kinds, array("Q", accumulate(_words(lengths), initial=0)), words

    def _frame(self, find: Callable[[int], int], word: int, size: int) -> None:
        """Check a frame of `size` bytes of pages; `find` returns its number."""
        kind, length = word >> _LENGTH_BITS, word & (1 << _LENGTH_BITS) - 1
        if kind > ZSTD:
            raise SnapshotError(
                f"{self._name}: frame {find(word)}: {codec_name(kind)} is not known"
            )
        if not (length == size if kind == RAW else 0 < length < size):
            raise SnapshotError(f"{self._name}: frame {find(word)}: {length} bytes of {size}")

    def _hot(self) -> None:
        self._check(not len(self._index.hot) % 12, "the list of hot pages ends within a run")
        words = _words(self._index.hot)
        vms = self._index.vms
        for vm, first, count in zip(words[0::3], words[1::3], words[2::3], strict=True):
            if vm >= len(vms) or not count or first + count > vms[vm].size // PAGE_SIZE:
                raise SnapshotError(f"{self._name}: hot page {first} of VM {vm}: there is none")
