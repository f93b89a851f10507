"""Failing reads and writes: nothing is lost, the error is reported, and it may be retried."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from hfsched.errors import UserError
from hfsched.swap.core import device
from hfsched.swap.core.guestpages import GuestPages, Liveness, Region
from hfsched.swap.core.stores import Stores, SwapFile
from hfsched.swap.pages.entries import Staging
from hfsched.swap.pages.store import Phase

from .children import Member
from .guestmemory import PAGE, World, needs_userfault, plain, through, userfault

pytestmark = needs_userfault

both = pytest.mark.parametrize("staging", Staging)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@both
def test_a_full_file_leaves_pages_where_they_were(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, staging=staging) as world:
        world.enable()
        with no_file_longer_than(100 * PAGE):
            progress = world.swap.swap_out(2000)
            assert progress.problem == "swap file: File too large"
            assert not progress.done
            counts = world.swap.counts()
            assert counts.file == 100
            assert counts.staged == 1024 - counts.file - counts.zero
            assert counts.busy == 0
            for page in range(0, 1024, 5):
                world.guest.check(page)
            assert world.swap.swap_out(2000).problem is not None
        world.out()
        assert world.swap.counts().staged == 0
        world.disable()
        world.guest.check_all()


@both
def test_a_full_file_while_pages_are_touched(tmp_path: Path, staging: Staging) -> None:
    with World(tmp_path, staging=staging) as world, world.guest.running():
        for _ in range(5):
            world.enable()
            with no_file_longer_than(64 * PAGE):
                while (progress := world.swap.swap_out(50)).problem is None and not progress.done:
                    pass
            world.swap.swap_out(200)
        world.disable()
    assert world.guest.bad == []


def test_a_fault_waits_for_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        world.enable()
        world.out()
        file = plain(world.stores.swap_file)
        saved = os.pread(file, 64 * PAGE, 0)
        os.ftruncate(file, 0)
        reader = threading.Thread(target=world.guest.check, args=(8,), daemon=True)
        reader.start()
        while world.events("read_errors") < 2:
            pass
        progress = world.swap.swap_in(64)
        assert progress.problem == "swap file: Input/output error"
        assert world.swap.counts().file > 0
        os.pwrite(file, saved, 0)
        os.close(file)
        reader.join()
        world.disable()
        world.guest.check_all()


def test_a_page_is_read_alone_if_its_neighbours_cannot_be(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        for page in range(64):
            world.guest.ram.write(page * PAGE, b"%4d" % page * (PAGE // 4))
        world.enable()
        world.out()
        file = plain(world.stores.swap_file)
        saved = os.pread(file, 64 * PAGE, 0)
        os.ftruncate(file, 10 * PAGE)
        got: list[bytes] = []
        reader = threading.Thread(
            target=lambda: got.append(world.guest.ram.read(9 * PAGE, 4)), daemon=True
        )
        reader.start()
        while reader.is_alive():
            assert world.events("read_errors") == 0
        assert got == [b"   9"]
        os.pwrite(file, saved, 0)
        os.close(file)
        world.disable()
        assert world.guest.ram.read(63 * PAGE, 4) == b"  63"


def test_a_file_that_cannot_be_cut_is_no_loss(tmp_path: Path) -> None:
    stores = Stores.create(tmp_path, 64, Staging.MINOR)
    for fd in (stores.swap_file.out, stores.swap_file.into):
        os.close(fd)
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    stores = replace(stores, file=SwapFile(sealed, os.dup(sealed), direct=False))
    with World(tmp_path, pages=64, stores=stores) as world:
        for _ in range(2):
            world.enable()
            world.out()
            with pytest.raises(
                UserError, match=r"^swap file: truncating it: Operation not permitted$"
            ):
                world.disable()
            assert world.swap.phase() is Phase.OFF
            assert world.swap.shrink(64).problem == "swap file: Operation not permitted"
            world.guest.check_all()


def test_a_dead_process_is_found_and_the_others_are_served(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        other = Member(world.guest.ram.fd, 64)
        world.enable()
        world.out()
        number = world.swap.add_member(other.uffd, [other.base], dynamic=True)
        assert other.read(7) == world.guest.content(7, 1)
        assert world.swap.liveness(number) is Liveness.ALIVE
        other.kill()
        assert world.swap.liveness(number) is Liveness.DEAD
        assert world.events("lost") == 1
        world.guest.check_all()
        world.swap.remove_member(number)
        assert world.swap.liveness(number) is Liveness.GONE
        os.close(other.uffd)
        other.end.close()
        world.disable()
        world.guest.check_all()


def test_a_process_that_died_hinders_neither_an_end_nor_a_beginning(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        other = Member(world.guest.ram.fd, 64)
        number = world.swap.add_member(other.uffd, [other.base], dynamic=True)
        world.enable()
        other.kill()
        world.out()
        world.disable()
        assert world.swap.counts().phase is Phase.OFF
        world.guest.check_all()
        world.enable()
        assert world.swap.liveness(number) is Liveness.DEAD
        world.out()
        world.guest.check_all()
        world.swap.remove_member(number)
        os.close(other.uffd)
        other.end.close()


def test_a_member_that_is_no_process_is_refused(tmp_path: Path) -> None:
    with World(tmp_path, pages=64) as world:
        world.enable()
        uffd = userfault()
        with pytest.raises(UserError, match="registering a process's memory"):
            world.swap.add_member(uffd, [0x1000])  # nothing is mapped there
        os.close(uffd)


def test_what_a_refused_member_has_registered_stays_so_while_pages_are_out(
    tmp_path: Path,
) -> None:
    """Unregistered, an access would read zeros, and so would every other process afterwards."""
    with World(tmp_path, pages=64) as world, World(tmp_path, pages=8) as second:
        world.swap.close()
        both_stores = Stores.create(tmp_path, 72, Staging.MINOR)
        regions = [Region(world.guest.ram.fd, 64), Region(second.guest.ram.fd, 8)]
        bases = [world.guest.ram.address, second.guest.ram.address]
        swap = GuestPages(both_stores, regions)
        swap.add_member(world.userfault, bases)
        swap.start()
        swap.stage()
        world.guest.zap()
        second.guest.zap()
        swap.zapped()
        through(swap.swap_out, 100)
        swap.close()
        swap = GuestPages(both_stores, regions)
        swap.take_over()
        with pytest.raises(UserError, match="registering a process's memory"):
            swap.add_member(world.userfault, [bases[0], 0x1000])  # nothing is mapped there
        reader = threading.Thread(target=world.guest.check, args=(7,), daemon=True)
        reader.start()
        while reader.is_alive() and not select.select([world.userfault], [], [], 0)[0]:
            pass
        swap.start()
        swap.add_member(world.userfault, bases)
        reader.join()
        through(swap.swap_in, 100)
        swap.release()
        swap.close()
        both_stores.close()
        world.guest.check_all()
        second.guest.check_all()


def threads() -> set[int]:
    return {int(name) for name in next(os.walk("/proc/self/task"))[1]}


@pytest.fixture
def one_processor() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may bring a thread back from SCHED_IDLE")
@pytest.mark.usefixtures("one_processor")
def test_a_member_is_not_taken_for_the_one_that_was_at_its_place(tmp_path: Path) -> None:
    before = threads()
    with World(tmp_path, pages=64, around=1) as world:
        (thread,) = threads() - before
        status = Path(f"/proc/self/task/{thread}/stat")
        world.enable()
        for page in range(0, 60, 3):
            one, other = userfault(), userfault()
            number = world.swap.add_member(one, [None], dynamic=True)
            world.guest.check(page)
            world.guest.check(page + 1)
            while ") S " not in status.read_text():  # it polls the new one
                pass
            # It learns late that the member is gone.
            os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
            world.swap.remove_member(number)
            os.close(one)
            assert number == world.swap.add_member(other, [None], dynamic=True)
            os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
            world.guest.check(page + 2)
            assert world.swap.liveness(number) is Liveness.ALIVE
            world.swap.remove_member(number)
            os.close(other)


def test_liveness_of_members_and_of_other_descriptors() -> None:
    """Only 0 means alive: an unknown request is no evidence."""
    lib = device.core().lib
    uffd = userfault()
    assert lib.hfs_uffd_probe(uffd) == 0
    os.close(uffd)
    null = os.open("/dev/null", os.O_RDWR)
    assert lib.hfs_uffd_probe(null) == -errno.ENOTTY
    os.close(null)


def test_more_processes_than_can_be_served_are_refused(tmp_path: Path) -> None:
    with World(tmp_path, pages=8) as world:
        address = world.guest.ram.address
        for _ in range(63):
            world.swap.add_member(world.userfault, [address])
        with pytest.raises(UserError, match=r"^swap: 64 processes are served already$"):
            world.swap.add_member(world.userfault, [address])


def test_faults_beyond_the_queue_stay_with_the_kernel(tmp_path: Path) -> None:
    """A member whose faults cannot be served: nothing grows, and its end frees all of the queue."""
    with World(tmp_path, pages=64) as world:
        theirs, ours = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)  # no userfaultfd: every request fails
        number = world.swap.add_member(theirs, [1 << 30], dynamic=True)
        before = world.events("faults")
        queue = world.swap._lib.HFS_QUEUE
        messages = b"".join(
            struct.pack("<B7xQQQ", 0x12, 0, (1 << 30) + page * PAGE, 0) for page in range(64)
        )
        sent = 0
        while world.events("faults") - before <= queue - 128:
            with suppress(BlockingIOError):
                sent += os.write(ours, messages) // 32
        with suppress(BlockingIOError):
            while True:  # until the pipe is full: nobody reads it any more
                sent += os.write(ours, messages) // 32
        assert world.events("faults") - before <= queue < sent
        world.swap.remove_member(number)
        os.close(theirs)
        os.close(ours)
        world.enable()
        world.out()
        world.guest.check_all()
        world.disable()
