"""Writing and reading one layer, by descriptors that were opened for it: no path is opened here."""

from __future__ import annotations

import ctypes
import os
import zlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hfsched.errors import InternalError, SnapshotError
from hfsched.limits import cause
from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.codec import FRAME_PAGES, FRAME_SIZE, Decoder, Encoder
from hfsched.snapshot.index import (
    HEAD_SIZE,
    ZERO,
    Component,
    Index,
    Layout,
    MachineIdentity,
    Parent,
    VmPages,
    body_size,
    decode_index,
    encode_index,
    packed,
)
from hfsched.snapshot.pagemap import PageMap

__all__ = ["CancelledError", "Layer", "LayerWriter", "Subject", "Vm", "read_layer"]

_ZEROS = bytes(PAGE_SIZE)
_BUFFER = 1 << 20  # bytes, for one write
_READ = 4 << 20  # bytes, for one read: a size that is not true costs no memory
Bytes: TypeAlias = bytes | bytearray | memoryview


class CancelledError(SnapshotError):
    """Writing was cancelled."""


@dataclass(frozen=True, slots=True)
class Vm:
    """A VM whose pages are written; `base` and `size` are in bytes."""

    name: str
    dialect: str
    base: int
    size: int


@dataclass(frozen=True, slots=True)
class Subject:
    """What a layer is of; `created` is in ns since 1970."""

    hfsched: str
    created: int
    machine: MachineIdentity
    vms: tuple[Vm, ...]
    parent: Parent | None = None


