"""The monitor: the program that serves page faults of guest memory, and moves its pages.

Main starts it by `Runtime.process`, never by a fork, and starts another one, with the same
descriptors, when it has died; by then the kernel has told main of its end, so that no two ever work
on the same pages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from hfsched.swap.controller import Controller
from hfsched.swap.guestpages import GuestPages, Liveness, Region
from hfsched.swap.resources import unpack
from hfsched.swap.serving import serve

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime
    from hfsched.swap.messages import Begin, Register

__all__ = ["Processes", "monitor"]

_PAGE = 4096


def monitor(runtime: Runtime, end: End) -> None:
    """Be the program: work until main says so, or is gone and nobody needs its memory."""
    _stand_alone()
    with ExitStack() as stack:

        def make(begin: Begin, fds: Sequence[int]) -> Controller:
            for fd in fds:
                stack.callback(os.close, fd)
            stores, regions = unpack(begin.resources, fds)
            pages = GuestPages(stores, regions)
            processes = Processes(pages, regions)
            stack.callback(processes.close)
            stack.callback(pages.close)  # first: nobody serves faults then, and they wait
            if not begin.fresh:
                pages.take_over()
            pages.start()
            return Controller(runtime.now, pages, processes)

        serve(runtime, end, make)


def _stand_alone() -> None:
    """Take no notice of the terminal's signals: who is in a fault waits for this process.

    Main may run under SCHED_BATCH, which does not interrupt others; a fault should.
    """
    with contextlib.suppress(OSError):  # it is a leader already
        os.setsid()
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class Processes:
    """`hfsched.swap.controller.Members` over `GuestPages`, by the numbers that main gives."""

    def __init__(self, pages: GuestPages, regions: Sequence[Region]) -> None:
        self._pages = pages
        self._places = list(_places(regions))
        self._members: dict[int, tuple[int, Sequence[int]]] = {}  # its number there, descriptors

    def add(self, register: Register, fds: Sequence[int]) -> None:
        """See `Members.add`; when it raises, the descriptors stay the caller's."""
        if len(fds) != 1 + register.dynamic:
            raise OSError(
                errno.EINVAL, f"{len(fds)} descriptors: a uffd, and a dynamic one's pidfd"
            )
        bases: list[int | None] = [None] * len(self._places)
        for region in register.regions:
            try:
                bases[self._places.index((region.offset, region.size))] = region.base
            except ValueError:
                text = f"no VM's memory is [{region.offset:#x}, +{region.size:#x})"
                raise OSError(errno.EINVAL, text) from None
        number = self._pages.add_member(fds[0], bases, dynamic=register.dynamic)
        self._members[register.member] = (number, fds)

    def dead(self) -> Sequence[int]:
        """See `Members.dead`."""
        return [number for number in self._members if not self._lives(number)]

    def _lives(self, number: int) -> bool:
        inner, (_, *pidfd) = self._members[number]
        ended = pidfd and select.select(pidfd, [], [], 0)[0]
        return not ended and self._pages.liveness(inner) is Liveness.ALIVE

    def drop(self, member: int) -> None:
        """See `Members.drop`."""
        inner, fds = self._members.pop(member)
        self._pages.remove_member(inner)
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        """Close their descriptors; what is registered stays so, and faults wait."""
        for _, fds in self._members.values():
            for fd in fds:
                os.close(fd)
        self._members.clear()


def _places(regions: Sequence[Region]) -> Iterator[tuple[int, int]]:
    """Yield where each region is in the whole: offset, size; bytes."""
    offset = 0
    for region in regions:
        yield offset, region.pages * _PAGE
        offset += region.pages * _PAGE
