"""Guest memory in huge pages: they are split as it goes out, and nothing is lost if they cannot."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hfsched.errors import UserError
from hfsched.memory import writeprotect
from hfsched.swap.core.pagemap import open_pagemap
from hfsched.swap.pages.entries import Staging

from .guestmemory import MIB, PAGE, World, needs_userfault

pytestmark = needs_userfault

both = pytest.mark.parametrize("staging", Staging)
HUGE = 2 * MIB
COLLAPSE = 25  # madvise; Linux 6.1


class Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


@contextmanager
def in_huge_pages(world: World, *, held: bool = False) -> Iterator[None]:
    """Put the guest's memory into huge pages; `held`: a page of each is pinned."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = world.guest.ram.size
    room = mmap.mmap(-1, size + HUGE, flags=mmap.MAP_PRIVATE)
    anchor = ctypes.c_char.from_buffer(room)
    start = -(-ctypes.addressof(anchor) // HUGE) * HUGE
    shared_fixed = 0x11
    place = libc.mmap(
        ctypes.c_void_p(start), ctypes.c_size_t(size), 3, shared_fixed, world.guest.ram.fd, 0
    )
    assert place == start
    made = [
        address
        for address in range(start, start + size, HUGE)
        if not libc.madvise(ctypes.c_void_p(address), ctypes.c_size_t(HUGE), COLLAPSE)
    ]
    if not made:
        pytest.skip("no huge pages for shared memory here")
    ends = os.pipe()
    if held:
        for address in made:
            vector = Vector(address, PAGE)
            assert libc.vmsplice(ends[1], ctypes.byref(vector), 1, 0) == PAGE
    try:
        yield
    finally:
        for end in ends:
            os.close(end)
        del anchor
        room.close()


@both
def test_huge_pages_go_out_in_parts(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, pages=1024, staging=staging) as world, in_huge_pages(world):
        world.enable()
        world.swap.swap_out(100)
        for page in range(1024):
            world.guest.check(page)
        world.enable()
        world.out()
        assert world.swap.in_memory() == 0
        world.guest.check_all()


def test_a_pinned_huge_page_stays(tmp_path: Path) -> None:
    with World(tmp_path, pages=1024) as world:
        with in_huge_pages(world, held=True):
            world.enable()
            progress = world.swap.swap_out(100)
            assert progress.problem == "freeing guest memory: Device or resource busy"
            assert world.swap.counts().busy == 0
            assert world.swap.counts().file == 0
            world.guest.check_all()
        world.enable()
        world.out()
        assert world.swap.in_memory() == 0
        world.guest.check_all()


def test_a_huge_page_that_cannot_be_moved_is_reported_and_undone(tmp_path: Path) -> None:
    with World(tmp_path, pages=1024, staging=Staging.COPY) as world:
        world.enable()
        world.swap.swap_out(100)
        world.swap.unstage()
        # Pages 100 to 611 are moved together: the second huge page in two parts.
        with in_huge_pages(world, held=True):
            with pytest.raises(UserError, match="it is in huge pages"):
                world.swap.stage()
            assert world.swap.counts().staged == 0
            world.guest.check_all()
        assert world.enable() > 0
        world.out()
        world.guest.check_all()


@pytest.mark.skipif(writeprotect.problem() is not None, reason=str(writeprotect.problem()))
@pytest.mark.parametrize("collapsed", ["before it is tracked", "after that"])
def test_no_write_to_huge_pages_is_missed(tmp_path: Path, collapsed: str) -> None:
    """More pages than were written may be dirty then."""
    drawn = random.Random(3)
    with World(tmp_path, pages=4 * HUGE // PAGE) as world:
        ram, pages = world.guest.ram, world.guest.pages
        ram.write(0, b"x" * ram.size)
        uffd, pagemap = writeprotect.open_tracker(), open_pagemap()

        def written() -> set[int]:
            runs = writeprotect.written(pagemap, ram.address, ram.size, protect=True)
            return {first + each for first, count in runs for each in range(count)}

        with ExitStack() as stack:
            stack.callback(os.close, uffd)
            stack.callback(os.close, pagemap)
            if collapsed == "before it is tracked":
                stack.enter_context(in_huge_pages(world))
            writeprotect.register(uffd, ram.address, ram.size, faults=False)
            assert written() == set(range(pages))
            ram.read(0, ram.size)
            assert written() == set()
            ram.write(5 * PAGE, b"y")
            if collapsed == "after that":
                stack.enter_context(in_huge_pages(world))
            ram.read(0, ram.size)
            assert 5 in written()
            for _ in range(50):
                now = {drawn.randrange(pages) for _ in range(drawn.randrange(4))}
                for page in now:
                    ram.write(page * PAGE, b"z")
                ram.read(0, ram.size)
                assert now <= written()
