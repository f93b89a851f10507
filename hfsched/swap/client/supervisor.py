"""Supervision of the monitor: its process, its channel, and what must outlive it.  One task uses it.

A monitor that dies is replaced by another one, which gets the same resources and the same members.
The request that was under way is repeated, which is refused or has the same effect.  The move that
was accepted last, unless a later request has cancelled it, is requested again as well.

A monitor that fails says why, and ends.  The request that it failed at is not repeated: the next one
is asked to bring everything in; if that fails too, the one after it is asked for nothing, and serves
faults, until a command is accepted.

A monitor that was started is set up by requests of its own, one at a time (`MonitorSupervisor._setup`).  Nothing waits
for that but a request, up to its deadline; and since guests may wait for their memory, it is tried
for as long as it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError, SpawnerLostError
from hfsched.swap.client.errors import LostError, MonitorFailedError, SwapError
from hfsched.swap.client.member import Member, RegisteredMember
from hfsched.swap.client.setup import SetupStep, refusal, setup_steps
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import (
    Begin,
    Collected,
    Disable,
    Done,
    Enable,
    Exit,
    Failed,
    Give,
    MonitorAnswer,
    MonitorRequest,
    ProtocolError,
    Refused,
    Register,
    SwapOut,
    Trim,
    Zapped,
    decode_answer,
    encode,
    name_of,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Process, Runtime

__all__ = ["ATTEMPTS", "Job", "MonitorSupervisor"]

ATTEMPTS = 3  # monitors in a row that may die of the same request
STARTS = 10  # times the first monitor may fail to start; and others, before there is a pause
START_AGAIN = 100_000_000  # ns, after a process could not be started; nothing tells when there is room for one
UNANSWERED_MAX = 32  # requests: more might fill the channel of a monitor that hangs


@dataclass(frozen=True, slots=True)
class Job:
    """A request, its deadline (ns), and the member that a Register is about."""

    request: MonitorRequest
    deadline: int | None = None
    member: Member | None = None


class MonitorSupervisor:
    """See the module's text.  `lost(why)` is called if a new monitor refuses a static member that lives."""

    def __init__(
        self,
        runtime: Runtime,
        program: Callable[..., None],
        resources: Resources,
        lost: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._runtime = runtime
        self._program = program
        self._resources = resources
        self._lost = lost
        self._process: Process | None = None
        self._number = 0  # of the last request to this monitor,
        self._answered = 0  # and of the last answer from it
        self._abandoned: set[int] = set()  # registrations whose requester has timed out
        self._accepted_move: MonitorRequest | None = None  # the move that was accepted last
        self._begun = False  # a monitor has used the resources before,
        self._served = False  # and a monitor has served faults
        self._setup: list[SetupStep] = []  # to be done before it serves; the first is under way
        self._bad_starts = 0  # in a row
        self._problem = ""  # of the last of them
        self._failures = 0  # of monitors, since a command was accepted
        self.failure = ""  # the last one, until a command is accepted
        self.irreplaceable = False  # no other monitor can be started any more
        self.half_enabled = False  # memory may be registered though the table does not say so
        self.takeovers = 0
        self.failed = 0  # monitors that have ended with an internal error
        self.end: End | None = None  # the channel to the monitor; None: there is no monitor,
        self.start_at: int | None = 0  # and another is started then (ns)
        self.members: tuple[RegisteredMember, ...] = ()
        self.dead_static: frozenset[int] = frozenset()  # members that died, and were not allowed to

    def key(self) -> object:
        """Return the whole state, hashable."""
        members = tuple((known.member.number, known.zapped) for known in self.members)
        promise = None if self._accepted_move is None else name_of(self._accepted_move)
        monitor = (self.end is None, self._begun, self.takeovers, self._number, self._answered)
        return (
            *monitor,
            tuple(name_of(step.request) for step in self._setup),
            (self._served, self._bad_starts, self.start_at, self._failures, self.failed),
            self.irreplaceable,
            self.half_enabled,
            promise,
            members,
            (*sorted(self._abandoned), "dead", *sorted(self.dead_static)),
        )

    @property
    def pid(self) -> int | None:
        """The monitor's process id, for any task; None: there is no process."""
        process = self._process
        return None if process is None else process.pid

    @property
    def serving(self) -> bool:
        """Whether there is a monitor that serves faults and takes requests."""
        return self.end is not None and not self._setup

    def perform(self, job: Job) -> MonitorAnswer:
        """Return the answer to a request; raises SwapError.

        Exit with `discard` is also done if the monitor is dead, or does not answer and is killed.
        """
        discard = isinstance(job.request, Exit) and job.request.discard
        for attempt in range(ATTEMPTS):
            self._runtime.retain_only(
                self.key(), attempt, encode(0, job.request), job.deadline, level=1
            )
            if discard and not self.serving:
                self._kill()
                return Done()
            self.ensure(job.deadline, name_of(job.request))
            if isinstance(job.request, Enable):
                self._prepare_enable()
            try:
                answer = self._perform_once(job)
            except OSError as exc:
                raise SwapError(f"{name_of(job.request)}: {exc.strerror}") from exc
            except ChannelClosedError:
                self._kill()
                if discard:
                    return Done()
            except MonitorFailedError as exc:
                at_it = exc.request == self._number
                self._kill()
                if discard:
                    return Done()
                if at_it:
                    raise SwapError(
                        f"{name_of(job.request)}: the monitor has failed: {exc}"
                    ) from None
            except SwapError:
                if not discard:
                    raise
                self._kill()
                return Done()
            else:
                self._record(job, answer)
                return answer
        raise SwapError(f"{name_of(job.request)}: {ATTEMPTS} monitors have died of it")

    def poll(self) -> None:
        """Receive what the monitor sends between requests: a late answer, or the end of its channel.

        Also the answer to a step of its set-up, after which the next one is sent.
        """
        try:
            received = self._receive(None)
            if received is not None and self._setup and received[0] == self._number:
                self._step_answered(received[1])
        except (ChannelClosedError, OSError):
            self._gone("it died before it served faults")
        except MonitorFailedError as exc:
            self._gone(f"the monitor has failed: {exc}")

    def close(self) -> None:
        """Close the channel to a monitor that has answered Exit, and wait for its process to end."""
        self._setup = []
        self.start_at = 0
        if self.end is not None:
            self.end.close()
            self.end = None
        if self._process is not None:
            self._process.join()
            self._process = None

    def _kill(self) -> None:
        """Kill the monitor and wait: no two may ever work on the same pages."""
        if self._process is not None:
            self._process.kill()
        self.close()

    # Starting a monitor.

    def ensure(self, deadline: int | None = None, what: str = "start") -> None:
        """Wait until a monitor serves; raises LostError, and SwapError at the deadline."""
        while not self.serving:
            self._runtime.retain_only(self.key(), deadline, what, level=2)
            self.advance()
            if self.end is not None and self._runtime.select([self.end], deadline):
                self.poll()
            elif deadline is not None and self._runtime.now() >= deadline:
                why = f" ({self._problem})" if self._problem else ""
                raise SwapError(f"{what}: a monitor is being started, and does not serve yet{why}")
            elif self.start_at:
                at = self.start_at if deadline is None else min(self.start_at, deadline)
                self._runtime.sleep_until(at)

    def advance(self) -> None:
        """Start a monitor, if there is none and it is time for that; does not wait.

        Raises LostError if none can be started, and for the first one if it has failed too often.
        """
        if self.end is not None or (self.start_at and self._runtime.now() < self.start_at):
            return
        try:
            self._start()
            self._send_step()
        except SpawnerLostError as exc:
            self._kill()
            self.irreplaceable = True
            raise LostError(f"swap: there is no monitor: {exc}") from exc
        except OSError as exc:
            self._gone(str(exc.strerror), pause=True)
        except (ChannelClosedError, MonitorFailedError):
            self._gone("it died before it served faults")

    def _start(self) -> None:
        """Start a process, and note how to set it up; raises OSError, SpawnerLostError."""
        self._number = self._answered = 0
        self._abandoned.clear()
        end, theirs = self._runtime.channel("swap.monitor")
        self.end = end
        try:
            self._process = self._runtime.process("monitor", self._program, [theirs])
        except (OSError, SpawnerLostError):
            theirs.close()
            raise
        self.start_at = None
        self._setup = setup_steps(
            self._resources, self.members, self._accepted_move, fresh=not self._begun
        )

    def _send_step(self) -> None:
        assert self.end is not None
        step = self._setup[0]
        try:
            self.end.send(encode(self._number + 1, step.request), step.fds)
        except ChannelClosedError:
            self._receive_last()
            raise
        self._number += 1

    def _step_answered(self, answer: MonitorAnswer) -> None:
        """Go on with the set-up; raises LostError for what cannot be set up, ever."""
        request = self._setup[0].request
        refused = isinstance(answer, Refused)
        if isinstance(answer, Refused) and answer.again:
            self._gone(answer.text, pause=True)
            return
        if isinstance(request, Begin | Give) and not isinstance(answer, Done):
            self._kill()
            raise LostError(f"swap: the monitor does not start: {refusal(answer)}")
        if isinstance(request, Begin):
            self.takeovers += self._begun
            self._begun = True
        elif isinstance(request, Register) and refused:
            self._refused(request.member, refusal(answer))
        # The move that was accepted last is refused if it was done before.
        del self._setup[0]
        if self._setup:
            self._send_step()
        else:
            self._served = True
            self._bad_starts = 0
            self._problem = ""

    def _refused(self, number: int, why: str) -> None:
        """Drop a member that a new monitor has refused."""
        if not self._served:
            self._kill()
            raise LostError(why)
        for known in self.members:
            if known.member.number == number:
                self._drop(number)
                if not (known.member.dynamic or known.member.dead):
                    self._lost(why)

    def _gone(self, why: str, *, pause: bool = False) -> None:
        """Have another monitor started: at once, unless `pause`, or many have died before they served."""
        starting = self.end is None or bool(self._setup) or self._process is None
        self._kill()
        if not starting:
            return
        self._bad_starts += 1
        self._problem = why
        if self._bad_starts >= STARTS and not self._begun:
            raise LostError(f"swap: the monitor does not start: {why}")
        if pause or self._bad_starts >= STARTS:
            self.start_at = self._runtime.now() + START_AGAIN

    # Requests.

    def _prepare_enable(self) -> None:
        self._accepted_move = None
        self.half_enabled = True
        self.members = tuple(replace(known, zapped=False) for known in self.members)

    def _perform_once(self, job: Job) -> MonitorAnswer:
        """Send a request and return its answer; raises ChannelClosedError for a dead monitor."""
        assert self.end is not None
        request, deadline = job.request, job.deadline
        fds = () if job.member is None else job.member.descriptors()
        late = f"{name_of(request)}: the monitor did not answer in time"
        while self._number - self._answered >= UNANSWERED_MAX:
            if self._receive(deadline) is None:
                raise SwapError(late)
        try:
            self.end.send(encode(self._number + 1, request), fds)
        except ChannelClosedError:
            self._receive_last()
            raise
        self._number += 1
        while True:
            received = self._receive(deadline)
            if received is None:
                if isinstance(request, Register):
                    self._abandoned.add(self._number)
                raise SwapError(late)
            number, answer = received
            if number == self._number:
                return answer

    def _receive(self, deadline: int | None) -> tuple[int, MonitorAnswer] | None:
        """Return the next answer, None at the deadline; raises ChannelClosedError, MonitorFailedError."""
        assert self.end is not None
        received = self.end.recv(deadline)
        if received is None:
            return None
        try:
            number, answer = decode_answer(received[0])
        except ProtocolError:
            raise ChannelClosedError from None  # it cannot be trusted any more: treated as dead
        if isinstance(answer, Failed):
            self._note_failure(answer.text)
            raise MonitorFailedError(answer.text, number)
        self._answered = max(self._answered, min(number, self._number))
        if number in self._abandoned and isinstance(answer, Done):
            raise ChannelClosedError  # it has a member that main does not know of; a new one has not
        return number, answer

    def _receive_last(self) -> None:
        """Receive what a monitor sent before it closed its end; raises MonitorFailedError."""
        while self._receive(self._runtime.now()) is not None:
            pass

    # What a new monitor must be told.

    def _note_failure(self, text: str) -> None:
        self.failure = text
        self.failed += 1
        self._failures += 1
        self._accepted_move = Disable() if self._failures == 1 else None

    def _record(self, job: Job, answer: MonitorAnswer) -> None:
        if isinstance(job.request, Enable | Disable) and isinstance(answer, Done):
            self.half_enabled = False
        match job.request, answer:
            case Register(), Done():
                assert job.member is not None
                self.members = (*self.members, RegisteredMember(job.member))
            case Zapped(member=number), Done():
                self.members = tuple(
                    replace(known, zapped=known.zapped or known.member.number == number)
                    for known in self.members
                )
            case Enable(), Done():
                self._forget_failures()
            case ((Trim() | SwapOut() | Disable()), Done()):
                self._forget_failures()
                self._accepted_move = job.request
            case _, Collected(members=gone):
                for number in gone:
                    self._drop(number)

    def _forget_failures(self) -> None:
        self._failures = 0
        self.failure = ""

    def _drop(self, number: int) -> None:
        gone = [known.member for known in self.members if known.member.number == number]
        self.dead_static |= {member.number for member in gone if not member.dynamic}
        self.members = tuple(known for known in self.members if known.member.number != number)
