"""How fast a layer is written and read beside the compressor alone, on a process's memory.

    python bench/snapshot_speed.py [--size MIB] [--rounds N] [--codec lz4|zstd] [--dir DIR]

The pages are this process's own memory (after it has imported what it can), repeated with changes to
the size, 28 % of them zero.  In each round, interleaved:

- compress: the library alone, one call for every 128 KiB of the same pages, zeros too, as they are;
- write: `LayerWriter.put` of the same pages, from 128 KiB each, and `finish`, into --dir (the page cache),
- fsync: of both files, after that and counted apart;
- expand, read: the library alone on the layer's frames, and `Layer.frame` of each.

Then the index of a VM of 1 GiB is checked, and its page table of 262144 entries filled: with one run, and
with a run for every page.

Rates are MiB of pages a second of this thread's processor time, so that what else runs does not count;
ratios are medians of those within each round.  The exit status is 1 when writing is below 0.8.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.memory.ram import PAGE_SIZE
from hfsched.snapshot.chain import Chain
from hfsched.snapshot.codec import FRAME_SIZE, RAW
from hfsched.snapshot.index import ZERO as ZERO_RUN
from hfsched.snapshot.index import (
    Index,
    MachineIdentity,
    VmPages,
    decode_index,
    encode_index,
    packed,
)
from hfsched.snapshot.layer import Layer, LayerWriter, Subject, Vm, read_layer
from hfsched.snapshot.libraries import Library, load

MIB = 1 << 20
WRITE_MIN = 0.8
ZERO_PART = 0.28
ZERO = bytes(PAGE_SIZE)
TABLE = 262_144  # pages: 1 GiB


def own_pages() -> list[bytes]:
    """Return the pages of this process that are not zero."""
    for name in ("asyncio", "xml.dom.minidom", "unittest.mock", "email.mime.text", "hypothesis"):
        with suppress(ImportError):
            importlib.import_module(name)
    found = []
    with Path("/proc/self/maps").open() as maps, Path("/proc/self/mem").open("rb") as memory:
        for line in [*maps]:
            span, modes, *_ = line.split()
            if "r" not in modes or "[v" in line:
                continue
            start, end = (int(each, 16) for each in span.split("-"))
            with suppress(OSError, ValueError):
                memory.seek(start)
                data = memory.read(min(end - start, 64 * MIB))
                pages = (data[at : at + PAGE_SIZE] for at in range(0, len(data), PAGE_SIZE))
                found += [each for each in pages if len(each) == PAGE_SIZE and each != ZERO]
    return found


def some(size: int) -> list[bytes]:
    """Return blocks of 128 KiB of so many bytes of pages; zero pages come in runs, as they do."""
    random = Random(1)
    own = own_pages()
    pages: list[bytes] = []
    while len(pages) * PAGE_SIZE < size:
        run = random.randint(1, 64)
        if random.random() < ZERO_PART:
            pages += [ZERO] * run
        else:
            start = random.randrange(len(own))
            pages += own[start : start + run]
    del pages[size // PAGE_SIZE :]
    step = FRAME_SIZE // PAGE_SIZE
    return [b"".join(pages[at : at + step]) for at in range(0, len(pages), step)]


def timed(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def compress(library: Library, blocks: list[bytes]) -> float:
    out = bytearray(library.bound(FRAME_SIZE))
    anchor = (ctypes.c_char * len(out)).from_buffer(out)
    target = ctypes.addressof(anchor)
    block = bytearray(FRAME_SIZE)
    source = (ctypes.c_char * FRAME_SIZE).from_buffer(block)
    address = ctypes.addressof(source)
    took = 0.0
    for each in blocks:
        block[:] = each
        started = time.thread_time()
        library.compress(address, FRAME_SIZE, target, len(out))
        took += time.thread_time() - started
    return took


def write(blocks: list[bytes], codec: str, pages: int, index: int) -> None:
    size = len(blocks) * FRAME_SIZE
    vm = Vm("a", "ffa-1.0", 0, size)
    subject = Subject("0.1.0", 1, MachineIdentity("aarch64", 1), (vm,))
    writer = LayerWriter("bench", pages, index, subject, codec=codec)
    for number, block in enumerate(blocks):
        writer.put(0, number * FRAME_SIZE // PAGE_SIZE, block)
    writer.finish({})


def expand(library: Library, layer: Layer, pages: int) -> float:
    out = bytearray(FRAME_SIZE)
    anchor = (ctypes.c_char * FRAME_SIZE).from_buffer(out)
    target = ctypes.addressof(anchor)
    took = 0.0
    for frame in range(layer.frames):
        start, end = layer.layout.offsets[frame : frame + 2]
        stored = os.pread(pages, end - start, start)
        size = layer.layout.frame_size(frame)
        started = time.thread_time()
        if layer.layout.kinds[frame] == RAW:
            ctypes.memmove(target, stored, size)
        else:
            library.expand(stored, target, size)
        took += time.thread_time() - started
    return took


def read(layer: Layer) -> None:
    for frame in range(layer.frames):
        layer.frame(frame)


def round_(library: Library, blocks: list[bytes], directory: str) -> dict[str, float]:
    """Do all of it once; return seconds."""
    took = {"compress": compress(library, blocks)}
    with (
        tempfile.TemporaryFile(dir=directory) as pages,
        tempfile.TemporaryFile(dir=directory) as index,
    ):
        fds = pages.fileno(), index.fileno()
        took["write"] = timed(lambda: write(blocks, library.name, *fds))
        started = time.monotonic()
        for fd in fds:
            os.fsync(fd)
        took["fsync"] = time.monotonic() - started
        took["size"] = os.fstat(fds[0]).st_size
        layer = read_layer("bench", fds[1], os.dup(fds[0]))
        took["expand"] = expand(library, layer, fds[0])
        took["read"] = timed(lambda: read(layer))
        layer.close()
    return took


def maps(pages: int, run: int) -> tuple[float, float]:
    """Return seconds to check an index with runs of so many pages, every second one zero, and to fill its table."""
    firsts = range(0, pages, run)
    stored = pages if run == pages else pages // 2
    places = [0] if run == pages else [ZERO_RUN if at % 2 else at // 2 for at in range(pages)]
    frames = -(-stored * PAGE_SIZE // FRAME_SIZE)
    vm = VmPages("a", "ffa-1.0", 0, pages * PAGE_SIZE, packed(firsts, [run] * len(firsts), places))
    table = packed([1 << 24 | 100] * frames, [0] * frames)
    machine = MachineIdentity("aarch64", 1)
    data, _ = encode_index(Index("0", 1, machine, None, (vm,), stored, table, b"", {}))
    started = time.thread_time()
    layout = decode_index("bench", data)
    checked = time.thread_time() - started
    chain = Chain([Layer("bench", layout, os.open(os.devnull, os.O_RDONLY))])
    took = timed(lambda: chain.table(0))
    chain.close()
    return checked, took


def main() -> int:
    arguments = argparse.ArgumentParser(description="writing a layer beside the compressor alone")
    arguments.add_argument("--size", type=int, default=256, help="MiB of pages")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--codec", choices=("lz4", "zstd"), default="lz4")
    arguments.add_argument("--dir", default="/var/tmp")
    args = arguments.parse_args()
    library = load(args.codec)
    if library is None:
        print(f"{args.codec} is not there")
        return 1
    blocks = some(args.size * MIB)
    zero = sum(block.count(ZERO) for block in blocks if ZERO in block)
    pages = args.size * MIB // PAGE_SIZE
    print(f"{args.size} MiB, about {100 * zero // pages} % zero pages, {args.codec}, {args.dir}")
    rounds = [round_(library, blocks, args.dir) for _ in range(args.rounds)]
    for name in ("compress", "write", "expand", "read"):
        print(
            f"{name:12} {args.size / statistics.median(each[name] for each in rounds):8.0f} MiB/s"
        )
    fsync = statistics.median(each["fsync"] for each in rounds)
    print(f"{'fsync':12} {1000 * fsync:8.1f} ms, by the clock")
    for what, run in (("one run", TABLE), ("a run a page", 1)):
        checked, filled = (
            statistics.median(each)
            for each in zip(*(maps(TABLE, run) for _ in range(5)), strict=True)
        )
        print(f"page table   {1000 * filled:8.1f} ms, index {1000 * checked:.1f} ms: {what}")
    print(f"{'stored':12} {args.size * MIB / rounds[0]['size']:8.1f} times smaller")
    written = statistics.median(each["compress"] / each["write"] for each in rounds)
    found = statistics.median(each["expand"] / each["read"] for each in rounds)
    print(
        f"writing {written:.2f} of compressing (at least {WRITE_MIN}), reading {found:.2f} of expanding"
    )
    return 0 if written >= WRITE_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
