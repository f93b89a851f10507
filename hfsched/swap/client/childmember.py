"""Main's side of a process that maps guest memory: a `Member` over a channel.

`hfsched.swap.child.child` is the other side; the code that started the process owns it.  One task
uses a member at a time: to register it, to suspend the machine, or to close it.

No method waits beyond its deadline, whatever the process does.  An answer that is late is waited for
before the next request, so that a process that hangs has at most two messages in its queue.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.memory.ram import PAGE_SIZE
from hfsched.memory.writeprotect import tracks
from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.client.descriptors import is_pagemap_of, is_uffd, pid_of
from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.member import first_mapped_of
from hfsched.swap.protocol.childmessages import (
    VMS_MAX,
    ChildAnswer,
    ChildRequest,
    Join,
    Joined,
    Map,
    Mapped,
    Resume,
    Suspend,
    VmMemory,
    Zap,
    decode_answer,
)
from hfsched.swap.protocol.messages import Done, ProtocolError, Refused, Region, encode, name_of

if TYPE_CHECKING:
    from hfsched.memory.writeprotect import Run
    from hfsched.runtime.base import End, Runtime

__all__ = ["ANSWERS_WITHIN", "ChildMember", "Part"]

ANSWERS_WITHIN = 2_000_000_000  # ns; a clock, since the guests are paused meanwhile


@dataclass(frozen=True, slots=True)
class Part:
    """The memory of a VM: `size` bytes of a memfd, at byte `offset` of all regions."""

    name: str
    fd: int
    offset: int
    size: int


class ChildMember:
    """See the module's text, and `hfsched.swap.client.member.Member`.

    The constructor sets the process up, by `deadline` (ns): it may have just been started.  Each
    later request fails if it is not answered within `within` ns (None: no limit).  `pagemap` has its
    page tables (see `hfsched.swap.core.pagemap.open_pagemap`; a model has none).  `pidfd` is the process, where
    another one has started it and says so.  `announces` is given to it: the channel on which it says that it
    has started a child.  Raises SwapError; then the channel, `pagemap` and `pidfd` are closed, as by `close`.
    The process accesses no guest memory before the first `resume`.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        end: End,
        parts: Sequence[Part],
        deadline: int | None,
        *,
        pagemap: int | None,
        pidfd: int | None = None,
        announces: int | None = None,
        dynamic: bool = True,
        within: int | None = ANSWERS_WITHIN,
    ) -> None:
        self._pagemap = pagemap
        self.tracked: int | None = None  # see `Member`
        self.name = name
        self.number = 0  # it gets its own before it is registered
        self._runtime = runtime
        self._dynamic = dynamic
        self._end = end
        self._within = within
        self._sent = 0  # the number of the last request,
        self._answered = 0  # and of the last one that was answered
        self._suspended = True
        self._pidfd = pidfd  # None: not known yet
        self._announces = () if announces is None else (announces,)
        self._distrusted = ""
        with ExitStack() as undo:
            undo.callback(end.close)
            for fd in (pagemap, pidfd):
                if fd is not None:
                    undo.callback(os.close, fd)
            try:
                self._regions = self._set_up(parts, deadline, undo)
            except OSError as exc:
                raise SwapError(f"process {name}: {exc}") from None
            self._stack = undo.pop_all()

    def _set_up(
        self, parts: Sequence[Part], deadline: int | None, undo: ExitStack
    ) -> tuple[Region, ...]:
        regions: list[Region] = []
        for first in range(0, len(parts), VMS_MAX):
            some = parts[first : first + VMS_MAX]
            vms = tuple(VmMemory(part.name, part.size) for part in some)
            answer, _ = self._ask(Map(vms=vms), deadline, [part.fd for part in some])
            if not isinstance(answer, Mapped):
                raise _refused("map", answer)
            regions += _regions(some, answer.bases)
        answer, fds = self._ask(Join(), deadline, self._announces)
        for fd in fds:
            undo.callback(os.close, fd)
        if not isinstance(answer, Joined):
            raise _refused("join", answer)
        self.uffd, pidfd = _checked(fds)
        if self._pidfd is not None and pid_of(pidfd) != pid_of(self._pidfd):
            raise OSError("invalid answer: the second descriptor is another process's pidfd")
        self._pidfd = pidfd
        if tracks(self.uffd):
            self.tracked = self._pagemap
        return tuple(regions)

    def close(self) -> None:
        """Close its channel and descriptors: it ends by itself, or is dead."""
        self._stack.close()

    def leave(self) -> None:
        """Close its channel alone, before `close`: it ends by itself."""
        self._end.close()

    # Member.

    @property
    def dynamic(self) -> bool:
        """See `Member`."""
        return self._dynamic

    @property
    def regions(self) -> Sequence[Region]:
        """See `Member`."""
        return self._regions

    def descriptors(self) -> Sequence[int]:
        """See `Member`."""
        tables = () if self.tracked is None else (self.tracked,)
        ended = (self._pidfd,) if self._dynamic and self._pidfd is not None else ()
        return (self.uffd, *tables, *ended)

    def still_mapped(self, matters: Callable[[int], bool]) -> int | None:
        """See `Member`."""
        if self._pagemap is None:
            return None
        return first_mapped_of(self._regions, self._pagemap, matters)

    def zap(self) -> None:
        """See `Member`."""
        try:
            self._command(Zap(), self._limit(None))
        except OSError as exc:
            if self._dynamic and isinstance(exc, ProcessLookupError):
                raise
            raise OSError(f"process {self.name}: {exc}") from None

    def zap_mapped(self, pages: Sequence[Run] | None = None) -> None:
        """See `Member`: it zaps everything."""
        del pages
        self.zap()

    # Suspendable.

    @property
    def dead(self) -> bool:
        """See `Member`."""
        return self._ended(0)

    def suspend(self, deadline: int | None = None) -> None:
        """Have it access no memory; raises SwapError if it does not, or is static and dead.

        `resume` must follow in any case.
        """
        if self._distrusted:
            self._end.close()
            if not (self._ended(self._limit(deadline)) and self._dynamic):
                raise SwapError(f"process {self.name}: {self._distrusted}")
            return
        deadline = self._limit(deadline)
        try:
            self._collect_answers(deadline)
            self._suspended = True
            left = None if deadline is None else max(0, deadline - self._runtime.now())
            self._command(Suspend(within=left), deadline)
        except ProcessLookupError as exc:
            if not self._dynamic:
                raise SwapError(f"process {self.name} is dead, and is not allowed to die") from exc
        except OSError as exc:
            raise SwapError(f"process {self.name}: {exc}") from exc

    def distrust(self, why: str) -> None:
        """End it, and ask it nothing any more; while it lives, or is dead and static, `suspend` fails with `why`.

        For another task, while this is not closed.  It is killed if its pidfd is of the process whose page tables
        main has, and so of one that whoever opened these may access: main kills none on a stranger's word.
        """
        self._distrusted = why
        with suppress(OSError):
            pid = None if self._pidfd is None else pid_of(self._pidfd)
            if self._pagemap is not None and pid and is_pagemap_of(self._pagemap, pid):
                assert self._pidfd is not None
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def resume(self) -> None:
        """Let it access guest memory again, if it was suspended; does not wait."""
        if self._suspended:
            self._suspended = False
            with suppress(ChannelClosedError):  # the next request reports it
                self._post(Resume())

    # Requests.

    def key(self) -> object:
        """Return the state of the conversation, hashable."""
        return (self._sent, self._answered, self._suspended)

    def _limit(self, deadline: int | None) -> int | None:
        if self._within is None:
            return deadline
        limit = self._runtime.now() + self._within
        return limit if deadline is None else min(deadline, limit)

    def _command(self, request: ChildRequest, deadline: int | None) -> None:
        answer, _ = self._ask(request, deadline)
        if not isinstance(answer, Done):
            raise _refused(name_of(request), answer)

    def _ask(
        self, request: ChildRequest, deadline: int | None, fds: Sequence[int] = ()
    ) -> tuple[ChildAnswer, list[int]]:
        """Return the answer; raises OSError, with ESRCH if it is dead."""
        self._collect_answers(deadline)
        try:
            self._post(request, fds)
        except ChannelClosedError:
            raise self._closed_error(deadline) from None
        answered = self._collect_answers(deadline, name_of(request))
        assert answered is not None
        return answered

    def _post(self, request: ChildRequest, fds: Sequence[int] = ()) -> None:
        self._sent += 1
        self._end.send(encode(self._sent, request), fds)

    def _collect_answers(
        self, deadline: int | None, what: str = "an earlier request"
    ) -> tuple[ChildAnswer, list[int]] | None:
        """Receive every answer that is due, and return the last of them."""
        last = None
        while self._answered < self._sent:
            if last is not None:
                _close(last[1])
            try:
                received = self._end.recv(deadline)
            except ChannelClosedError:
                raise self._closed_error(deadline) from None
            if received is None:
                raise OSError(f"{what}: it did not answer in time")
            last = self._read(*received)
        return last

    def _read(self, data: bytes, fds: list[int]) -> tuple[ChildAnswer, list[int]]:
        try:
            number, answer = decode_answer(data)
            if number != self._answered + 1:
                raise ProtocolError(f"invalid answer: to {number}, expected {self._answered + 1}")
            if fds and not isinstance(answer, Joined):
                raise ProtocolError("invalid answer: unexpected descriptors")
        except ProtocolError as exc:
            _close(fds)
            raise OSError(str(exc)) from None
        self._answered = number
        return answer, fds

    def _closed_error(self, deadline: int | None) -> OSError:
        """Return the error for a closed channel: the process is dead, unless it closed it itself."""
        if self._ended(deadline):
            return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
        return OSError("it has closed its channel")

    def _ended(self, deadline: int | None) -> bool:
        if self._pidfd is None:
            return False
        return bool(self._runtime.select([_Descriptor(self._pidfd)], deadline))


