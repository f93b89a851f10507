"""The monitor: the program that serves page faults of guest memory, and moves its pages.

Main starts it by `Runtime.process`: it has nothing of main's memory.  When it has died, main starts another one with
the same descriptors, after the kernel has reported its death: no two ever work on the same pages.
The monitor notices main's death by a pidfd, besides the end of the channel.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.memory.ram import PAGE_SIZE
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.core.guestpages import GuestPages, Liveness, Region
from hfsched.swap.core.resources import unpack
from hfsched.swap.monitor.controller import Controller
from hfsched.swap.monitor.serving import serve

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime
    from hfsched.swap.protocol.messages import Begin, Register

__all__ = ["ServedProcesses", "monitor"]


def monitor(runtime: Runtime, end: End) -> None:
    """Run until main sends Exit, or until main is gone and no member needs its memory."""
    _detach()
    with ExitStack() as stack:
        with contextlib.suppress(OSError):
            main = os.pidfd_open(os.getppid())
            stack.callback(os.close, main)
            end = _MainChannel(runtime, end, _Process(main))

        def make(begin: Begin, fds: Sequence[int]) -> Controller:
            for fd in fds:
                stack.callback(os.close, fd)
            stores, regions, stored = unpack(begin.resources, fds)
            pages = GuestPages(stores, regions, stored=stored)
            processes = ServedProcesses(pages, regions)
            stack.callback(processes.close)
            stack.callback(pages.close)  # before `processes.close`: faults wait from then on
            if not begin.fresh:
                pages.take_over()
            pages.lock()  # what the limit does not allow stays as it is
            pages.start()
            return Controller(runtime.now, pages, processes)

        serve(runtime, end, make)


def _detach() -> None:
    """Leave the terminal's process group, whose signals must not end this process.

    Also leave SCHED_BATCH, which main may run under: serving a fault should preempt other tasks.
    """
    with contextlib.suppress(OSError):  # it is a session leader already
        os.setsid()
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@dataclass(frozen=True)
class _Process:
    """A process that `Runtime.select` can wait for."""

    pidfd: int

    def fileno(self) -> int:
        return self.pidfd


class _MainChannel:
    """The channel to main; it ends with main, even if a child of main has it open too."""

    def __init__(self, runtime: Runtime, end: End, main: _Process) -> None:
        self._runtime = runtime
        self._end = end
        self._main = main

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        """See `End.recv`."""
        ready = self._runtime.select([self._end, self._main], deadline)
        if self._end in ready:
            return self._end.recv(deadline)
        if ready:
            raise ChannelClosedError
        return None

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """See `End.send`."""
        self._end.send(data, fds)

    def close(self) -> None:
        """See `End.close`."""
        self._end.close()

    def fileno(self) -> int:
        return self._end.fileno()


@dataclass(frozen=True, slots=True)
class _Served:
    number: int  # in the page store
    fds: Sequence[int]
    pidfd: int | None  # of a dynamic one, among them


class ServedProcesses:
    """`hfsched.swap.monitor.controller.Processes` over `GuestPages`, by the numbers of main."""

    def __init__(self, pages: GuestPages, regions: Sequence[Region]) -> None:
        self._pages = pages
        self._ranges = list(_ranges(regions))
        self._members: dict[int, _Served] = {}

    def add(self, register: Register, fds: Sequence[int]) -> None:
        """See `Processes.add`; when it raises, the caller keeps the descriptors."""
        expected = 1 + register.pagemap + register.dynamic
        if len(fds) != expected:
            # Fewer than main sends, always the same number: this process may have no more.
            raise OSError(
                errno.EMFILE if len(fds) < expected else errno.EINVAL,
                f"{len(fds)} descriptors: expected a uffd, and for a dynamic member a pidfd",
            )
        bases: list[int | None] = [None] * len(self._ranges)
        for region in register.regions:
            try:
                bases[self._ranges.index((region.offset, region.size))] = region.base
            except ValueError:
                text = f"no VM's memory is [{region.offset:#x}, +{region.size:#x})"
                raise OSError(errno.EINVAL, text) from None
        number = self._pages.add_member(
            fds[0],
            bases,
            pagemap=fds[1] if register.pagemap else None,
            dynamic=register.dynamic,
        )
        self._members[register.member] = _Served(number, fds, fds[-1] if register.dynamic else None)

    def dead(self) -> Sequence[int]:
        """See `Processes.dead`."""
        return [number for number in self._members if not self._lives(number)]

    def _lives(self, number: int) -> bool:
        served = self._members[number]
        ended = served.pidfd is not None and select.select([served.pidfd], [], [], 0)[0]
        return not ended and self._pages.liveness(served.number) is Liveness.ALIVE

    def drop(self, member: int) -> None:
        """See `Processes.drop`."""
        served = self._members.pop(member)
        self._pages.remove_member(served.number)
        for fd in served.fds:
            os.close(fd)

    def close(self) -> None:
        """Close their descriptors; registered ranges stay so, and faults wait."""
        for served in self._members.values():
            for fd in served.fds:
                os.close(fd)
        self._members.clear()


def _ranges(regions: Sequence[Region]) -> Iterator[tuple[int, int]]:
    """Yield the offset and the size of each region, in bytes."""
    offset = 0
    for region in regions:
        yield offset, region.pages * PAGE_SIZE
        offset += region.pages * PAGE_SIZE