class LayerWriter:
    """Writes a layer: `put` its pages, then `finish` with its state.  For one thread.

    `pages` and `index` are descriptors of empty files; the caller closes them, and calls fsync.
    `name` is the layer's, for errors.  `parent` may be set until `finish`.  `cancelled` is asked before each frame.  `progress(done)` is told
    after each how many bytes of pages have come.  Errors of the files are SnapshotErrors; the layer is
    then of no use.
    """

    def __init__(
        self,
        name: str,
        pages: int,
        index: int,
        subject: Subject,
        *,
        codec: str = "lz4",
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> None:
        self._name = name
        self._pages, self._index = pages, index
        self._subject = subject
        self.parent = subject.parent
        self._encoder = Encoder(codec)
        self._cancelled, self._progress = cancelled, progress
        self._maps = [PageMap() for _ in subject.vms]
        self._sizes = [vm.size // PAGE_SIZE for vm in subject.vms]
        self._fill = 0  # pages in the encoder's frame
        self._view = memoryview(self._encoder.frame)
        self._stored = 0  # pages, with those in the frame
        self._words, self._checksums = array("I"), array("I")
        self._done = 0  # bytes of pages
        self._out = bytearray(_BUFFER + self._encoder.room)
        self._anchor = (ctypes.c_char * len(self._out)).from_buffer(self._out)
        self._address = ctypes.addressof(self._anchor)
        self._used = 0  # bytes of `_out`
        self.written = 0  # bytes of the file `pages`

    @property
    def warning(self) -> str | None:
        """Why nothing is compressed although it should be, None if it is."""
        return self._encoder.warning

    def put(self, vm: int, first: int, data: Bytes) -> None:
        """Add whole pages of VM number `vm`, from page number `first` on, each page once.

        They are copied under the interpreter lock: memory that may be swapped out must not be passed.
        """
        size = len(data)
        if size % PAGE_SIZE or first < 0 or first + size // PAGE_SIZE > self._sizes[vm]:
            raise InternalError(f"{size} bytes at page {first} of VM {vm}")
        view = memoryview(data)
        room = FRAME_SIZE - self._fill * PAGE_SIZE
        start = 0
        while start < size:
            part = view[start : start + room]
            self._take(vm, first + start // PAGE_SIZE, part)
            start += len(part)
            room = FRAME_SIZE - self._fill * PAGE_SIZE

    def put_zeros(self, vm: int, first: int, count: int) -> None:
        """Add pages that are known to be zero."""
        if count < 1 or first < 0 or first + count > self._sizes[vm]:
            raise InternalError(f"{count} pages at page {first} of VM {vm}")
        self._maps[vm].add(first, count, ZERO)
        self._done += count * PAGE_SIZE

    def _take(self, vm: int, first: int, part: memoryview) -> None:
        """Add pages for which the frame has room; those that are not zero stay in it."""
        frame, view, pages = self._encoder.frame, self._view, self._maps[vm]
        base, size = self._fill * PAGE_SIZE, len(part)
        view[base : base + size] = part
        zero = [frame.startswith(_ZEROS, at) for at in range(base, base + size, PAGE_SIZE)]
        total = len(zero)
        at = 0
        while at < total:
            kind = zero[at]
            try:
                end = zero.index(not kind, at)
            except ValueError:
                end = total
            if kind:
                pages.add(first + at, end - at, ZERO)
            else:
                to, start = self._fill * PAGE_SIZE, base + at * PAGE_SIZE
                if to != start:
                    length = (end - at) * PAGE_SIZE
                    view[to : to + length] = view[start : start + length]
                pages.add(first + at, end - at, self._stored)
                self._fill += end - at
                self._stored += end - at
            at = end
        self._done += size
        if self._fill == FRAME_PAGES:
            self._flush()

    def _flush(self) -> None:
        """Make a frame of what is in it."""
        if self._cancelled():
            raise CancelledError(f"{self._name}: cancelled")
        if self._used > _BUFFER:
            self._write_out()
        kind, length = self._encoder.encode(
            self._fill * PAGE_SIZE, self._address + self._used, len(self._out) - self._used
        )
        end = self._used + length
        with memoryview(self._out) as out:
            self._checksums.append(zlib.crc32(out[self._used : end]))
        self._words.append(kind << 24 | length)
        self._used = end
        self._fill = 0
        self._progress(self._done)

    def _write_out(self) -> None:
        with memoryview(self._out) as out:
            _write(f"{self._name}/pages", self._pages, out[: self._used])
        self.written += self._used
        self._used = 0

    def finish(
        self, state: Mapping[str, Component], hot: Sequence[tuple[int, int, int]] = ()
    ) -> bytes:
        """Write what is left, and the index; return its hash.

        `hot` are {number of the VM, first page, pages}, what was touched last coming first.
        """
        if self._fill:
            self._flush()
        self._write_out()
        self._progress(self._done)
        subject = self._subject
        vms = [
            VmPages(vm.name, vm.dialect, vm.base, vm.size, pages.runs())
            for vm, pages in zip(subject.vms, self._maps, strict=True)
        ]
        index = Index(
            hfsched=subject.hfsched,
            created=subject.created,
            machine=subject.machine,
            parent=self.parent,
            vms=tuple(vms),
            pages=self._stored,
            frames=packed(self._words, self._checksums),
            hot=packed(*zip(*hot, strict=True)) if hot else b"",
            state=dict(state),
        )
        data, found = encode_index(index)
        decode_index(f"{self._name}/index", data)  # one that no reader takes is never written
        if self._cancelled():
            raise CancelledError(f"{self._name}: cancelled")
        _write(f"{self._name}/index", self._index, memoryview(data))
        return found


def _write(name: str, fd: int, data: memoryview) -> None:
    while data:
        try:
            done = os.write(fd, data)
        except OSError as exc:
            raise SnapshotError(f"{name}: cannot be written: {cause(exc)}") from exc
        data = data[done:]


def _read(name: str, fd: int, size: int, offset: int) -> bytes:
    """Return what there is of `size` bytes at `offset`; raises SnapshotError."""
    parts = []
    while size:
        try:
            part = os.pread(fd, min(size, _READ), offset)
        except OSError as exc:
            raise SnapshotError(f"{name}: cannot be read: {cause(exc)}") from exc
        if not part:
            break
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


class Layer:
    """A layer that is read.  It owns the descriptor of its file `pages`, until `close`.

    `frame` may be called by several threads at once.
    """

    def __init__(self, name: str, layout: Layout, pages: int) -> None:
        self.name = name
        self.layout = layout
        self._fd = pages
        self._decoder = Decoder(f"{name}/pages")

    @property
    def index(self) -> Index:
        """Its index."""
        return self.layout.index

    @property
    def hash(self) -> bytes:
        """The hash of its index."""
        return self.layout.hash

    @property
    def frames(self) -> int:
        """How many frames it has."""
        return len(self.layout.kinds)

    def size_problem(self) -> str | None:
        """Return what is wrong with the length of its file `pages`, None if nothing."""
        try:
            size = os.fstat(self._fd).st_size
        except OSError as exc:
            return f"{self.name}/pages: {cause(exc)}"
        told = self.layout.offsets[-1]
        return None if size == told else f"{self.name}/pages: {size} bytes instead of {told}"

    def frame(self, number: int) -> bytearray:
        """Read, check and expand a frame; raises SnapshotError, which names it."""
        layout = self.layout
        start, end = layout.offsets[number : number + 2]
        stored = _read(f"{self.name}/pages", self._fd, end - start, start)
        if len(stored) != end - start:
            raise SnapshotError(f"{self.name}/pages: frame {number}: the file ends within it")
        size = layout.frame_size(number)
        return self._decoder.decode(
            number, layout.kinds[number], stored, layout.checksums[number], size
        )

    @property
    def descriptor(self) -> int:
        """The descriptor of its file `pages`."""
        return self._fd

    def close(self) -> None:
        """Close the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read_layer(name: str, index: int, pages: int) -> Layer:
    """Read and check an index; the layer owns `pages`, also if this raises SnapshotError.

    The length of the file `pages` is not checked: `Layer.size_problem` does that.
    """
    try:
        file = f"{name}/index"
        head = _read(file, index, HEAD_SIZE, 0)
        body = _read(file, index, body_size(file, head) + 1, HEAD_SIZE)
        return Layer(name, decode_index(file, head + body), pages)
    except BaseException:
        os.close(pages)
        raise
