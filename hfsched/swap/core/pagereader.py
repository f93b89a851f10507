"""Pages of guest memory as they are, wherever they are: in memory, staged, in the file, in the tier, in a snapshot.

For main, over the descriptors that it gives to monitors.  Nothing is brought in, and nothing changes.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hfsched.errors import UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.core.device import core
from hfsched.swap.core.guestpages import new_swap

if TYPE_CHECKING:
    from hfsched.swap.core.guestpages import GivenPages, Region
    from hfsched.swap.core.stores import Stores

__all__ = ["READ_MAX", "OwedPages", "PageReader"]

READ_MAX = 512  # pages, in one call
_LOOKS = 10_000  # at a page that is on its way


class PageReader:
    """Reads while no page leaves memory; see `hfs_peek` in ``core.h``.  For one task at a time.

    `regions` and `stored` are as those of `hfsched.swap.core.guestpages.GuestPages`.  The descriptors stay the caller's, open
    until `close`.  `pause` waits for a moment, where a page is on its way.
    """

    def __init__(
        self,
        stores: Stores,
        regions: Sequence[Region],
        pause: Callable[[], None],
        stored: GivenPages | None = None,
    ) -> None:
        loaded = core()
        self._lib, self._ffi = loaded.lib, loaded.ffi
        self._pause = pause
        self._zero = self._ffi.new("bool *")
        self._swap: Any = new_swap(stores, regions, stored=stored, reads=True)

    def read(self, first: int, room: memoryview) -> tuple[int, bool]:
        """Read pages from number `first` on into `room`, which has whole pages; return how many, and whether they are zero.

        They are of one kind, at least one and at most `READ_MAX`; `room` has nothing where they are zero.  Raises UserError.
        """
        return self._made(first, self._lib.hfs_peek, room)

    def _made(self, first: int, function: Any, room: memoryview) -> tuple[int, bool]:
        pages = min(len(room) // PAGE_SIZE, READ_MAX)
        buffer = self._ffi.from_buffer("uint8_t[]", room, require_writable=True)
        found = -errno.EAGAIN
        for _ in range(_LOOKS):
            found = function(self._swap, first, pages, buffer, self._zero)
            if found != -errno.EAGAIN:
                break
            self._pause()
        if found < 0:
            raise UserError(f"guest memory: page {first} cannot be read: {os.strerror(-found)}")
        return found, bool(self._zero[0])

    def close(self) -> None:
        """Free what it has."""
        if self._swap is not None:
            self._lib.hfs_free(self._swap)
        self._swap = None


class OwedPages(PageReader):
    """Pages that a snapshot has yet to write while the guests run: see ``owed.c``.

    First `begin`; then, while the machine is suspended, `owe`, and everything is staged.  Whatever guests do after that,
    `take` returns pages as they were.  `stop`, and once no fault is being served, `drop`, end it.
    """

    def begin(self) -> None:
        """Have faults look for what is owed: nothing yet."""
        self._lib.hfs_owe_nothing(self._swap)

    def owe(self, first: int, count: int) -> None:
        """Owe pages, each once."""
        self._lib.hfs_owe(self._swap, first, count)

    def take(self, first: int, room: memoryview) -> tuple[int, bool]:
        """Take pages that are owed: see `read`."""
        return self._made(first, self._lib.hfs_take_owed, room)

    def stop(self) -> None:
        """Owe nothing any more, and have faults look no more."""
        self._lib.hfs_stop_owing(self._swap)

    def drop(self) -> None:
        """Free what was copied aside."""
        self._lib.hfs_drop_aside(self._swap)
