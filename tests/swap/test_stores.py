"""The swap file, on file systems that can do more or less, and what is handed to a monitor."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hfsched.errors import UserError
from hfsched.swap.core.stores import Stores, SwapFile, open_swap_file
from hfsched.swap.pages.entries import Staging

from .guestmemory import World, needs_userfault

SHARED = Path("/dev/shm")


def close(file: SwapFile) -> None:
    os.close(file.out)
    os.close(file.into)


def test_both_descriptors_are_the_same_unnamed_file(tmp_path: Path) -> None:
    file = open_swap_file(tmp_path)
    made = os.fstat(file.out)
    assert (made.st_ino, made.st_nlink, made.st_mode & 0o777) == (
        os.fstat(file.into).st_ino,
        0,
        0,
    )
    assert not os.get_inheritable(file.out)
    assert list(tmp_path.iterdir()) == []
    close(file)


def test_without_files_that_have_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_TMPFILE", 0)  # as on a kernel that knows no such flag
    file = open_swap_file(tmp_path)
    assert os.fstat(file.out).st_nlink == 0
    assert list(tmp_path.iterdir()) == []
    close(file)


@needs_userfault
def test_without_direct_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "O_DIRECT", os.O_DIRECTORY)  # refused, as where there are none
    with World(tmp_path, pages=128) as world:
        assert not world.stores.swap_file.direct
        world.enable()
        world.out()
        world.disable()
        world.guest.check_all()


def test_nobody_can_resize_the_memory_of_the_stores(tmp_path: Path) -> None:
    stores = Stores.create(tmp_path, 64, Staging.COPY, 1 << 20)
    assert len(stores.memfds()) == 4
    for fd in stores.memfds():
        for size in (0, os.fstat(fd).st_size + 4096):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    stores.close()


@needs_userfault
@pytest.mark.skipif(not SHARED.is_dir(), reason=f"there is no {SHARED}")
def test_a_file_system_in_memory() -> None:
    with World(SHARED, pages=128) as world:
        world.enable()
        world.out()
        world.disable()
        world.guest.check_all()


@pytest.mark.parametrize("staging", Staging)
@pytest.mark.parametrize("tier", [0, 8192])
def test_descriptors_are_handed_over_in_order(tmp_path: Path, staging: Staging, tier: int) -> None:
    stores = Stores.create(tmp_path, 10, staging, tier)
    copies = [os.dup(fd) for fd in stores.descriptors()]
    other = stores.adopt(copies)
    assert other.descriptors() == copies
    for mine, its in zip(stores.descriptors(), other.descriptors(), strict=True):
        assert os.path.sameopenfile(mine, its)
    other.close()
    stores.close()


@pytest.mark.parametrize(
    ("directory", "text"),
    [("/nowhere/at/all", "no such directory"), ("/proc/self/status", "not a directory")],
)
def test_a_directory_that_cannot_be_used(
    directory: str, text: str, descriptors: Callable[[], int]
) -> None:
    before = descriptors()
    with pytest.raises(UserError, match=text) as caught:
        Stores.create(directory, 10, Staging.COPY, 8192)
    assert "\n" not in str(caught.value)
    assert directory in str(caught.value)
    assert descriptors() == before


def test_a_file_system_that_has_no_new_files() -> None:
    with pytest.raises(UserError, match="swap file in /proc"):
        open_swap_file("/proc")
