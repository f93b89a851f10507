"""The monitor's state machine: the effect of each request in each state, and the moves of pages.

A plain class that one task uses.  `Controller.answer` answers a request, `Controller.work` moves one
bounded chunk of pages.  Their caller, `hfsched.swap.monitor.serving`, takes requests between any two
chunks: no request waits for a move to end, and a move is aborted by not continuing it.

The commands are those of crosvm's vmm-swap.  Differences: each member zaps its page tables before a
staged page may move (`State.ENABLING`), a failed move leaves the pages where they were, and a monitor
may begin with the page table of a dead one.  After an internal error the monitor ends, and is replaced
like a dead one: the page table is right at every moment, and what is in memory here may not be.

Implementation note.  Trim and swap-out are safe only for unmapped pages, so they run only while every
member has sent `Zapped` since the last enable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.errors import UserError, describe
from hfsched.swap.monitor.moves import Moves
from hfsched.swap.pages.store import Phase, is_shortage
from hfsched.swap.protocol.messages import (
    Begin,
    Collect,
    Collected,
    Disable,
    Discard,
    Done,
    Enable,
    Exit,
    Failed,
    GetStatus,
    Give,
    GoOn,
    Hold,
    Metrics,
    MonitorAnswer,
    MonitorRequest,
    Refused,
    Register,
    Stage,
    State,
    Status,
    SwapOut,
    Trim,
    Zapped,
    name_of,
    reply_text,
)

if TYPE_CHECKING:
    from hfsched.swap.monitor.processes import Processes
    from hfsched.swap.pages.store import Counts, Pages, Progress

__all__ = ["Controller"]

TRIM_CHUNK = 1024  # pages
MOVE_CHUNK = 512  # pages: 2 MiB
CLEAN_CHUNK = 16384  # pages: 64 MiB
CLEAN_EVERY = 5_000_000_000  # ns
WAIT = 1_000_000  # ns: a move that faults hold up continues after this
QUIET = (
    10_000_000  # ns without a fault: then a snapshot's pages are brought in that nobody waits for
)

_MOVING = (State.TRIMMING, State.SWAPPING_OUT, State.SWAPPING_IN)


@dataclass(slots=True)
class _Member:
    dynamic: bool
    zapped: bool


class Controller:
    """See the module's text.  The first state is that of the page table; `now` returns ns."""

    def __init__(self, now: Callable[[], int], pages: Pages, processes: Processes) -> None:
        self._now = now
        self._pages = pages
        self._processes = processes
        self._members: dict[int, _Member] = {}
        self._moves = Moves(now)
        self._wait_until = 0  # ns: no chunk is moved before
        self._slow = False  # whether the file is truncated in steps
        self._final = False  # whether no faults will be served after the release
        self._faults = -1  # so far, when it was looked
        self._clean_at: int | None = None  # ns: when the next part of the file is cut off
        self._held = False  # between Hold and GoOn: no page is moved
        self._exiting = False
        self.ended = False  # Exit has been carried out, or there was an internal error
        self.state = self._state_from_table()

    def key(self) -> object:
        """Return the whole state, hashable."""
        members = tuple((n, each.dynamic, each.zapped) for n, each in self._members.items())
        cleaning = (self._slow, self._final, self._clean_at, self._wait_until, self._faults)
        ends = (self._held, self._exiting, self.ended)
        return (self.state.value, members, self._moves.key(), cleaning, *ends)

    def peek_held(self) -> bool:
        """Return whether it moves nothing until it is told to go on: for oracles."""
        return self._held and not self.ended

    @property
    def due(self) -> int | None:
        """When `work` has something to do: a time (ns), 0 for now, None: not before a request."""
        if self.state in _MOVING:
            return None if self._held else self._wait_until
        return self._clean_at

    # Requests.

    def answer(self, request: MonitorRequest, fds: Sequence[int] = ()) -> MonitorAnswer | None:
        """Carry out a request; None: the answer comes later, from `work` (Exit alone).

        The caller closes `fds` if the answer is `Refused`, or the request is not a `Register`.
        """
        try:
            return self._answer(request, fds)
        except (OSError, UserError) as exc:
            return Refused(text=reply_text(f"{name_of(request)}: {exc}"), again=is_shortage(exc))
        except Exception as exc:  # noqa: BLE001 - the bug is reported
            return self._fail(exc)

    def _answer(self, request: MonitorRequest, fds: Sequence[int]) -> MonitorAnswer | None:
        if isinstance(request, GetStatus):
            return self.status()
        if isinstance(request, Collect):
            return self._collect()
        if isinstance(request, Exit) and request.discard:
            return self._exited()
        if self._exiting:
            return _refuse(request, "the monitor is ending")
        match request:
            case Begin() | Give():
                return _refuse(request, "the monitor has begun already")
            case Register():
                return self._register(request, fds)
            case Enable() if self._held:  # Discard: main asks for none but of what cannot be read
                return _refuse(request, "no page may be moved: a snapshot is being taken")
            case Enable():
                return self._enable()
            case Zapped(member=number):
                return self._zapped(request, number)
            case Trim():
                return self._move(request, State.TRIMMING)
            case SwapOut() if not self._pages.has_file:
                return _refuse(request, "there is no swap file: the machine has no swap directory")
            case SwapOut():
                return self._move(request, State.SWAPPING_OUT)
            case Disable(slow_file_cleanup=slow):
                return self._disable(slow=slow)
            case Discard(first=first, count=count):
                return self._discard(request, first, count)
            case Hold():
                self._pages.quiesce()
                self._held = True
                return Done()
            case Stage(pages=pages):
                return self._stage(request, pages=pages)
            case GoOn(unstage=unstage, release=release):
                return self._go_on(unstage=unstage, release=release)
            case Exit():
                self._held = False
                self._disable(slow=False, final=True)
                self._exiting = True
                return None if self.state in _MOVING else self._exited()

    def status(self) -> Status:
        """Return the status."""
        metrics = _metrics(self._pages.counts())
        return Status(
            state=self.state,
            transition=self._moves.last(moving=self.state in _MOVING),
            metrics=metrics,
            members=len(self._members),
            error=self._moves.error,
            moved=self._moves.history(),
        )

    def _register(self, request: Register, fds: Sequence[int]) -> MonitorAnswer:
        if request.member in self._members:
            return _refuse(request, f"member {request.member} exists already")
        self._processes.add(request, fds)
        self._members[request.member] = _Member(request.dynamic, request.zapped)
        self._update_phase()
        return Done()

    def _enable(self) -> MonitorAnswer:
        """Stage all pages in memory; a move that is under way is aborted."""
        self._begin_move("enable")
        try:
            staged = self._stage_all()
        except (OSError, UserError) as exc:
            self._moves.end(self.state, str(exc))
            raise
        self._moves.count(staged)
        self._update_phase()
        return Done(pages=staged)

    def _stage(self, request: MonitorRequest, *, pages: bool) -> MonitorAnswer:
        if not self._held or self.state in _MOVING:
            return _refuse(request, f"pages may be moved: swap is {self.state.value}")
        staged = self._stage_all(pages=pages)
        self._update_phase()
        return Done(pages=staged)

    def _stage_all(self, *, pages: bool = True) -> int:
        """Stage all pages in memory, or none, which every member has to zap then; return how many."""
        self._clean_at = None
        try:
            staged = self._pages.stage(pages=pages)
        except (OSError, UserError):
            self.state = self._state_from_table()
            raise
        for member in self._members.values():
            member.zapped = False
        self.state = State.ENABLING
        return staged

    def _go_on(self, *, unstage: bool, release: bool) -> MonitorAnswer:
        self._held = False
        self._pages.quiesce()
        if unstage and self.state is not State.READY and self.state not in _MOVING:
            self._pages.unstage()
            counts = self._pages.counts()
            if release and not counts.out:
                self._slow = self._final = False
                self._release()
            self.state = self._state_from_table()
        return Done()

    def _zapped(self, request: MonitorRequest, number: int) -> MonitorAnswer:
        member = self._members.get(number)
        if member is None:
            return _refuse(request, f"there is no member {number}")
        if self.state in (State.READY, State.SWAPPING_IN):
            return _refuse(request, f"swap is no longer being enabled: it is {self.state.value}")
        member.zapped = True
        self._update_phase()
        return Done()

    def _move(self, request: MonitorRequest, state: State) -> MonitorAnswer:
        if self.state is not State.PENDING:
            if self.state in (State.READY, State.ACTIVE):
                return _refuse(request, "nothing is staged: run `hfsched swap enable` first")
            return _refuse(request, f"swap must be pending, and it is {self.state.value}")
        self._begin_move(name_of(request))
        self.state = state
        return Done()

    def _disable(self, *, slow: bool, final: bool = False) -> MonitorAnswer:
        self._slow = slow
        self._final = final
        if self.state is State.READY:
            self._release()  # a monitor may have died before it
        elif self.state is not State.SWAPPING_IN:
            self._begin_move("disable")
            self.state = State.SWAPPING_IN
        return Done()

    def _discard(self, request: MonitorRequest, first: int, count: int) -> MonitorAnswer:
        progress = self._pages.discard(first, count)
        if progress.problem is not None:
            return _refuse(request, progress.problem)
        if not progress.done:
            return _refuse(request, "a page is on the way between two places: try again")
        return Done(pages=progress.moved)

    def _collect(self) -> MonitorAnswer:
        gone = []
        for number in self._processes.dead():
            member = self._members.get(number)
            if member is not None:
                self._processes.drop(number)
                del self._members[number]
                gone.append(number)
        self._update_phase()
        return Collected(members=tuple(gone))

    def begin_drain(self) -> bool:
        """Begin to swap everything in since main is gone; False: no member lives, or nothing is out.

        `work` does it, as for Exit.
        """
        for number in self._processes.dead():
            if self._members.pop(number, None) is not None:
                self._processes.drop(number)
        if not self._members:
            return False
        self._held = False
        self.ended = False  # after an internal error it tries again: nobody else can
        idle = self.state is State.READY
        self._disable(slow=False, final=True)
        if idle:
            return False
        self._exiting = True
        return True

    def _update_phase(self) -> None:
        """Allow moves only while no member may have a staged page mapped."""
        ready = all(member.zapped for member in self._members.values())
        if self.state is State.ENABLING and ready:
            self._pages.zapped()
            self.state = State.PENDING
            if self._moves.under_way == "enable":
                self._moves.end(self.state)
        elif self.state in (State.PENDING, State.TRIMMING, State.SWAPPING_OUT) and not ready:
            self.state = State.ENABLING

    # Moves.

    def work(self) -> MonitorAnswer | None:
        """Move one chunk of pages, or truncate the file by one; return the answer to Exit, if it is due."""
        try:
            return self._work()
        except Exception as exc:  # noqa: BLE001 - as in `answer`
            return self._fail(exc)

    def _work(self) -> MonitorAnswer | None:
        match self.state:
            case State.TRIMMING:
                return self._advance(self._pages.trim(TRIM_CHUNK), State.PENDING)
            case State.SWAPPING_OUT:
                return self._advance(self._pages.swap_out(MOVE_CHUNK), State.ACTIVE)
            case State.SWAPPING_IN:
                return self._advance(self._pages.swap_in(MOVE_CHUNK), State.READY)
            case _:
                self._clean()
                return None

    def _advance(self, progress: Progress, end: State) -> MonitorAnswer | None:
        """Count the pages moved; `end` is the state after the last chunk."""
        self._moves.count(progress.moved)
        self._wait_until = 0
        if progress.problem is not None:
            return self._abort_move(progress.problem)
        if progress.done:
            if end is State.READY:
                self._release()
            self.state = end
            self._moves.end(self.state)
            return self._exited() if self._exiting else None
        if progress.fills:
            self._let_faults_come()
        elif not progress.moved:  # faults have priority
            self._wait_until = self._now() + WAIT
        return None

    def _let_faults_come(self) -> None:
        """Wait a little if the guests access memory that they wait for."""
        before, self._faults = self._faults, self._pages.faults()
        if self._faults != before:
            self._wait_until = self._now() + QUIET

    def _release(self) -> None:
        """Release the stores; truncate the file now, or in steps; retry later if that fails."""
        self._clean_at = self._now() + CLEAN_EVERY if self._slow else None
        try:
            self._pages.release(slow=self._slow, final=self._final)
        except UserError as exc:
            self._moves.error = reply_text(str(exc))
            self._clean_at = self._now() + CLEAN_EVERY

    def _clean(self) -> None:
        """Truncate the file by one chunk."""
        progress = self._pages.shrink(CLEAN_CHUNK)
        self._clean_at = None if progress.done else self._now() + CLEAN_EVERY
        if progress.problem is not None:
            self._moves.error = reply_text(progress.problem)

    def _abort_move(self, text: str) -> MonitorAnswer | None:
        """Abort a move; the pages concerned are where they were."""
        self._moves.error = reply_text(text)
        self.state = self._state_from_table()
        self._update_phase()
        self._moves.end(self.state, text)
        if self._exiting:
            self._exiting = False
            return Refused(text=reply_text(text))
        return None

    def _exited(self) -> MonitorAnswer:
        self.ended = True
        return Done()

    def _fail(self, exc: Exception) -> MonitorAnswer:
        """End after an internal error."""
        self._exiting = False
        self.ended = True
        return Failed(text=reply_text(describe(exc)))

    def _state_from_table(self) -> State:
        """Return the state that follows from the page table."""
        counts = self._pages.counts()
        match counts.phase:
            case Phase.OFF:
                return State.READY
            case Phase.MARKED:
                return State.ENABLING
            case Phase.SETTLED:
                return State.PENDING if counts.staged else State.ACTIVE

    def _begin_move(self, name: str) -> None:
        self._moves.begin(name, self.state)
        self._wait_until = 0


def _refuse(request: MonitorRequest, why: str) -> Refused:
    return Refused(text=reply_text(f"{name_of(request)}: {why}"))


def _metrics(counts: Counts) -> Metrics:
    fields = {name: getattr(counts, name) for name in Metrics.__struct_fields__}
    return Metrics(**fields)
