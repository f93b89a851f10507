"""Requests to the monitor, from any task of main.

One task, the client's, has the channel to the monitor.  It sends the requests of other tasks, one at
a time, each with a deadline and an answer.  The end of the channel wakes it when the monitor dies,
so that `hfsched.swap.client.supervisor` replaces it at once, also between requests.

Where no monitor could be started any more (`Runtime.spawner_lost`) everything is swapped in while this
one lives, and Enable is refused from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from hfsched.runtime.waitable import Waitable
from hfsched.swap.client.enabling import Enabling
from hfsched.swap.client.errors import BusyError, LostError, SwapError
from hfsched.swap.client.jobs import Job, Result
from hfsched.swap.client.member import Member, RegisteredMember
from hfsched.swap.client.setup import refusal
from hfsched.swap.client.supervisor import MonitorSupervisor
from hfsched.swap.client.suspension import Suspendable, suspended
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import (
    DISCARD_MAX,
    Collect,
    Collected,
    Disable,
    Discard,
    Enable,
    Exit,
    GetStatus,
    GoOn,
    Hold,
    MonitorRequest,
    Stage,
    State,
    Status,
    SwapOut,
    Trim,
    name_of,
    reply_text,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Task

__all__ = ["Alarm", "MonitorClient"]

DEFAULT_TIMEOUT = (
    10_000_000_000  # ns; a clock: a stopped monitor shows no progress, and callers must go on
)
_LATE = 100_000_000  # ns after the deadline by which the client's task answers, unless a start holds it up
_MOVES = (Enable, Trim, SwapOut, Disable, Discard)  # what is refused while moves are held
_NO_ENABLE = "enable: swap stays off: if the monitor died, no other one could be started"


class Alarm(Protocol):
    """`event` is ready when a fault cannot be served, since what its page is kept in is damaged."""

    @property
    def event(self) -> Waitable:
        """What to wait for."""

    def take(self) -> Sequence[int]:
        """Return the pages that nobody needs any more; it is not ready then, until the next such fault."""


class MonitorClient:
    """See the module's text.  Any task may call its methods; a deadline is in ns.

    `program(runtime, end)` is the monitor's.  `default_timeout` (ns; None: no limit) is for requests
    without a deadline.  `on_lost(why)` is called on the client's task when no monitor could be
    started: no faults are served from then on, and an access to memory that is out waits for ever.
    If no monitor can be started any more and `needed()` is False, all memory is in, and `on_unserved` is called
    instead: no process may wait for a fault from then on.
    `staged(page)` returns whether the page table has a page as staged or out.  The event of `alarm` is ready while there are
    faults that cannot be served; the alarm is asked, on the client's task, what to discard so that they can be.
    """

    def __init__(
        self,
        runtime: Runtime,
        program: Callable[..., None],
        suspendable: Suspendable,
        resources: Resources | None = None,
        *,
        default_timeout: int | None = DEFAULT_TIMEOUT,
        on_lost: Callable[[str], None] = lambda _why: None,
        on_unserved: Callable[[], None] = lambda: None,
        needed: Callable[[], bool] = lambda: True,
        staged: Callable[[int], bool] = lambda _page: True,
        alarm: Alarm | None = None,
    ) -> None:
        self._runtime = runtime
        self._suspendable = suspendable
        self._default_timeout = default_timeout
        self._on_lost = on_lost
        self._on_unserved = on_unserved
        self._needed = needed
        self.enabling = Enabling(runtime, self._ask, self._undo, staged)
        self._alarm = alarm
        self._spawner_lost = runtime.spawner_lost
        # The client's task alone, once it runs.
        self.supervisor = MonitorSupervisor(runtime, program, resources or Resources(), on_lost)
        self._task: Task | None = None
        # Of all tasks, under the lock.
        self._lock = runtime.lock("swap", state=self.key)
        self._busy = False  # a request is under way,
        self._abandoned = False  # and its requester does not wait any more
        self._jobs: tuple[Job, ...] = ()  # to be performed, in order; at most one has the turn
        self._result: Result | SwapError | None = None
        self._closed = ""  # why no request is accepted any more,
        self._lost = False  # and whether that is because the monitor is lost
        self._held = ""  # why no move is accepted, for as long as `hold` has it
        self._enabling_now = False
        self._free = runtime.event("swap.free")
        self._enabled = runtime.event("swap.enabled")  # an enable has ended, for who holds moves
        self._posted = runtime.event("swap.posted")
        self._done = runtime.event("swap.done")

    def key(self) -> object:
        """Return the state that the lock guards."""
        jobs = tuple((name_of(job.request), job.deadline) for job in self._jobs)
        result = self._result.key() if isinstance(self._result, Result) else str(self._result)
        holds = (self._held, self._enabling_now)
        return (self._busy, self._abandoned, jobs, result, self._closed, self._lost, holds)

    def start(
        self,
        members: Sequence[Member] = (),
        *,
        fill: Callable[[], None] = lambda: None,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the monitor and the client's task; raises LostError, as requests do from then on.

        `members` are added before this returns, however long it takes; see `add`.  `fill` and `meanwhile` are as of
        `MonitorSupervisor.begin`.
        """
        self.supervisor.members = tuple(RegisteredMember(member) for member in members)
        try:
            self.supervisor.begin(fill, meanwhile)
        except LostError as exc:
            self._refuse_all(str(exc))
            raise
        self._task = self._runtime.spawn("swap.client", self._run)

    def add(self, member: Member, deadline: int | None = None) -> None:
        """Have the faults of a process served; it must have no page mapped that is staged or out.

        It must not access guest memory before this returns.
        """
        self._command(Job(RegisteredMember(member).request(), deadline, member))

    def enable(self, deadline: int | None = None) -> int:
        """Stage all memory while the machine is suspended; return how many pages.

        When a step fails, swap is disabled again, and the machine is resumed.
        """
        with self._lock:
            self._check_held("enable")
            self._enabling_now = True
        try:
            with suspended(self._suspendable, deadline):
                return self.enabling.stage(deadline)
        finally:
            with self._lock:
                self._enabling_now = False
                self._enabled.set()

    def trim(self, deadline: int | None = None) -> None:
        """Begin to drop pages that need not be written."""
        self._command(Job(Trim(), deadline))

    def swap_out(self, deadline: int | None = None) -> None:
        """Begin to move staged pages out of memory."""
        self._command(Job(SwapOut(), deadline))

    def disable(self, *, slow_file_cleanup: bool = False, deadline: int | None = None) -> None:
        """Begin to swap everything in."""
        self._command(Job(Disable(slow_file_cleanup=slow_file_cleanup), deadline))

    def discard(self, first: int, count: int, deadline: int | None = None) -> None:
        """Make pages zero, wherever they are, and give their memory and copies back.

        Guests keep running: what one writes meanwhile may be discarded or not.
        """
        for start in range(first, first + count, DISCARD_MAX):
            part = min(DISCARD_MAX, first + count - start)
            self._command(Job(Discard(first=start, count=part), deadline))

    def hold(self, why: str, deadline: int | None = None) -> None:
        """Let no page be moved until `go_on`: a move that is under way waits, and commands are refused with `why`.

        Faults are served meanwhile, and another monitor is held too.  Waits for the end of an `enable`; raises
        SwapError if that, or the monitor, does not come in time; then nothing is held.
        """
        while True:
            with self._lock:
                self._check_held("hold")
                if not self._enabling_now:
                    self._held = why
                    break
                self._enabled.clear()
            self._runtime.retain_only(level=1)
            if not self._enabled.wait(deadline):
                raise SwapError("hold: an enable did not end in time")
        try:
            self._command(Job(Hold(), deadline))
        except BaseException:
            self.go_on(deadline)
            raise

    def go_on(
        self, deadline: int | None = None, *, unstage: bool = False, release: bool = False
    ) -> None:
        """Let pages be moved again: also by a monitor that does not say so in time.

        `unstage`: staged pages come back at once; `release`: and swap is disabled if nothing is out.
        """
        with suppress(SwapError):
            self._undo(Job(GoOn(unstage=unstage, release=release), deadline))
        with self._lock:
            self._held = ""

    def _check_held(self, what: str) -> None:
        """Raise SwapError while moves are held; under the lock."""
        if self._held:
            raise SwapError(f"{what}: {self._held}")

    def status(self, deadline: int | None = None) -> Status:
        """Return the status; `State.FAILED` when the monitor is lost.

        `error` is also why the last monitor failed, until a command is accepted.
        """
        try:
            result = self._ask(Job(GetStatus(), deadline))
        except LostError as exc:
            return Status(state=State.FAILED, error=reply_text(str(exc)))
        answer = result.answer
        if isinstance(answer, Status):
            return replace(answer, error=result.failure) if result.failure else answer
        raise SwapError(refusal(answer))

    def collect(self, deadline: int | None = None) -> tuple[int, ...]:
        """Remove the dynamic members that are dead; return their numbers."""
        answer = self._ask(Job(Collect(), deadline)).answer
        if isinstance(answer, Collected):
            return answer.members
        raise SwapError(refusal(answer))

    def close(self, deadline: int | None = None, *, discard: bool = False) -> None:
        """Swap everything in and end the monitor; when that fails, it continues to serve.

        `discard`: swap nothing in, since no process will access guest memory any more.
        """
        self._command(Job(Exit(discard=discard), deadline))

    def join(self, deadline: int | None = None) -> bool:
        """Wait, after `close`, for the end of the monitor's process and of the client's task."""
        return self._task is None or self._task.join(deadline)

    def monitor_pid(self) -> int | None:
        """Return the monitor's process id; None: there is no process now."""
        return self.supervisor.pid

    # Requests, on any task.

    def _command(self, job: Job) -> None:
        """Have a request done; raises SwapError if it is refused."""
        self._ask(job).check()

    def _undo(self, job: Job) -> None:
        """Have a request done: if another one is in the way until the deadline, then as the next one."""
        try:
            self._ask(job)
        except BusyError:
            with self._lock:
                if not self._closed:
                    self._add_job(Job(job.request, awaited=False))
            raise

    def _add_job(self, job: Job) -> None:
        """Have the client's task perform a request; under the lock."""
        self._jobs = (*self._jobs, job)
        self._posted.set()

    def _ask(self, job: Job) -> Result:
        if job.deadline is None and self._default_timeout is not None:
            job = Job(job.request, self._runtime.now() + self._default_timeout, job.member)
        self._post(job)
        # It always answers; but the start of a process, which may take longer, cannot be interrupted.  A
        # member must not be registered when it is not waited for any more.
        limit = None if job.deadline is None or job.member else job.deadline + _LATE
        if not self._done.wait(limit):
            self._abandon(job)
        with self._lock:
            self._done.clear()
            result, self._result = self._result, None
            self._busy = False
            self._free.set()
        assert result is not None
        if isinstance(result, SwapError):
            raise result
        return result

    def _abandon(self, job: Job) -> None:
        """Stop waiting for a request, unless its result has come just now; raises SwapError."""
        with self._lock:
            if self._result is None:
                self._abandoned = True
                what = name_of(job.request)
                raise SwapError(f"{what}: a monitor is being started, and does not serve yet")

    def _post(self, job: Job) -> None:
        while True:
            with self._lock:
                if self._closed:
                    raise (LostError if self._lost else SwapError)(self._closed)
                if isinstance(job.request, _MOVES):
                    self._check_held(name_of(job.request))
                if not self._busy:
                    self._busy = True
                    self._add_job(job)
                    return
                self._free.clear()
            if not self._free.wait(job.deadline):
                raise BusyError(f"{name_of(job.request)}: another request did not end in time")

    # The client's task.

    def _run(self) -> None:
        why = "swap: the client's task has failed"
        try:
            self._serve()
            why = ""
        except LostError as exc:
            why = str(exc)
            supervisor = self.supervisor
            if not supervisor.irreplaceable or supervisor.half_enabled or self._needed():
                self._on_lost(why)
            else:
                self._on_unserved()
        finally:
            if why:
                self._refuse_all(why)
            self._posted.close()

    def _refuse_all(self, why: str) -> None:
        """Fail all requests, also the one under way: no monitor is left."""
        with self._lock:
            self._closed = why
            self._lost = True
            self._jobs = ()
            if self._abandoned:
                self._free_again()
            elif self._busy and self._result is None:
                self._result = LostError(why)
                self._done.set()

    def _serve(self) -> None:
        supervisor = self.supervisor
        waits: list[Waitable]
        ended = False
        while not ended:
            self._runtime.retain_only(supervisor.key)
            supervisor.advance()
            waits = [self._posted] if supervisor.end is None else [supervisor.end, self._posted]
            if not supervisor.irreplaceable:
                waits.append(self._spawner_lost)
            if self._alarm is not None:
                waits.append(self._alarm.event)
            ready = self._runtime.select(waits, supervisor.start_at)
            if self._spawner_lost in ready:
                supervisor.irreplaceable = True
                self._bring_in()
            elif self._alarm is not None and self._alarm.event in ready:
                self._answer(self._alarm)
            elif self._posted in ready:
                ended = self._next()
            elif ready:
                supervisor.poll()
        supervisor.close()

    def _why_not_enable(self) -> str:
        """Return why Enable is refused, empty if it is not: a dead monitor could not be replaced."""
        if self.supervisor.irreplaceable:
            return _NO_ENABLE
        dead = sorted(self.supervisor.dead_static)
        if dead:
            return f"enable: member {dead[0]} is dead, and was not allowed to die"
        return ""

    def _bring_in(self) -> None:
        """Begin to swap everything in, which nobody waits for."""
        self._perform_alone(Disable())

    def _perform_alone(self, request: MonitorRequest) -> None:
        """Make a request that nobody waits for."""
        limit = self._default_timeout
        deadline = None if limit is None else self._runtime.now() + limit
        try:
            self.supervisor.perform(Job(request, deadline))
        except LostError:
            raise
        except SwapError:
            pass  # it is late, or has failed: what it has been sent it does when it can

    def _answer(self, alarm: Alarm) -> None:
        """Discard what cannot be read, since nobody needs it any more; what fails comes up again."""
        for page in alarm.take():
            self._perform_alone(Discard(first=page, count=1))

    def _next(self) -> bool:
        """Perform the first posted request; return whether it ended the monitor."""
        with self._lock:
            job, *others = self._jobs
            self._jobs = tuple(others)
            if not others:
                self._posted.clear()
        if job.awaited:
            return self._perform(job)
        self._perform_alone(job.request)
        return False

    def _perform(self, job: Job) -> bool:
        """Perform a request, and hand over the result; return whether it ended the monitor."""
        result: Result | SwapError
        try:
            if isinstance(job.request, Enable | Stage) and (why := self._why_not_enable()):
                raise SwapError(why)
            answer = self.supervisor.perform(job)
            known = self.supervisor
            result = Result(answer, known.members, known.takeovers, known.failure)
        except LostError:
            raise
        except SwapError as exc:
            result = exc
        ended = isinstance(job.request, Exit) and isinstance(result, Result) and result.done
        with self._lock:
            if ended:
                self._closed = "swap has ended"
            abandoned = self._abandoned
            if not abandoned:
                self._result = result
                self._done.set()
            else:
                self._free_again()
        return ended

    def _free_again(self) -> None:
        """Accept requests after one that was abandoned; under the lock."""
        self._abandoned = self._busy = False
        self._free.set()
