"""Pages that a snapshot has yet to write: whoever comes first, it gets them as they were."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from progress import until

from hfsched.errors import UserError
from hfsched.swap.core.device import core
from hfsched.swap.core.guestpages import Region
from hfsched.swap.core.pagereader import READ_MAX, OwedPages
from hfsched.swap.core.stores import aside_size
from hfsched.swap.core.table import CoreTable
from hfsched.swap.pages.entries import Entry, State
from hfsched.swap.report.footprint import allocated

from .guestmemory import MIB, PAGE, World, needs_lz4, needs_userfault, plain

pytestmark = needs_userfault

PAGES = 1024
MAP = PAGE  # bytes: a byte for each page, in whole pages
OWED, ASIDE, WRITTEN = range(3)


@contextmanager
def owing(world: World) -> Iterator[OwedPages]:
    """Yield what takes pages of a snapshot of all memory as it is now."""
    regions = [Region(world.guest.ram.fd, PAGES)]
    with closing(OwedPages(world.stores, regions, lambda: None)) as owed:
        owed.begin()
        with world.guest.frozen:
            owed.owe(0, PAGES)
            world.swap.stage()
            world.guest.zap()
            world.swap.zapped()
        yield owed
        owed.stop()
        world.swap.quiesce()
        owed.drop()
        assert allocated(aside(world)) <= MAP


def aside(world: World) -> int:
    assert world.stores.aside is not None
    return world.stores.aside


def kinds(world: World) -> bytes:
    return os.pread(aside(world), PAGES, 0)


def copied(world: World, page: int) -> bytes:
    return os.pread(aside(world), PAGE, MAP + page * PAGE)


def taken(owed: OwedPages, first: int, count: int, at_once: int = 100) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < count:
        room = memoryview(bytearray(min(at_once, count - len(found)) * PAGE))
        done, zero = owed.take(first + len(found), room)
        data = bytes(PAGE * done) if zero else bytes(room[: done * PAGE])
        found += [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    return found


def contents(world: World, first: int = 0, count: int = PAGES) -> list[bytes]:
    guest = world.guest
    return [guest.content(page, guest.versions[page]) for page in range(first, first + count)]


def touch(world: World, page: int) -> None:
    """Give a page new contents."""
    world.guest.check(page)
    world.guest.write(page, world.guest.versions[page] + 2)


@needs_lz4
@pytest.mark.parametrize("at_once", [1, 100, PAGES])
def test_pages_in_every_place_are_as_they_were(at_once: int, tmp_path: Path) -> None:
    with World(tmp_path, PAGES, tier=MIB // 8, filled=900) as world:
        world.enable()
        world.swap.swap_out(600)
        was = contents(world)
        with owing(world) as owed:
            for page in range(0, PAGES, 3):
                touch(world, page)
            assert kinds(world)[:PAGES:3] == bytes([ASIDE]) * len(range(0, PAGES, 3))
            assert taken(owed, 0, PAGES // 2, at_once) == was[: PAGES // 2]
            for page in range(PAGES):
                touch(world, page)
            assert taken(owed, PAGES // 2, PAGES // 2, at_once) == was[PAGES // 2 :]
            assert kinds(world) == bytes([WRITTEN]) * PAGES
            assert allocated(aside(world)) <= MAP, "what was taken is freed"
        world.guest.check_all()
        world.swap.unstage()
        world.disable()
        world.guest.check_all()


def test_what_is_written_already_is_not_copied(tmp_path: Path) -> None:
    with World(tmp_path, PAGES) as world:
        was = contents(world)
        with owing(world) as owed:
            assert taken(owed, 0, PAGES) == was
            for page in range(PAGES):
                touch(world, page)
            assert allocated(aside(world)) <= MAP
        world.guest.check_all()


def test_a_page_that_was_zero_takes_no_memory_aside(tmp_path: Path) -> None:
    with World(tmp_path, PAGES, filled=0) as world, owing(world) as owed:
        for page in range(PAGES):
            world.guest.write(page, 1)
        assert kinds(world) == bytes([ASIDE]) * PAGES
        assert allocated(aside(world)) <= MAP
        assert taken(owed, 0, PAGES) == [bytes(PAGE)] * PAGES


def test_pages_that_are_not_owed_are_not_copied_and_not_taken(tmp_path: Path) -> None:
    with World(tmp_path, PAGES) as world:
        regions = [Region(world.guest.ram.fd, PAGES)]
        with closing(OwedPages(world.stores, regions, lambda: None)) as owed:
            owed.begin()
            was = contents(world, 7, 1)
            owed.owe(7, 1)
            world.enable()
            for page in range(PAGES):
                touch(world, page)
            assert taken(owed, 7, 1) == was
            for page in (7, 8):
                with pytest.raises(
                    UserError, match=f"^guest memory: page {page} cannot be read: Invalid argument$"
                ):
                    owed.take(page, memoryview(bytearray(READ_MAX * PAGE)))
            owed.stop()
            owed.drop()


def test_a_monitor_that_dies_while_it_copies_a_page_leaves_it_to_the_next(tmp_path: Path) -> None:
    with World(tmp_path, PAGES) as world:
        was = contents(world)
        with owing(world) as owed:
            touch(world, 1)
            world.swap.close()
            for page in (3, 4):  # half a copy, and not said to be one
                os.pwrite(aside(world), b"half" * 512, MAP + page * PAGE)
            world.swap = world.serve()
            touch(world, 3)
            assert copied(world, 3) == was[3]
            assert taken(owed, 0, PAGES) == was
        world.guest.check_all()


def test_a_fault_waits_while_its_page_cannot_be_kept(tmp_path: Path) -> None:
    with World(tmp_path, PAGES) as world:
        world.enable()
        world.out()
        was = contents(world)
        with owing(world) as owed:
            slot = os.fstat(world.stores.swap_file.into).st_size // PAGE - 1
            page = page_in(world, slot)
            os.ftruncate(world.stores.swap_file.out, slot * PAGE)
            toucher = threading.Thread(target=touch, args=(world, page))
            toucher.start()
            until(lambda: world.events("read_errors"), lambda count: count > 2)
            assert kinds(world)[page] == OWED
            assert toucher.is_alive()
            file = plain(world.stores.swap_file)
            os.pwrite(file, was[page], slot * PAGE)
            os.close(file)
            toucher.join()
            assert taken(owed, page, 1) == [was[page]]
        world.guest.check_all()


def page_in(world: World, slot: int) -> int:
    """Return the page that is in a slot of the file."""
    table = CoreTable(world.stores.table, PAGES)
    found = [
        page for page in range(PAGES) if table.entry(page) == Entry(State.FILE, State.FILE, 0, slot)
    ]
    table.close()
    return found[0]


@needs_lz4
@pytest.mark.parametrize("seed", range(4))
def test_guests_that_write_all_the_while(seed: int, tmp_path: Path) -> None:
    drawn = random.Random(seed)
    with World(tmp_path, PAGES, tier=MIB // 8) as world, world.guest.running(3):
        for _ in range(4):
            world.enable()
            world.swap.swap_out(drawn.randrange(PAGES))
            regions = [Region(world.guest.ram.fd, PAGES)]
            with closing(OwedPages(world.stores, regions, lambda: None)) as owed:
                owed.begin()
                for suspended in (False, True):  # first while they run
                    if not suspended:
                        world.swap.stage()
                        world.guest.zap()
                        continue
                    with world.guest.frozen:
                        was = contents(world)
                        owed.owe(0, PAGES)
                        world.swap.stage()
                        world.guest.zap()
                        world.swap.zapped()
                for first in range(0, PAGES, 64):
                    assert taken(owed, first, 64, drawn.randrange(1, 70)) == was[first : first + 64]
                owed.stop()
                world.swap.quiesce()
                owed.drop()
    assert world.guest.bad == []


def test_the_size_of_its_memfd_is_that_of_the_core() -> None:
    for pages in (1, 4096, 4097, 1 << 20):
        assert core().lib.hfs_aside_size(pages) == aside_size(pages)
