"""Which pages a process has mapped, by its page tables: by a scan and, as before Linux 6.7, by reading."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator

import pytest

from hfsched.memory.ram import Ram
from hfsched.swap.core import pagemap
from hfsched.swap.core.guestpages import zap
from hfsched.swap.core.pagemap import all_mapped, first_mapped, mapped_ranges, open_pagemap

from .children import Member
from .guestmemory import PAGE, needs_userfault

PAGES = 200_000  # more than are read at a time


@pytest.fixture(params=["scan", "read"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    def ioctl(*_: object) -> int:
        raise OSError(errno.ENOTTY, "inappropriate ioctl")

    if request.param == "read":
        monkeypatch.setattr(fcntl, "ioctl", ioctl)
    elif not can_scan():
        pytest.skip("this kernel is older than Linux 6.7: it has no PAGEMAP_SCAN")
    return str(request.param)


def can_scan() -> bool:
    tables = open_pagemap()
    try:
        fcntl.ioctl(tables, pagemap._PAGEMAP_SCAN, bytearray(96))
    except OSError as exc:
        return exc.errno != errno.ENOTTY
    finally:
        os.close(tables)
    return True


@pytest.fixture
def tables() -> Iterator[int]:
    made = open_pagemap()
    yield made
    os.close(made)


def test_the_first_page_that_is_mapped(how: str, tables: int) -> None:
    ram = Ram("r", PAGES * PAGE)
    assert first_mapped(tables, ram.address, ram.size) is None
    for page in (PAGES - 1, 70_000, 3):
        ctypes.memset(ram.address + page * PAGE, 1, 1)
        assert first_mapped(tables, ram.address, ram.size) == ram.address + page * PAGE, how
    third = ram.address + 3 * PAGE
    later = first_mapped(tables, ram.address, ram.size, lambda address: address != third)
    assert later == ram.address + 70_000 * PAGE
    assert first_mapped(tables, ram.address, ram.size, lambda _: False) is None
    assert first_mapped(tables, ram.address, 3 * PAGE) is None
    assert first_mapped(tables, ram.address + 4 * PAGE, PAGE) is None
    zap(ram.address, ram.size)
    assert first_mapped(tables, ram.address, ram.size) is None
    ram.close()


@needs_userfault
def test_of_another_process_that_lives_and_then_is_dead(how: str) -> None:
    ram = Ram("r", 4 * PAGE)
    other = Member(ram.fd, 4)
    theirs = open_pagemap(other.process.pid)
    assert first_mapped(theirs, other.base, 4 * PAGE) is None
    other.read(2)
    assert first_mapped(theirs, other.base, 4 * PAGE) == other.base + 2 * PAGE, how
    other.kill()
    assert first_mapped(theirs, other.base, 4 * PAGE) is None
    os.close(theirs)
    os.close(other.uffd)
    other.end.close()
    ram.close()


def test_all_that_is_mapped_is_in_ranges_and_what_is_near_is_in_one(how: str, tables: int) -> None:
    ram = Ram("r", PAGES * PAGE)
    pages = [3, 4, 20, *range(1000, 150_000, 50), PAGES - 1]
    for page in pages:
        ctypes.memset(ram.address + page * PAGE, 1, 1)
    found = [
        ((address - ram.address) // PAGE, size // PAGE)
        for address, size in mapped_ranges(tables, ram.address, ram.size)
    ]
    if how == "read":
        assert found == [(0, PAGES)]
    else:
        apart = [(page, 1) for page in pages[3:]]
        assert found == [(3, 18), *apart]
    zap(ram.address, ram.size)
    if how == "scan":
        assert mapped_ranges(tables, ram.address, ram.size) == []
    ram.close()


def test_whether_all_of_a_range_is_mapped(how: str, tables: int) -> None:
    ram = Ram("r", 1000 * PAGE)
    ctypes.memset(ram.address, 1, 1000 * PAGE)
    for first, count in ((0, 1000), (3, 1), (990, 10)):
        assert all_mapped(tables, ram.address + first * PAGE, count * PAGE) is (how == "scan")
    zap(ram.address + 500 * PAGE, PAGE)
    assert not all_mapped(tables, ram.address, 1000 * PAGE)
    assert not all_mapped(tables, ram.address + 500 * PAGE, PAGE)
    assert all_mapped(tables, ram.address + 501 * PAGE, PAGE) is (how == "scan")
    ram.close()
