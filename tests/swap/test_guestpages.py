"""Guest memory through whole times of swapping, with contents checked, in one process."""

from __future__ import annotations

import os
import random
import resource
import threading
from pathlib import Path

import pytest

from hfsched.errors import InternalError
from hfsched.swap.core import device
from hfsched.swap.core.faultlog import LOG_MAX, LOGGED_OFFSET
from hfsched.swap.core.guestpages import GuestPages, Region
from hfsched.swap.core.table import CoreTable
from hfsched.swap.pages.entries import REGIONS_MAX, FaultAction, Staging, State
from hfsched.swap.pages.store import EVENTS, Phase, Progress

from .guestmemory import MIB, PAGE, World, needs_lz4, needs_userfault, through

pytestmark = needs_userfault

both = pytest.mark.parametrize("staging", Staging)
tiers = pytest.mark.parametrize("tier", [0, pytest.param(MIB, marks=needs_lz4)])


def test_names_and_numbers_are_those_of_the_core() -> None:
    lib = device.core().lib
    assert len(EVENTS) == lib.HFS_EVENTS
    assert len(State) == lib.HFS_STATES
    assert REGIONS_MAX == lib.HFS_REGIONS
    assert LOG_MAX == lib.HFS_LOG
    assert LOGGED_OFFSET == lib.HFS_LOGGED_OFFSET


@both
@tiers
def test_contents_stay_through_enable_out_faults_in_and_disable(
    tmp_path: Path, staging: Staging, tier: int
) -> None:
    with World(tmp_path, staging=staging, tier=tier, filled=900) as world:
        assert world.enable() == 900
        counts = world.swap.counts()
        assert (counts.staged, counts.phase) == (900, Phase.SETTLED)
        world.out()
        counts = world.swap.counts()
        assert counts.staged == 0
        assert counts.file > 0
        assert bool(counts.compressed) == bool(tier)
        assert world.swap.in_memory() == 0
        for page in range(0, 1024, 3):
            world.guest.check(page)
        world.disable()
        world.guest.check_all()
        counts = world.swap.counts()
        assert (counts.resident, counts.phase) == (1024, Phase.OFF)
        assert counts.tier_used == 0


@both
@tiers
def test_contents_stay_while_pages_are_touched_concurrently(
    tmp_path: Path, staging: Staging, tier: int
) -> None:
    with World(tmp_path, staging=staging, tier=tier) as world, world.guest.running():
        for turn in range(6):
            world.enable()
            through(world.swap.trim, 64)
            world.out(64)
            if turn % 3 == 2:
                world.disable()
        world.disable()
    assert world.guest.bad == []


@both
def test_disable_without_swap_out(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, staging=staging) as world:
        world.enable()
        world.disable()
        world.guest.check_all()


@both
def test_nothing_is_released_while_pages_are_out(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, staging=staging) as world:
        world.enable()
        world.out()
        with pytest.raises(InternalError):
            world.swap.release()
        world.guest.check_all()


@both
def test_nothing_goes_out_before_everybody_has_unmapped_it(
    tmp_path: Path, staging: Staging
) -> None:
    with World(tmp_path, staging=staging) as world:
        with pytest.raises(InternalError):
            world.swap.swap_out(1)
        world.swap.stage()
        with pytest.raises(InternalError):
            world.swap.swap_out(1)
        with pytest.raises(InternalError):
            world.swap.trim(1)
        world.swap.unstage()
        assert world.swap.counts().staged == 0
        world.guest.check_all()


@both
def test_trim_drops_zero_pages_and_pages_that_equal_their_copy(
    tmp_path: Path, staging: Staging
) -> None:
    with World(tmp_path, pages=64, staging=staging, around=1) as world:
        world.enable()
        world.out()
        written = world.events("written")
        for page in range(30):
            world.guest.check(page)
        world.guest.write(1, 6)  # 7 % 6: repeats
        world.guest.write(2, 4)  # zero
        touched = world.enable()
        pieces = through(world.swap.trim, 7)
        zero, clean = sum(p.zero for p in pieces), sum(p.clean for p in pieces)
        # Of 30 pages 5 were zero (5, 11 ...), and page 2 is now; 1 is neither.
        assert (touched, zero, clean) == (30, 6, 23)
        world.out()
        assert world.events("written") == written + 1
        assert through(world.swap.trim, 7) == [Progress(0, done=True)]
        world.guest.check_all()