@dataclass(frozen=True, slots=True)
class _Descriptor:
    fd: int

    def fileno(self) -> int:
        return self.fd


def _regions(parts: Sequence[Part], bases: Sequence[int]) -> list[Region]:
    """Return the mappings of the parts; raises OSError for impossible addresses."""
    if len(bases) != len(parts):
        raise OSError(f"invalid answer: {len(bases)} addresses for {len(parts)} VMs")
    made = []
    for part, base in zip(parts, bases, strict=True):
        if not base or base % PAGE_SIZE:
            raise OSError(f"invalid answer: guest memory at {base:#x}")
        try:
            made.append(Region(base, part.offset, part.size))
        except ValueError as exc:
            raise OSError(f"invalid answer: {exc}") from None
    return made


def _checked(fds: Sequence[int]) -> tuple[int, int]:
    """Return a uffd and a pidfd; raises OSError if they are not that."""
    if len(fds) != 2:
        raise OSError(f"invalid answer: {len(fds)} descriptors, expected a uffd and a pidfd")
    uffd, pidfd = fds
    if not is_uffd(uffd):
        raise OSError("invalid answer: the first descriptor is not a uffd")
    if pid_of(pidfd) in (None, os.getpid(), 0):
        raise OSError("invalid answer: the second descriptor is not its pidfd")
    return uffd, pidfd


def _refused(what: str, answer: ChildAnswer) -> OSError:
    text = answer.text if isinstance(answer, Refused) else f"unexpected answer: {answer}"
    return OSError(f"{what}: {text}")


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
