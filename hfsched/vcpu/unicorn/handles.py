"""New instances of Unicorn, with small pages for their translated code.

Unicorn asks for huge pages there (madvise), so each instance has 2 MiB cleared and takes them: more
than all the rest of it, and ten times what a small guest's code needs.  The wish is refused while the
instance is made, and then taken back for this memory alone; huge pages of guest memory stay as they
are.  Where the memory is, the first call finds out as the library does; where it cannot, instances
take what Unicorn wants.
"""

from __future__ import annotations

import ctypes
import struct
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.vcpu.unicorn.library import CODE_SIZE, SafeReader

if TYPE_CHECKING:
    from hfsched.vcpu.unicorn.library import Library

__all__ = ["new_handle"]

_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
_MADV_NOHUGEPAGE = 15
_HANDLE = 4096  # bytes of a handle in which its pointers are looked for
_REACH = 4096  # bytes behind such a pointer
_PAGE = 4096


def new_handle(library: Library) -> int:
    """Return what `Library.new_handle` does."""
    where = _code_pointer(library)
    if where is None:
        return library.new_handle()
    libc = _libc()
    allowed = libc.prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0
    if allowed:
        libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        uc = library.new_handle()
        context = ctypes.c_uint64.from_address(uc + where[0]).value
        code = ctypes.c_uint64.from_address(context + where[1]).value
        libc.madvise(code, CODE_SIZE - _PAGE, _MADV_NOHUGEPAGE)  # a page at the end is a guard
    finally:
        if allowed:
            libc.prctl(_PR_SET_THP_DISABLE, 0, 0, 0, 0)
    return uc


@cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)
    libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return libc


@cache
def _code_pointer(library: Library) -> tuple[int, int] | None:
    """Return where a handle has a pointer, and behind that the address of the code; None: unknown."""
    before = _executable()
    uc = library.new_handle()
    try:
        made = [start for start, size in _executable() - before if size == CODE_SIZE - _PAGE]
        if len(made) != 1:
            return None
        with SafeReader() as read:
            handle, wanted = read(uc, _HANDLE), struct.pack("<Q", made[0])
            for offset in range(0, len(handle) - 7, 8):
                (pointer,) = struct.unpack_from("<Q", handle, offset)
                at = read(pointer, _REACH).find(wanted) if pointer >= _PAGE else -1
                if at >= 0:
                    return offset, at
        return None
    finally:
        library.close(uc)


def _executable() -> set[tuple[int, int]]:
    """Return {start, size} of this process's memory that is writable and executable."""
    found = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, permissions = line.split(maxsplit=2)[:2]
        if permissions == "rwxp":
            start, end = (int(word, 16) for word in addresses.split("-"))
            found.add((start, end - start))
    return found
