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
from collections.abc import Callable

from hfsched.memory.ram import PAGE_SIZE

__all__ = ["first_mapped", "open_pagemap"]

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, struct pm_scan_arg)
_ARGUMENT = struct.Struct("<12Q")  # struct pm_scan_arg
_IS_PRESENT = 1 << 3
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


def _scan(pagemap: int, base: int, size: int) -> int | None:
    if size <= 0:
        return None
    region = (ctypes.c_uint64 * 3)()
    argument = bytearray(
        _ARGUMENT.pack(
            _ARGUMENT.size,
            0,  # flags
            base,
            base + size,
            0,  # where the walk has ended
            ctypes.addressof(region),
            1,  # regions in it
            1,  # pages at most
            0,
            _IS_PRESENT,  # all of these, and
            0,  # any of these
            _IS_PRESENT,  # are returned
        )
    )
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
