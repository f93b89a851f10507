"""How much memory swap frees, as the kernel counts it: memfds, and resident sizes of processes."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

__all__ = ["Footprint", "Memory", "allocated", "held", "resident"]

_RUNS_MAX = 1 << 16
_BLOCK = 512  # bytes, of st_blocks
Count: TypeAlias = Annotated[int, Meta(ge=0)]


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bytes of RAM, now: of the guests' memfds, and of swap's own (table, tier, staging).

    `main` and `monitor` are the resident sizes of the two processes; a page that both map counts in
    both.  `given_back`: how much less `guests` and `kept` are together than at the enable where they
    were most; `resident_less`: how much smaller the two processes are than at that enable.
    """

    guests: Count = 0
    kept: Count = 0
    main: Count = 0
    monitor: Count = 0
    given_back: Count = 0
    resident_less: Count = 0


class Footprint:
    """Measures memfds, `guests` and `kept`, this process, and the process `monitor()`."""

    def __init__(
        self, guests: Sequence[int], kept: Sequence[int], monitor: Callable[[], int | None]
    ) -> None:
        self._guests = tuple(guests)
        self._kept = tuple(kept)
        self._monitor = monitor
        self._before = (0, 0)  # bytes: in the memfds, resident

    def mark(self) -> None:
        """Record the present memory as the reference, if it is more than the last one."""
        now = self.measure()
        held = now.guests + now.kept
        if held > self._before[0]:
            self._before = (held, now.main + now.monitor)

    def measure(self) -> Memory:
        """Return the present memory."""
        guests, kept = sum(map(allocated, self._guests)), sum(map(allocated, self._kept))
        main, monitor = resident(os.getpid()), resident(self._monitor())
        held, resided = self._before
        return Memory(
            guests=guests,
            kept=kept,
            main=main,
            monitor=monitor,
            given_back=max(0, held - guests - kept),
            resident_less=max(0, resided - main - monitor),
        )


def allocated(fd: int) -> int:
    """Return how many bytes of a memfd are allocated."""
    return os.fstat(fd).st_blocks * _BLOCK


def held(fd: int, pages: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a memfd's pages that are allocated, as (first, end), in order.

    `end` is exclusive.  The number of ranges is bounded: beyond it the rest is yielded as one.
    """
    size = pages * mmap.PAGESIZE
    end = 0
    for _ in range(_RUNS_MAX):
        try:
            first = os.lseek(fd, end, os.SEEK_DATA)
        except OSError:  # there are no more
            return
        if first >= size:
            return
        end = min(size, os.lseek(fd, first, os.SEEK_HOLE))
        yield first // mmap.PAGESIZE, end // mmap.PAGESIZE
        if end == size:
            return
    yield end // mmap.PAGESIZE, pages


def resident(pid: int | None) -> int:
    """Return a process's resident size in bytes, 0 if it does not exist."""
    if pid is None:
        return 0
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return 0
