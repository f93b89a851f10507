"""Enable, step by step: all memory is staged, and every member zaps its page tables."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from hfsched.swap.client.errors import SwapError
from hfsched.swap.client.jobs import Job, Result
from hfsched.swap.client.supervisor import ATTEMPTS
from hfsched.swap.protocol.messages import (
    Collect,
    Disable,
    Enable,
    GetStatus,
    Hold,
    Stage,
    Zapped,
    reply_text,
)

if TYPE_CHECKING:
    from hfsched.memory.writeprotect import Run
    from hfsched.runtime.base import Runtime
    from hfsched.swap.client.member import Member

__all__ = ["Enabling"]

_LOOKS, _LOOK_AGAIN = 100, 1_000_000  # ns: a fault that is being served takes much less


class Enabling:
    """Stages memory, most often while the machine is suspended, by requests that `ask` makes; any one task at a time.

    `ask(job)` returns the result of a request, or raises SwapError; `undo(job)` has one done in any case, at last after the
    deadline.  `staged(page)` returns whether the page
    table has a page as staged or out.
    """

    def __init__(
        self,
        runtime: Runtime,
        ask: Callable[[Job], Result],
        undo: Callable[[Job], None],
        staged: Callable[[int], bool],
    ) -> None:
        self._runtime = runtime
        self._ask = ask
        self._undo = undo
        self._staged = staged

    def stage(self, deadline: int | None) -> int:
        """Stage all memory; return how many pages.  Raises SwapError; then Disable has been asked for."""
        try:
            for _ in range(ATTEMPTS):
                staged = self._mark_and_zap(deadline)
                if staged is not None:
                    return staged
            raise SwapError(f"enable: {ATTEMPTS} monitors have died of it")
        except BaseException:
            with suppress(SwapError):  # requested, but not waited for beyond the deadline
                self._undo(Job(Disable(), deadline))
            raise

    def _mark_and_zap(self, deadline: int | None) -> int | None:
        """Stage, and have every member zap; None: the monitor died meanwhile.

        The one that took over has then unstaged what was marked.
        """
        first = self._ask(Job(Enable(), deadline)).check()
        last = first
        for known in first.members:
            last = self._zap("enable", known.member, deadline)
        return first.pages if last.takeovers == first.takeovers else None

    def _zap(self, what: str, member: Member, deadline: int | None) -> Result:
        try:
            member.zap()
            self._check_unmapped(member, self._staged)
        except OSError as exc:
            return self._gone(what, member, exc, deadline)
        return self._ask(Job(Zapped(member=member.number), deadline)).check()

    def _gone(self, what: str, member: Member, exc: OSError, deadline: int | None) -> Result:
        """Remove a member that could not be zapped, if it has died and may; raises SwapError."""
        gone = self._ask(Job(Collect(), deadline)) if member.dynamic else None
        if gone and all(known.member is not member for known in gone.members):
            return gone  # removed now, or before with another one
        raise SwapError(reply_text(f"{what}: member {member.number}: {exc}")) from exc

    # While moves are held; nothing is undone.

    def stage_running(self, deadline: int | None) -> int:
        """Stage all memory while the machine runs, and have main zap; return how many pages.  Raises SwapError.

        Pages that guests touch are taken back at once; what another process has mapped stays so there, and if there is
        one, another monitor would take all of them back.
        """
        staged = self._ask(Job(Stage(), deadline)).check()
        for known in staged.members:
            if not known.member.number:
                try:
                    known.member.zap()
                except OSError as exc:
                    raise SwapError(reply_text(f"stage: member 0: {exc}")) from exc
                self._ask(Job(Zapped(member=0), deadline)).check()
        return staged.pages

    def serve(self, deadline: int | None) -> None:
        """Have faults served on what `unmap` unmaps, and stage nothing, while the machine runs; raises SwapError."""
        self._ask(Job(Stage(pages=False), deadline)).check()

    def unmap(self, deadline: int | None, pages: Sequence[Run] | None = None) -> None:
        """Unmap memory everywhere, once no fault is half served; the machine is suspended.  Raises SwapError.

        `pages`: only these runs, in order, of all pages; None: all memory.  After `stage_running`, or `serve`, without
        which faults may not be served.
        """
        served = self.quiesce(deadline)
        matters = self._staged if pages is None else partial(_has, pages)
        for known in served.members:
            member = known.member
            try:
                member.zap_mapped(pages)
                if member.number:  # main has looked itself
                    self._check_unmapped(member, matters)
            except OSError as exc:
                self._gone("stage", member, exc, deadline)

    def quiesce(self, deadline: int | None) -> Result:
        """Wait until no fault is half served; the machine is suspended, and moves are held.  Raises SwapError."""
        return self._ask(Job(Hold(), deadline)).check()

    def settle(self, deadline: int | None) -> None:
        """Say that what was unmapped is; raises SwapError."""
        for known in self._ask(Job(GetStatus(), deadline)).members:
            if not known.zapped:
                self._ask(Job(Zapped(member=known.member.number), deadline)).check()

    def _check_unmapped(self, member: Member, matters: Callable[[int], bool]) -> None:
        """Raise OSError if it has a page mapped that matters; one that a fault is taking back is looked at again."""
        for _ in range(_LOOKS):
            address = member.still_mapped(matters)
            if address is None:
                return
            self._runtime.sleep_until(self._runtime.now() + _LOOK_AGAIN)
        raise OSError(f"it has unmapped guest memory, as it says, and maps {address:#x}")


def _has(runs: Sequence[Run], page: int) -> bool:
    """Return whether a page is in one of the runs, which are in order."""
    found = bisect_right(runs, page, key=lambda run: run[0]) - 1
    return found >= 0 and page < sum(runs[found])
