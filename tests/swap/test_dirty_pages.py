"""A page store and two processes that map its memory: no change is missed, nothing else is dirty."""

from __future__ import annotations

import os
import random
import secrets
import struct
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Self

import pytest

from hfsched.memory import writeprotect
from hfsched.memory.dirty import DirtyTracker, TrackedProcess, TrackedRange
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.swap.core.guestpages import GuestPages, Region, zap
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.core.stores import Stores
from hfsched.swap.core.table import TRACKED_OFFSET
from hfsched.swap.pages.entries import Staging
from hfsched.swap.pages.store import Phase

from .guestmemory import PAGE, needs_lz4, needs_userfault, through, userfault

pytestmark = [
    needs_userfault,
    pytest.mark.skipif(writeprotect.problem() is not None, reason=str(writeprotect.problem())),
]

SIZES = {"one": 640, "two": 33}  # pages; the first has more than a page table's
ROUNDS = int(os.environ.get("HFSCHED_DIRTY_ROUNDS", "80"))


class Mapping:
    """A mapping of all memory with a userfaultfd of its own: what another process would have."""

    def __init__(self, name: str, rams: dict[str, Ram]) -> None:
        self.rams = rams
        self.uffd = userfault()
        self.pagemap = open_pagemap()
        ranges = tuple(TrackedRange(vm, ram.address, ram.size) for vm, ram in rams.items())
        self.process = TrackedProcess(name, self, self.uffd, self.pagemap, ranges, served=True)

    def zap(self) -> None:
        for ram in self.rams.values():
            zap(ram.address, ram.size)

    def close(self) -> None:
        os.close(self.uffd)
        os.close(self.pagemap)


