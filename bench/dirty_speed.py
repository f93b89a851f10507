"""What it costs to know which pages were written, beside KVM's log of them and a loop that compares.

    python bench/dirty_speed.py [--size MIB] [--rounds N] [--no-guest]

One region of --size MiB (1024), all of whose pages are in memory; three ways, interleaved in each round:

- ours: `hfsched.memory.dirty.DirtyTracker`, over one mapping;
- log: KVM's log of dirty pages, with the bitmap counted (x86-64); it sees a guest's writes alone;
- loop: every page is compared with a copy, and copied if it differs.

*arm*: from nothing to all pages protected; *ask*: which pages were written, and protect them again, when
nothing, 5 % or all were.  The host writes for ours and the loop, a guest of KVM for the log.  *first write*: what a
write to a protected page takes more than one to another page, by the host, and by a guest of KVM (ours and
the log).  *fault*: a read of a page that swap has staged, until it is there, with and without tracking
(p50, one page at a time).  Times are medians in ms (writes and faults: us), ratios are medians of those within each round.

The exit status is 1 when a line is missed: to ask when nothing was written takes at most a tenth of the loop, when 5 %
were at most half of it.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from swap_world import MIB, Native

from hfsched.errors import HfschedError
from hfsched.memory import writeprotect
from hfsched.memory.dirty import DirtyTracker, TrackedProcess, TrackedRange
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.core.guestpages import GuestPages, Region, open_userfault, zap
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.core.stores import Stores
from hfsched.swap.core.table import TRACKED_OFFSET
from hfsched.swap.pages.entries import Staging
from hfsched.vmm.tracking import OwnSource

FAULTS = 1000  # in a round
FAULTS_SIZE = 64 * MIB
NOTHING_MAX, SOME_MAX = 0.1, 0.5  # of the loop
STRIDE = 20  # of 5 %


class Bare:
    """`dirty_bare.c`, compiled."""

    def __init__(self, folder: str) -> None:
        library = Path(folder) / "dirty_bare.so"
        source = Path(__file__).resolve().parent / "dirty_bare.c"
        command = ["cc", "-std=gnu17", "-O2", "-shared", "-fPIC", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        self.lib = ctypes.CDLL(str(library), use_errno=True)
        word, pointer = ctypes.c_uint64, ctypes.c_void_p
        self.lib.write_pages.argtypes = [word] * 3
        self.lib.compare_pages.argtypes = [word] * 3
        self.lib.write_pages.restype = self.lib.compare_pages.restype = word
        if platform.machine() == "x86_64":
            self.lib.kvm_new.argtypes = [word, word]
            self.lib.kvm_new.restype = pointer
            self.lib.kvm_write.argtypes = [pointer, word]
            self.lib.kvm_write.restype = word
            self.lib.kvm_log.argtypes = [pointer, ctypes.c_int]
            self.lib.kvm_dirty.argtypes = [pointer]
            self.lib.kvm_dirty.restype = ctypes.c_int64
            self.lib.kvm_close.argtypes = [pointer]
            self.lib.kvm_close.restype = None


class Table:
    """Figures by row and way."""

    def __init__(self) -> None:
        self.times: dict[str, dict[str, list[float]]] = {}

    def add(self, row: str, way: str, value: float) -> None:
        self.times.setdefault(row, {}).setdefault(way, []).append(value)

    def ratio(self, row: str, of: str, to: str) -> float:
        found = self.times[row]
        return statistics.median(a / b for a, b in zip(found[of], found[to], strict=True))

    def show(self, rows: Sequence[str], ways: Sequence[str]) -> None:
        print(f"\n| | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}")
        for row in rows:
            found = self.times.get(row, {})
            cells = [f"{statistics.median(found[way]):.2f}" if way in found else "" for way in ways]
            print(f"| {row} | {' | '.join(cells)} |")


def timed(work: Callable[[], object]) -> float:
    """Return the ms that it took."""
    began = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - began) / 1e6


def counted(count: Callable[[], int], expected: int, what: str) -> float:
    """Return the ms that it took to count pages; raises HfschedError for another number."""
    found: list[int] = []
    took = timed(lambda: found.append(count()))
    if found != [expected]:
        raise HfschedError(f"{what}: {found[0]} pages, expected {expected}")
    return took


class World:
    """The memory, its copy, and the tracker."""

    def __init__(self, bare: Bare, size: int, runtime: ThreadRuntime) -> None:
        self.bare, self.pages = bare, size // PAGE_SIZE
        self.ram, self.copy = Ram("bench", size), Ram("copy", size)
        ctypes.memset(self.ram.address, 1, size)
        ctypes.memset(self.copy.address, 1, size)
        source = OwnSource({"bench": self.ram})
        self.tracker = DirtyTracker(runtime, {"bench": self.pages}, source)

    def write(self, stride: int) -> float:
        """Write into pages; return us a page."""
        took = self.bare.lib.write_pages(self.ram.address, self.ram.size, stride)
        return float(took) / 1e3 / -(-self.pages // stride)

    def collect(self) -> int:
        return self.tracker.collect().pages()

    def compare(self) -> int:
        return int(self.bare.lib.compare_pages(self.ram.address, self.copy.address, self.ram.size))

    def start(self) -> None:
        why_not = self.tracker.start()
        if why_not is not None:
            raise HfschedError(why_not)

    def close(self) -> None:
        self.tracker.close()
        self.ram.close()
        self.copy.close()


CASES = (("nothing", 0), ("5 %", STRIDE), ("all", 1))


def row_of(name: str) -> str:
    return f"ask, {name} written"


def ask(world: World, table: Table) -> None:
    """Measure the host's part of a round."""
    world.tracker.stop()
    world.write(1)
    table.add("arm", "ours", timed(world.start))
    for name, stride in CASES:
        world.compare()
        world.tracker.collect()
        expected = 0
        if stride:
            expected = -(-world.pages // stride)
            first, again = world.write(stride), world.write(stride)
            if stride == 1:
                table.add("first write, host", "ours", first - again)
        for way, count in (("ours", world.collect), ("loop", world.compare)):
            table.add(row_of(name), way, counted(count, expected, f"{row_of(name)}, {way}"))


def ask_log(world: World, table: Table) -> None:
    """Measure the part of a round that has a guest of KVM."""
    lib = world.bare.lib
    machine = lib.kvm_new(world.ram.address, world.ram.size)
    if not machine:
        raise HfschedError(f"kvm: {os.strerror(ctypes.get_errno())}")

    def write(stride: int) -> float:
        took = lib.kvm_write(machine, stride)
        if not took:
            raise HfschedError("kvm: the guest did not end as it should")
        return float(took) / 1e3 / -(-(world.pages - 1) // stride)

    def dirty() -> int:
        return int(lib.kvm_dirty(machine))

    some = -(-(world.pages - 1) // STRIDE)
    try:
        write(STRIDE)
        table.add("arm", "log", timed(lambda: lib.kvm_log(machine, 1)))
        dirty()
        for name, stride in CASES:
            expected = -(-(world.pages - 1) // stride) if stride else 0
            if stride:
                first = write(stride)
            if stride == STRIDE:
                table.add("first write, guest", "log", first - write(stride))
            table.add(row_of(name), "log", counted(dirty, expected, f"{row_of(name)}, log"))
        world.write(world.pages // 2)
        table.add("of 2 writes by the host", "log", dirty())
        lib.kvm_log(machine, 0)
        write(STRIDE)
        world.collect()
        first = write(STRIDE)
        table.add("first write, guest", "ours", first - write(STRIDE))
        counted(world.collect, some, "what a guest wrote")
        world.write(world.pages // 2)
        table.add("of 2 writes by the host", "ours", world.collect())
    finally:
        lib.kvm_close(machine)


class Faults:
    """A page store in this process, which serves staged pages one at a time."""

    def __init__(self, native: Native, directory: str, runtime: ThreadRuntime) -> None:
        self._stack = ExitStack()
        self.native = native
        self.ram = Ram("faults", FAULTS_SIZE)
        self._stack.callback(self.ram.close)
        ctypes.memset(self.ram.address, 1, FAULTS_SIZE)
        self.uffd, self.pagemap = open_userfault(), open_pagemap()
        self._stack.callback(os.close, self.uffd)
        self._stack.callback(os.close, self.pagemap)
        self.stores = Stores.create(Path(directory), FAULTS_SIZE // PAGE_SIZE, Staging.MINOR, 0)
        self._stack.callback(self.stores.close)
        self.swap = GuestPages(self.stores, [Region(self.ram.fd, self.stores.pages)], around=1)
        self._stack.callback(self.swap.close)
        self.swap.add_member(self.uffd, [self.ram.address], pagemap=self.pagemap)
        self.swap.start()
        self.tracker = DirtyTracker(runtime, {"faults": self.stores.pages}, self)

    # Source.

    def why_not(self) -> str | None:
        return writeprotect.problem()

    def processes(self) -> list[TrackedProcess]:
        part = TrackedRange("faults", self.ram.address, self.ram.size)
        return [TrackedProcess("bench", self, self.uffd, self.pagemap, (part,), served=True)]

    def note(self, *, tracked: bool) -> None:
        os.pwrite(self.stores.table, struct.pack("=I", tracked), TRACKED_OFFSET)

    def out(self) -> bool:
        return False

    def round(self, number: int) -> float:
        """Return the us that a fault took, the median."""
        self.swap.stage()
        zap(self.ram.address, self.ram.size)
        self.swap.zapped()
        pages = random.Random(number).sample(range(self.stores.pages), FAULTS)
        took = self.native.touch(self.ram, pages)
        return statistics.median(took) / 1000

    def close(self) -> None:
        self._stack.close()


def ask_faults(world: Faults, table: Table, number: int) -> None:
    row = "fault, staged"
    for way in ("plain", "ours") if number % 2 else ("ours", "plain"):
        if way == "ours":
            world.tracker.start()
        table.add(row, way, world.round(number))
        if way == "ours":
            counted(lambda: world.tracker.collect().pages(), 0, "after faults")
            world.tracker.stop()
        world.swap.unstage()
        world.swap.release()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024, help="MiB (default 1024)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-guest", action="store_true", help="without KVM")
    args = parser.parse_args()
    why_not = writeprotect.problem()
    if why_not is not None:
        print(f"dirty_speed: {why_not}", file=sys.stderr)
        return 1
    table = Table()
    runtime = ThreadRuntime()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bare = Bare(folder)
        native = Native()
        stack.callback(native.close)
        world = World(bare, args.size * MIB, runtime)
        stack.callback(world.close)
        faults = Faults(native, "/var/tmp", runtime)
        stack.callback(faults.close)
        guest = not args.no_guest and platform.machine() == "x86_64"
        for number in range(args.rounds):
            ask(world, table)
            if guest and os.access("/dev/kvm", os.R_OK | os.W_OK):
                ask_log(world, table)
            ask_faults(faults, table, number)
    runtime.close()
    return report(table, args.size)


def report(table: Table, size: int) -> int:
    asked = [f"ask, {name} written" for name, _ in CASES]
    print(f"{size} MiB; ms")
    table.show(["arm", *asked], ["ours", "log", "loop"])
    print("\nus")
    table.show(
        ["first write, host", "first write, guest", "fault, staged"], ["ours", "log", "plain"]
    )
    print("\npages")
    table.show(["of 2 writes by the host"], ["ours", "log"])
    print()
    held = True
    for row, most in ((asked[0], NOTHING_MAX), (asked[1], SOME_MAX), (asked[2], None)):
        ratio = table.ratio(row, "ours", "loop")
        ok = most is None or ratio <= most
        line = "" if most is None else f" (at most {most}: {'yes' if ok else 'NO'})"
        print(f"{row}: {ratio:.3f} of the loop{line}")
        held &= ok
    print(
        f"fault, staged: {table.ratio('fault, staged', 'ours', 'plain'):.2f} of one without tracking"
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
