"""The log of faults behind the page table: the last ones that were served, for any task to read.

The thread that serves faults writes it, in C; a monitor continues the log of the one before.  It is
input: what no such thread can have written is left out.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

__all__ = ["ENTRY", "LOGGED_OFFSET", "LOG_MAX", "SOURCES", "Fault", "read_faults"]

LOG_MAX = 4096  # faults
ENTRY = struct.Struct("<QQQ")
SOURCES = ("mapped", "staging", "file", "tier", "zero", "snapshot")
LOGGED_OFFSET = 24 + 8 * 19  # of the counter, in the header of the table
_COUNTER = struct.Struct("<Q")
_PAGE_BITS = 48
_TIME_MAX = 1 << 62  # ns


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was served: `number` counts all of a machine's, `when` is on the monotonic clock."""

    number: int
    when: int  # ns
    page: int
    source: str  # one of `SOURCES`
    took: int  # ns, until the page was there


def read_faults(
    read: Callable[[int, int], bytes], log: int, pages: int, since: int = 0
) -> Iterator[Fault]:
    """Yield the faults with a number of at least `since` that are in the log, oldest first.

    `read(offset, size)` reads the table's memfd, `log` is the offset of the log in it.  Those that are
    written over meanwhile are left out.
    """
    end = _count(read)
    data = read(log, LOG_MAX * ENTRY.size)
    written_over = _count(read) - LOG_MAX  # the one that may be half written now, and those before
    for number in range(max(since, written_over + 1, end - LOG_MAX, 0), end):
        when, word, took = ENTRY.unpack_from(data, number % LOG_MAX * ENTRY.size)
        source, page = word >> _PAGE_BITS, word & (1 << _PAGE_BITS) - 1
        if source < len(SOURCES) and page < pages and max(when, took) < _TIME_MAX:
            yield Fault(number, when, page, SOURCES[source], took)


def _count(read: Callable[[int, int], bytes]) -> int:
    return int(_COUNTER.unpack(read(LOGGED_OFFSET, _COUNTER.size))[0]) & (1 << 48) - 1