@both
def test_a_second_swap_out_writes_what_came_back(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, staging=staging) as world:
        for _ in range(3):
            world.enable()
            world.out()
            for page in range(0, 1024, 2):
                world.guest.write(page, world.guest.versions[page] + 1)
        world.guest.check_all()


def test_neighbours_in_the_same_store_come_with_a_page(tmp_path: Path) -> None:
    with World(tmp_path, pages=64, around=16) as world:
        world.enable()
        world.guest.check(16)
        assert world.events("from_staging") == 16
        world.guest.check(17)
        assert world.events("faults") == 1
    with World(tmp_path, pages=64, around=1) as world:
        world.enable()
        world.guest.check(16)
        world.guest.check(17)
        assert world.events("from_staging") == 2


def test_a_page_that_was_never_touched_is_zero(tmp_path: Path) -> None:
    with World(tmp_path, pages=64, filled=0) as world:
        assert world.enable() == 0
        world.out()
        world.guest.check(5)
        assert world.events("zeroed") == 1
        world.guest.write(6, 1)
        world.disable()
        world.guest.check_all()


def test_regions_follow_each_other(tmp_path: Path) -> None:
    with World(tmp_path, pages=96) as world:
        world.swap.close()
        # The same memory once more, as if it were three VMs'.
        ram = world.guest.ram
        with pytest.raises(InternalError):
            GuestPages(world.stores, [Region(ram.fd, 95)])
        world.swap = world.serve()


def test_the_file_shrinks_piece_by_piece(tmp_path: Path) -> None:
    with World(tmp_path, pages=256) as world:
        world.enable()
        world.out()
        through(world.swap.swap_in, 100)
        world.swap.release(slow=True)
        pieces = through(world.swap.shrink, 64)
        assert sum(piece.moved for piece in pieces) == world.events("written")
        assert len(pieces) == 4
        world.guest.check_all()


@both
def test_enable_while_pages_are_out(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, pages=128, staging=staging) as world:
        world.enable()
        world.swap.swap_out(50)
        assert world.enable() == 0  # all else is still staged
        world.out()
        world.swap.swap_in(30)
        assert world.enable() > 0
        world.out()
        assert world.swap.counts().staged == 0
        world.guest.check_all()


