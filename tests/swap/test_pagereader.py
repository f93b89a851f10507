"""Pages are read where they are, in every state, and nothing is brought in."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from hfsched.errors import UserError
from hfsched.swap.core.guestpages import Region
from hfsched.swap.core.pagereader import READ_MAX, PageReader
from hfsched.swap.core.table import CoreTable
from hfsched.swap.pages.entries import Entry, Staging, State
from hfsched.swap.pages.store import Counts

from .guestmemory import MIB, PAGE, World, needs_lz4, needs_userfault

pytestmark = needs_userfault

PAGES = 1024


def counted(world: World) -> Counts:
    world.swap.quiesce()
    return world.swap.counts()


def reader_of(world: World) -> PageReader:
    def no_pause() -> None:
        raise AssertionError("no page is on its way here")

    return PageReader(world.stores, [Region(world.guest.ram.fd, PAGES)], no_pause)


def contents(reader: PageReader, pages: int = PAGES, at_once: int = 100) -> list[bytes]:
    """Return all pages as they are read."""
    found: list[bytes] = []
    while len(found) < pages:
        room = memoryview(bytearray(b"?" * min(at_once, pages - len(found)) * PAGE))
        done, zero = reader.read(len(found), room)
        assert 0 < done <= len(room) // PAGE
        assert not zero or bytes(room) == b"?" * len(room)
        data = bytes(PAGE * done) if zero else bytes(room[: done * PAGE])
        found += [data[at : at + PAGE] for at in range(0, len(data), PAGE)]
    return found


def expected(world: World) -> list[bytes]:
    guest = world.guest
    return [guest.content(page, guest.versions[page]) for page in range(PAGES)]


@needs_lz4
@pytest.mark.parametrize("staging", list(Staging))
def test_pages_are_read_in_the_file_the_tier_staged_and_zero(
    staging: Staging, tmp_path: Path
) -> None:
    with (
        World(tmp_path, PAGES, staging, tier=MIB // 8, filled=900) as world,
        closing(reader_of(world)) as reader,
    ):
        assert contents(reader) == expected(world), "nothing is swapped"
        world.enable()
        assert contents(reader) == expected(world)
        world.swap.swap_out(600)
        for page in range(0, PAGES, 7):
            world.guest.check(page)
        before = counted(world)
        assert min(before.file, before.compressed, before.zero, before.staged, before.resident) > 9
        memory = world.swap.in_memory()
        for at_once in (100, 1, PAGES):
            assert contents(reader, at_once=at_once) == expected(world)
        assert (counted(world), world.swap.in_memory()) == (before, memory)
        world.guest.check_all()
        assert contents(reader) == expected(world), "they have come in"


def test_pages_that_a_monitor_has_left_half_way_are_read(tmp_path: Path) -> None:
    with World(tmp_path, PAGES, tier=MIB // 8) as world, closing(reader_of(world)) as reader:
        world.enable()
        world.swap.swap_out(500)
        world.swap.close()  # it dies
        table = CoreTable(world.stores.table, PAGES)
        for page in range(PAGES):
            entry = table.entry(page)
            if entry.state in (State.FILE, State.COMPRESSED, State.ZERO):
                half = Entry(State.PUNCHING, entry.state, entry.length, entry.location)
                table.set_entry(page, half)
            elif entry.state is State.STAGED and page % 2:
                table.set_entry(page, Entry(State.WRITING))
        assert contents(reader) == expected(world)
        table.close()
        world.swap = world.serve()
        assert contents(reader) == expected(world)
        world.guest.check_all()


def test_a_page_that_a_fault_is_taking_is_waited_for(tmp_path: Path) -> None:
    with World(tmp_path, PAGES, Staging.COPY) as world:
        world.enable()
        world.swap.close()
        table = CoreTable(world.stores.table, PAGES, Staging.COPY)
        before = table.entry(7)
        table.set_entry(7, Entry(State.TAKING))
        pauses: list[int] = []

        def pause() -> None:
            pauses.append(1)
            if len(pauses) == 3:
                table.set_entry(7, before)

        regions = [Region(world.guest.ram.fd, PAGES)]
        with closing(PageReader(world.stores, regions, pause)) as reader:
            assert contents(reader) == expected(world)
        assert len(pauses) == 3
        table.close()
        world.swap = world.serve()


def test_a_copy_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with World(tmp_path, PAGES) as world, closing(reader_of(world)) as reader:
        world.enable()
        world.out()
        os.ftruncate(world.stores.swap_file.out, 0)
        room = memoryview(bytearray(READ_MAX * PAGE))
        with pytest.raises(
            UserError, match=r"^guest memory: page 0 cannot be read: Input/output error$"
        ):
            reader.read(0, room)
        world.swap.close()
        table = CoreTable(world.stores.table, PAGES)
        for page in range(PAGES):
            table.set_entry(page, Entry())
        table.close()
        world.swap = world.serve()
