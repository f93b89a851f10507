"""New instances of Unicorn, with small pages for their translated code.

Unicorn asks for huge pages there (madvise), so each instance has 2 MiB cleared and takes them: more
than all the rest of it, and ten times what a small guest's code needs.  The wish is refused while the
instance is made, and then taken back for this memory alone; huge pages of guest memory stay as they
are.  Where the memory is, is found out at the first instance, as the library finds the rest; where it
cannot be, instances take what Unicorn wants.
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
_PAGE = 4096
_HANDLE = _REACH = (
    4096  # bytes of a handle and behind its pointers in which the address is looked for
)
_SIZE = CODE_SIZE - _PAGE  # the last page is a guard

# For each library: where a handle has a pointer, and behind that the address of the code.
_places: dict[Library, tuple[int, int] | None] = {}


def new_handle(library: Library) -> int:
    """Return what `Library.new_handle` does."""
    libc = _libc()
    allowed = libc.prctl(_PR_GET_THP_DISABLE, 0, 0, 0, 0) == 0
    if allowed:
        libc.prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    try:
        uc = library.new_handle()
        if library not in _places:
            _places[library] = _place_of_code(uc)
        place = _places[library]
        if place is not None:
            context = ctypes.c_uint64.from_address(uc + place[0]).value
            code = ctypes.c_uint64.from_address(context + place[1]).value
            libc.madvise(code, _SIZE, _MADV_NOHUGEPAGE)
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


def _place_of_code(uc: int) -> tuple[int, int] | None:
    """Return where an instance has the address of its code, as in `_places`; None: not found."""
    wanted = [struct.pack("<Q", start) for start in _executable()]
    with SafeReader() as read:
        handle = read(uc, _HANDLE)
        for offset in range(0, len(handle) - 7, 8):
            (pointer,) = struct.unpack_from("<Q", handle, offset)
            if pointer < _PAGE or pointer % 8:
                continue
            behind = read(pointer, _REACH)
            for address in wanted:
                at = behind.find(address)
                if at >= 0 and at % 8 == 0:
                    return offset, at
    return None


def _executable() -> list[int]:
    """Return where this process has memory that may be an instance's code."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if " rwxp " in line:
            start, end = (int(word, 16) for word in line.split()[0].split("-"))
            if end - start == _SIZE:
                found.append(start)
    return found