def test_work_is_done_lowest_page_first(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        world.enable()
        moved = [world.swap.swap_out(10).moved for _ in range(3)]
        assert moved == [10, 10, 10]
        for page in range(30, 64):
            world.guest.check(page)
        assert world.events("from_file") == 0


@both
def test_one_page_faulted_by_many_at_once(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, pages=16, staging=staging, around=1) as world:

        def look() -> None:
            for page in range(16):
                world.guest.check(page)

        for _ in range(20):
            world.enable()
            world.out()
            threads = [threading.Thread(target=look, daemon=True) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert world.guest.bad == []


def test_a_fault_waits_until_a_page_is_published(tmp_path: Path) -> None:
    with World(tmp_path, pages=16) as world:
        table = CoreTable(world.stores.table, 16)
        world.enable()
        assert table.claim(5)
        assert table.publish(5, State.ZERO)
        reader = threading.Thread(target=world.guest.check, args=(5,), daemon=True)
        reader.start()
        while not world.events("waited"):
            pass
        assert table.entry(5).state is State.PUNCHING
        table.punched(5)
        world.out()  # publishing looks for faults that wait
        reader.join()
        assert table.entry(5).state is State.RESIDENT
        table.close()
        world.guest.check_all()


def test_disable_waits_for_a_page_that_a_fault_has_taken(tmp_path: Path) -> None:
    with World(tmp_path, pages=16, staging=Staging.COPY) as world:
        table = CoreTable(world.stores.table, 16, Staging.COPY)
        world.enable()
        assert table.fault(5) is FaultAction.COPY_STAGED
        for _ in range(3):
            assert not world.swap.swap_in(100).done
        assert table.untake(5)  # it could not be copied: it is staged again, behind the cursor
        table.close()
        world.disable()
        world.guest.check_all()


def pages_in(fd: int) -> int:
    return os.stat(fd).st_blocks * 512 // PAGE


def test_pages_that_are_taken_while_they_are_read_leave_no_staging_memory(tmp_path: Path) -> None:
    with World(tmp_path, pages=512, staging=Staging.COPY, around=1) as world:
        assert world.stores.staged is not None
        with world.guest.running(2):
            for turn in range(60):
                world.enable()
                if turn % 2:
                    through(world.swap.trim, 512)
                world.out(512)
                world.swap.quiesce()
                assert world.swap.counts().staged == 0
                assert pages_in(world.stores.staged) == 0


def test_disable_gives_back_what_could_not_be_before(tmp_path: Path) -> None:
    with World(tmp_path, pages=16) as world:
        table = CoreTable(world.stores.table, 16)
        world.enable()
        assert table.claim(5)
        assert table.publish(5, State.ZERO)
        table.close()
        world.disable()
        world.guest.check_all()


@needs_lz4
def test_what_faults_bring_in_leaves_room_in_the_compressed_tier(tmp_path: Path) -> None:
    pages = range(0, 600, 6)  # all of these repeat, and need 128 bytes each
    with World(tmp_path, pages=600, tier=4 * PAGE, filled=0) as world:
        for page in pages:
            world.guest.write(page, 1)
        for turn in range(1, 5):
            world.enable()
            world.out()
            assert world.events("compressed") == turn * len(pages)
            assert world.swap.counts().tier_used == 128 * len(pages)
            world.guest.check_all()
            assert world.swap.counts().tier_used == 0


@both
def test_read_ahead_is_discarded_when_the_file_changes(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, pages=64, staging=staging, around=1) as world:
        for text in (b"old ", b"new "):
            for page in range(64):
                world.guest.ram.write(page * PAGE, text * (PAGE // 4))
            world.enable()
            world.out()  # each time to the slots that have the pages' numbers
            if text == b"old ":
                world.swap.swap_in(8)  # and the rest is read ahead
        for page in range(8):
            world.guest.ram.read(page * PAGE, 4)
        world.swap.quiesce()
        world.disable()
        assert {world.guest.ram.read(page * PAGE, 4) for page in range(64)} == {b"new "}


@needs_lz4
def test_pages_that_can_be_compressed_are_found_behind_many_that_cannot(tmp_path: Path) -> None:
    with World(tmp_path, pages=1024, tier=MIB, filled=0) as world:
        for page in range(512):
            world.guest.ram.write(page * PAGE, random.Random(page).randbytes(PAGE))
        for page in range(512, 1024):
            world.guest.ram.write(page * PAGE, b"%d " % page * 512)
        world.enable()
        world.out(64)
        assert world.swap.counts().compressed > 490
        world.disable()
        for page in (0, 511):
            assert world.guest.ram.read(page * PAGE, PAGE) == random.Random(page).randbytes(PAGE)
        assert world.guest.ram.read(1023 * PAGE, 5) == b"1023 "


def test_no_other_process_can_open_or_see_the_file(tmp_path: Path) -> None:
    with World(tmp_path, pages=16) as world:
        world.enable()
        world.out()
        assert list(tmp_path.iterdir()) == []
        assert PAGE * 16 >= Path(f"/proc/self/fd/{world.stores.swap_file.out}").stat().st_size > 0
        assert Path(f"/proc/self/fd/{world.stores.swap_file.out}").stat().st_mode & 0o777 == 0


def test_what_serves_faults_is_locked_in_memory_as_far_as_the_limit_allows(tmp_path: Path) -> None:
    def locked() -> int:
        status = Path("/proc/self/status").read_text("ascii")
        return int(status.partition("VmLck:")[2].split()[0])  # KiB

    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with World(tmp_path, pages=64) as world:
        before = locked()
        if not world.swap.lock():
            assert soft != resource.RLIM_INFINITY
            return
        assert locked() - before > 2048  # the worker's buffer alone is 2 MiB
        world.enable()
        world.out()
        world.guest.check_all()
        world.disable()