class World:
    """See `hfsched.memory.dirty.Source`, which this is; contents are read past the swap by nobody."""

    def __init__(self, directory: Path, staging: Staging, tier: int, around: int = 8) -> None:
        with ExitStack() as undo:
            first = {name: Ram(name, pages * PAGE) for name, pages in SIZES.items()}
            second = {name: Ram(name, ram.size, os.dup(ram.fd)) for name, ram in first.items()}
            for ram in (*first.values(), *second.values()):
                undo.callback(ram.close)
            self.main, self.other = Mapping("main", first), Mapping("other", second)
            undo.callback(self.main.close)
            undo.callback(self.other.close)
            self.pages = sum(SIZES.values())
            self.stores = Stores.create(directory, self.pages, staging, tier)
            undo.callback(self.stores.close)
            self.around = around
            self.swap = self.serve()
            undo.callback(self._close_swap)
            self._runtime = ThreadRuntime()
            undo.callback(self._runtime.close)
            self.tracker = DirtyTracker(self._runtime, SIZES, self)
            self._stack = undo.pop_all()

    def serve(self) -> GuestPages:
        regions = [Region(ram.fd, ram.size // PAGE) for ram in self.main.rams.values()]
        swap = GuestPages(self.stores, regions, around=self.around)
        for each in (self.main, self.other):
            bases = [ram.address for ram in each.rams.values()]
            swap.add_member(each.uffd, bases, pagemap=each.pagemap)
        swap.take_over()
        swap.start()
        return swap

    def _close_swap(self) -> None:
        self.swap.close()  # whichever serves at the end

    def take_over(self) -> None:
        """Let another store go on."""
        self.swap.close()
        self.swap = self.serve()

    def enable(self) -> None:
        self.swap.stage()
        if self.stores.staging is Staging.MINOR:
            self.main.zap()
            self.other.zap()
        self.swap.zapped()

    def disable(self) -> None:
        through(self.swap.swap_in, 100)
        self.swap.release()

    def discard(self, name: str, first: int, count: int) -> None:
        start = first + (0 if name == "one" else SIZES["one"])
        with self.tracker.discarding(name, first, count):
            assert self.swap.discard(start, count).problem is None

    def contents(self, by: Mapping | None = None) -> dict[str, list[bytes]]:
        return {
            name: [ram.read(page * PAGE, PAGE) for page in range(ram.size // PAGE)]
            for name, ram in (by or self.main).rams.items()
        }

    def dirty(self, *, rearm: bool = True) -> dict[str, set[int]]:
        found = self.tracker.collect(rearm=rearm)
        assert found.why_all is None
        return {
            name: {first + each for first, count in runs for each in range(count)}
            for name, runs in found.runs.items()
        }

    # Source.

    def why_not(self) -> str | None:
        return writeprotect.problem()

    def processes(self) -> list[TrackedProcess]:
        return [self.main.process, self.other.process]

    def note(self, *, tracked: bool) -> None:
        os.pwrite(self.stores.table, struct.pack("=I", tracked), TRACKED_OFFSET)

    def out(self) -> bool:
        return self.swap.phase() is not Phase.OFF

    def close(self) -> None:
        """See `Source`: the world closes what it has opened."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tracker.close()
        self._stack.close()


KINDS = [
    pytest.param(Staging.MINOR, 0, id="minor"),
    pytest.param(Staging.MINOR, 1 << 20, id="minor-tier", marks=needs_lz4),
    pytest.param(Staging.COPY, 0, id="copy"),
]


class Story:
    """Draws what happens, and knows what has changed and what was written."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.drawn = random.Random(seed)
        self.written: dict[str, set[int]] = {name: set() for name in SIZES}

    def place(self) -> tuple[str, int, int]:
        name = self.drawn.choice(list(SIZES))
        pages = SIZES[name]
        first = self.drawn.choice([0, pages - 1, self.drawn.randrange(pages)])
        return name, first, min(pages - first, self.drawn.choice([1, 1, 2, 9, 600]))

    def step(self) -> None:
        what = self.drawn.choice(
            ["write", "write", "read", "enable", "out", "some", "disable", "discard", "trim", "zap"]
            + ["take over"] * (self.drawn.random() < 0.1)
        )
        swap, off = self.world.swap, self.world.swap.phase() is Phase.OFF
        settled = self.world.swap.phase() is Phase.SETTLED
        if what in ("write", "read"):
            name, first, count = self.place()
            ram = self.drawn.choice([self.world.main, self.world.other]).rams[name]
            if what == "read":
                ram.read(first * PAGE, count * PAGE)
                return
            data = self.drawn.choice([bytes(count * PAGE), self.drawn.randbytes(8) * 512 * count])
            ram.write(first * PAGE, data)
            self.written[name] |= set(range(first, first + count))
        elif what == "discard":
            name, first, count = self.place()
            self.world.discard(name, first, count)
            self.written[name] |= set(range(first, first + count))
        elif what == "enable":
            self.world.enable()
        elif what == "zap":  # as the kernel does when it reclaims memory
            self.drawn.choice([self.world.main, self.world.other]).zap()
        elif what == "disable" and not off:
            self.world.disable()
        elif what == "out" and settled:
            through(swap.swap_out, 100)
        elif what == "some" and settled:
            swap.swap_out(self.drawn.randrange(100))
        elif what == "trim" and settled:
            through(swap.trim, 100)
        elif what == "take over":
            self.world.take_over()


on_every_kind = pytest.mark.parametrize(("staging", "tier"), KINDS)


@on_every_kind
@pytest.mark.parametrize("around", [1, 8])
def test_exactly_what_was_written_is_dirty(
    tmp_path: Path, staging: Staging, tier: int, around: int
) -> None:
    """Whoever copies the dirty pages of each time, as incremental layers do, has all contents."""
    seed = secrets.randbits(32)
    with World(tmp_path, staging, tier, around) as world:
        story = Story(world, seed)
        assert world.tracker.start() is None
        copies = world.contents()
        for _ in range(ROUNDS):
            for _ in range(story.drawn.randrange(12)):
                story.step()
            if story.drawn.random() < 0.3:
                assert world.dirty(rearm=False) == story.written, f"seed {seed}"
            found = world.dirty()
            assert found == story.written, f"seed {seed}"
            story.written = {name: set() for name in SIZES}
            reader = story.drawn.choice([world.main, world.other])
            for name, pages in found.items():
                for page in pages:
                    copies[name][page] = reader.rams[name].read(page * PAGE, PAGE)
            if story.drawn.random() < 0.2:
                assert copies == world.contents(reader), f"seed {seed}"
        assert copies == world.contents(), f"seed {seed}"


def test_changes_are_found_while_memory_moves_and_is_written(tmp_path: Path) -> None:
    """Writers pause for an Enable alone, not for what collects."""
    seed = secrets.randbits(32)
    with World(tmp_path, Staging.MINOR, 1 << 20) as world:
        frozen = threading.Lock()
        stop = threading.Event()

        def write(number: int, by: Mapping) -> None:
            drawn, count = random.Random(seed + number), 0
            while not stop.is_set():
                count += 1
                name = drawn.choice(list(SIZES))
                page = drawn.randrange(SIZES[name])
                with frozen:
                    by.rams[name].write(page * PAGE + 8 * number, count.to_bytes(8, "little"))

        def move() -> None:
            drawn = random.Random(seed)
            while not stop.is_set():
                with frozen:
                    world.enable()
                world.swap.swap_out(drawn.randrange(1, 300))
                if drawn.random() < 0.5:
                    world.discard("one", drawn.randrange(SIZES["one"] - 3), 3)
                through(world.swap.swap_out, 100)
                if drawn.random() < 0.5:
                    world.disable()

        threads = [
            threading.Thread(target=write, args=(0, world.main), daemon=True),
            threading.Thread(target=write, args=(1, world.other), daemon=True),
            threading.Thread(target=move, daemon=True),
        ]
        assert world.tracker.start() is None
        copies = world.contents()

        def collect() -> int:
            found = world.dirty()
            for name, pages in found.items():
                for page in pages:
                    copies[name][page] = world.main.rams[name].read(page * PAGE, PAGE)
            return sum(map(len, found.values()))

        for thread in threads:
            thread.start()
        counts = [collect() for _ in range(ROUNDS)]
        stop.set()
        for thread in threads:
            thread.join()
        collect()
        assert sum(counts) > 0
        assert copies == world.contents(), f"seed {seed}"


@on_every_kind
def test_a_page_that_one_has_written_is_not_so_in_the_other(
    tmp_path: Path, staging: Staging, tier: int
) -> None:
    with World(tmp_path, staging, tier) as world:
        assert world.tracker.start() is None
        world.main.rams["one"].write(5 * PAGE, b"x")
        world.enable()
        assert (
            world.other.rams["one"].read(5 * PAGE, 1) == b"x"
        )  # brought in there, without a write
        assert world.dirty() == {"one": {5}, "two": set()}
        assert world.main.rams["one"].read(5 * PAGE, 1) == b"x"
        assert world.dirty() == {"one": set(), "two": set()}


@on_every_kind
def test_a_whole_page_table_of_written_pages(tmp_path: Path, staging: Staging, tier: int) -> None:
    """The kernel frees it when they are unmapped, with all that it knew."""
    with World(tmp_path, staging, tier) as world:
        assert world.tracker.start() is None
        ram = world.main.rams["one"]
        ram.write(0, b"x" * ram.size)
        world.enable()
        through(world.swap.swap_out, 100)
        world.disable()
        world.enable()
        ram.read(0, ram.size)
        assert world.dirty() == {"one": set(range(SIZES["one"])), "two": set()}
        ram.read(0, ram.size)
        assert world.dirty() == {"one": set(), "two": set()}


def test_after_disable_faults_are_still_served_until_a_final_release(tmp_path: Path) -> None:
    with World(tmp_path, Staging.MINOR, 0) as world:
        assert world.tracker.start() is None
        world.enable()
        world.disable()
        world.main.rams["one"].read(0, PAGE)
        assert world.swap.counts().events["faults"] > 0
        assert world.dirty() == {"one": set(), "two": set()}
        world.swap.release(final=True)
        world.swap.close()  # nobody serves from here on
        for process in world.processes():
            assert process.pagemap is not None
            for part in process.ranges:  # else an access would wait for ever
                assert not writeprotect.is_tracked(process.pagemap, part.base, part.size)
        world.main.rams["one"].write(3 * PAGE, b"x")
        world.other.rams["one"].read(600 * PAGE, PAGE)
        assert world.tracker.collect().why_all is not None


def test_without_page_tables_all_that_came_in_is_dirty(tmp_path: Path) -> None:
    """A member that main does not track is registered without write protection."""
    with World(tmp_path, Staging.MINOR, 0) as world:
        world.main.process = TrackedProcess(
            "main", world.main, world.main.uffd, None, world.main.process.ranges, served=True
        )
        assert world.tracker.start() == "main: its userfaultfd has no WP_ASYNC"
        assert world.tracker.collect().why_all == "main: its userfaultfd has no WP_ASYNC"
        world.enable()
        assert world.main.rams["one"].read(0, 1) == bytes(1)
