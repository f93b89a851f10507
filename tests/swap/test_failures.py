"""What cannot be written or read: nothing is lost, somebody is told, and it may be tried again."""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from hfsched.errors import UserError
from hfsched.swap.entries import Staging
from hfsched.swap.guestpages import Liveness
from hfsched.swap.pages import Phase
from hfsched.swap.stores import Stores, SwapFile

from .children import Member
from .house import PAGE, World, needs_userfault, userfault

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
def test_a_full_file_while_somebody_touches_pages(tmp_path: Path, staging: Staging) -> None:
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
        plain = os.open(f"/proc/self/fd/{world.stores.file.into}", os.O_RDWR)
        saved = os.pread(plain, 64 * PAGE, 0)
        os.ftruncate(plain, 0)
        reader = threading.Thread(target=world.guest.check, args=(8,), daemon=True)
        reader.start()
        while world.events("read_errors") < 2:
            pass
        progress = world.swap.swap_in(64)
        assert progress.problem == "swap file: Input/output error"
        assert world.swap.counts().file > 0
        os.pwrite(plain, saved, 0)
        os.close(plain)
        reader.join()
        world.disable()
        world.guest.check_all()


def test_a_file_that_cannot_be_cut_is_no_loss(tmp_path: Path) -> None:
    stores = Stores.create(tmp_path, 64, Staging.MINOR)
    for fd in (stores.file.out, stores.file.into):
        os.close(fd)
    sealed = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    fcntl.fcntl(sealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    stores = replace(stores, file=SwapFile(sealed, os.dup(sealed), direct=False))
    with World(tmp_path, pages=64, stores=stores) as world:
        for _ in range(2):
            world.enable()
            world.out()
            with pytest.raises(
                UserError, match=r"^swap file: giving its room back: Operation not permitted$"
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
        with pytest.raises(UserError, match="cannot be watched"):
            world.swap.add_member(uffd, [0x1000])  # nothing is mapped there
        os.close(uffd)


def test_more_processes_than_can_be_served_are_refused(tmp_path: Path) -> None:
    with World(tmp_path, pages=8) as world:
        address = world.guest.ram.address
        for _ in range(63):
            world.swap.add_member(world.userfault, [address])
        with pytest.raises(UserError, match=r"^swap: 64 processes are served already$"):
            world.swap.add_member(world.userfault, [address])
