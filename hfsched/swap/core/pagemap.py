"""Which part of a range a process has mapped, by its page tables as the kernel shows them.

Sources: Linux, Documentation/admin-guide/mm/pagemap.rst; PAGEMAP_SCAN is there since Linux 6.7, and
before it, each page's word is read.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable, Iterator

from hfsched.memory.ram import PAGE_SIZE

__all__ = ["all_mapped", "first_mapped", "mapped_ranges", "open_pagemap"]

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_ARGUMENT = struct.Struct("<12Q")  # struct pm_scan_arg
_WALK_END = 4  # of its words
_IS_PRESENT = 1 << 3
_REGIONS = 1024  # in the answer to one request
_NEAR = 32 * PAGE_SIZE  # bytes between two ranges that are cheaper as one
_WORDS = 1 << 16  # read at a time: 256 MiB of memory
_PRESENT = 0x80  # in the last byte of a page's word


def open_pagemap(pid: int | None = None) -> int:
    """Return a descriptor of the page tables of a process, None: of this one; raises OSError.

    It is for the process that forks `pid` to do, before it waits for it: another one may have the
    number later.
    """
    return os.open(f"/proc/{'self' if pid is None else pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def first_mapped(
    pagemap: int, base: int, size: int, matters: Callable[[int], bool] = lambda _address: True
) -> int | None:
    """Return the address of the first page of a range that is mapped and `matters`; None: none is.

    Nothing of a process that has ended is mapped.  Raises OSError.
    """
    try:
        found = _scan(pagemap, base, size)
        while found is not None and not matters(found):
            found = _scan(pagemap, found + PAGE_SIZE, base + size - found - PAGE_SIZE)
    except ProcessLookupError:
        return None
    except OSError as exc:
        if exc.errno != errno.ENOTTY:
            raise
        return _read(pagemap, base, size, matters)
    else:
        return found


def all_mapped(pagemap: int, base: int, size: int) -> bool:
    """Return whether all of a range is mapped; False also where a scan is not to be had.  Raises OSError."""
    region = (ctypes.c_uint64 * 3)()
    try:
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, _argument(base, base + size, region, 1, 0))
    except OSError as exc:
        if exc.errno != errno.ENOTTY:
            raise
        return False
    return bool(count and (region[0], region[1]) == (base, base + size))


def mapped_ranges(pagemap: int, base: int, size: int) -> list[tuple[int, int]]:
    """Return {address, size} of ranges that have all that is mapped of a range, and may have more; raises OSError."""
    made: list[tuple[int, int]] = []
    try:
        for start, end in _scan_all(pagemap, base, base + size):
            near = made and start - sum(made[-1]) <= _NEAR
            first = made.pop()[0] if near else start
            made.append((first, end - first))
    except OSError as exc:
        if exc.errno != errno.ENOTTY:
            raise
        return [(base, size)]
    return made


def _scan_all(pagemap: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield {start, end} of what is mapped, in order."""
    regions = (ctypes.c_uint64 * (3 * _REGIONS))()
    while start < end:
        argument = _argument(start, end, regions, _REGIONS, 0)
        count = fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument)
        yield from ((regions[3 * each], regions[3 * each + 1]) for each in range(count))
        start = end if count < _REGIONS else _ARGUMENT.unpack(argument)[_WALK_END]


def _argument(
    start: int, end: int, regions: ctypes.Array[ctypes.c_uint64], count: int, pages: int
) -> bytearray:
    """Return the request for what is mapped; `pages` at most, 0: all."""
    return bytearray(
        _ARGUMENT.pack(
            _ARGUMENT.size,
            0,  # flags
            start,
            end,
            0,  # where the walk has ended
            ctypes.addressof(regions),
            count,
            pages,
            0,
            _IS_PRESENT,  # all of these, and
            0,  # any of these
            _IS_PRESENT,  # are returned
        )
    )


def _scan(pagemap: int, base: int, size: int) -> int | None:
    if size <= 0:
        return None
    region = (ctypes.c_uint64 * 3)()
    argument = _argument(base, base + size, region, 1, 1)
    return int(region[0]) if fcntl.ioctl(pagemap, _PAGEMAP_SCAN, argument) else None


def _read(pagemap: int, base: int, size: int, matters: Callable[[int], bool]) -> int | None:
    first, end = base // PAGE_SIZE, (base + size) // PAGE_SIZE
    while first < end:
        words = os.pread(pagemap, 8 * min(_WORDS, end - first), 8 * first)
        if not words:
            return None  # the process has ended
        for number, last in enumerate(words[7::8]):
            address = (first + number) * PAGE_SIZE
            if last & _PRESENT and matters(address):
                return address
        first += len(words) // 8
    return None
