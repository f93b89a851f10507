"""Supervision of the monitor: its process, its channel, and what must outlive it.  One task uses it.

A monitor that dies is replaced by another one, which gets the same resources and the same members.
The request that was under way is repeated, which is refused or has the same effect.  The move that
was accepted last, unless a later request has cancelled it, is requested again as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError, SpawnerLostError
from hfsched.swap.client.errors import LostError, SwapError
from hfsched.swap.client.member import Member, RegisteredMember
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import (
    RESOURCES_MAX,
    Begin,
    Collected,
    Disable,
    Done,
    Enable,
    Exit,
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

__all__ = ["Job", "MonitorSupervisor", "refusal"]

ATTEMPTS = 3  # monitors in a row that may die of the same request
STARTS = 10  # monitors in a row that may die before they serve; then the machine ends
START_AGAIN = 100_000_000  # ns, after a process could not be started
UNANSWERED_MAX = 32  # requests: more might fill the channel of a monitor that hangs
START_WITHIN = 10_000_000_000  # ns, for each request of a take-over


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
        start_within: int | None = START_WITHIN,
        lost: Callable[[str], None] = lambda _why: None,
    ) -> None:
        self._runtime = runtime
        self._program = program
        self._resources = resources
        self._start_within = start_within
        self._lost = lost
        self._process: Process | None = None
        self._number = 0  # of the last request to this monitor,
        self._answered = 0  # and of the last answer from it
        self._abandoned: set[int] = set()  # registrations whose requester has timed out
        self._accepted_move: MonitorRequest | None = None  # the move that was accepted last
        self._begun = False  # a monitor has used the resources before
        self.irreplaceable = False  # no other monitor can be started any more
        self.half_enabled = False  # memory may be registered though the table does not say so
        self.takeovers = 0
        self.end: End | None = None  # the channel to the monitor; None: there is no monitor
        self.members: tuple[RegisteredMember, ...] = ()

    def key(self) -> object:
        """Return the whole state, hashable."""
        members = tuple((known.member.number, known.zapped) for known in self.members)
        promise = None if self._accepted_move is None else name_of(self._accepted_move)
        monitor = (self.end is None, self._begun, self.takeovers, self._number, self._answered)
        return (
            *monitor,
            self.irreplaceable,
            self.half_enabled,
            promise,
            members,
            *sorted(self._abandoned),
        )

    @property
    def pid(self) -> int | None:
        """The monitor's process id, for any task; None: there is no process."""
        process = self._process
        return None if process is None else process.pid

    def perform(self, job: Job) -> MonitorAnswer:
        """Return the answer to a request; raises SwapError.

        Exit with `discard` is also done if the monitor is dead, or does not answer and is killed.
        """
        discard = isinstance(job.request, Exit) and job.request.discard
        if isinstance(job.request, Enable):
            self._accepted_move = None
            self.half_enabled = True
            self.members = tuple(replace(known, zapped=False) for known in self.members)
        for attempt in range(ATTEMPTS):
            self._runtime.retain_only(
                self.key(), attempt, encode(0, job.request), job.deadline, level=1
            )
            self.ensure()
            try:
                answer = self._perform_once(job)
            except OSError as exc:
                raise SwapError(f"{name_of(job.request)}: {exc.strerror}") from exc
            except ChannelClosedError:
                self._kill()
                if discard:
                    return Done()
            except SwapError:
                if not discard:
                    raise
                self._kill()
                return Done()
            else:
                self._record(job, answer)
                return answer
        raise SwapError(f"{name_of(job.request)}: {ATTEMPTS} monitors have died of it")

    def ensure(self) -> End:
        """Start a monitor if there is none; return the channel to it; raises LostError."""
        why = f"{STARTS} have died"
        for attempt in range(STARTS):
            if self.end is not None:
                return self.end
            self._runtime.retain_only(self.key(), attempt, level=2)
            try:
                self._start()
            except ChannelClosedError:
                self._kill()
            except SwapError as exc:
                self._kill()
                raise LostError(f"swap: the monitor does not start: {exc}") from exc
            except SpawnerLostError as exc:
                self._kill()
                self.irreplaceable = True
                raise LostError(f"swap: there is no monitor: {exc}") from exc
            except OSError as exc:
                self._kill()
                why = str(exc.strerror)
                self._runtime.sleep_until(self._runtime.now() + START_AGAIN)
        if self.end is None:
            raise LostError(f"swap: the monitor does not start: {why}")
        return self.end

    def poll(self) -> None:
        """Receive what the monitor sends between requests: a late answer, or the end of its channel."""
        try:
            self._receive(None)
        except ChannelClosedError:
            self._kill()

    def close(self) -> None:
        """Close the channel to a monitor that has answered Exit, and wait for its process to end."""
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

    def _start(self) -> None:
        """Start a monitor, and give it the resources, members and move of the last one."""
        self._number = self._answered = 0
        self._abandoned.clear()
        self.end, theirs = self._runtime.channel("swap.monitor")
        try:
            self._process = self._runtime.process("monitor", self._program, [theirs])
        except (OSError, SpawnerLostError):
            theirs.close()
            raise
        words, fds = self._resources.words, self._resources.fds
        while len(words) > RESOURCES_MAX:
            self._check(
                self._send_setup(Give(resources=words[:RESOURCES_MAX]), fds[:RESOURCES_MAX])
            )
            words, fds = words[RESOURCES_MAX:], fds[RESOURCES_MAX:]
        self._check(self._send_setup(Begin(fresh=not self._begun, resources=words), fds))
        self.takeovers += self._begun
        self._begun = True
        for known in self.members:
            answer = self._send_setup(known.request(), known.member.descriptors())
            if isinstance(answer, Refused):
                self._drop(known.member.number)
                if not (known.member.dynamic or known.member.dead):
                    self._lost(answer.text)
        if self._accepted_move is not None:
            self._send_setup(self._accepted_move, ())  # it is refused if it was done before

    def _send_setup(self, request: MonitorRequest, fds: Sequence[int]) -> MonitorAnswer:
        limit = self._start_within
        deadline = None if limit is None else self._runtime.now() + limit
        return self._exchange(request, fds, deadline)

    def _check(self, answer: MonitorAnswer) -> None:
        if not isinstance(answer, Done):
            raise SwapError(refusal(answer))

    def _perform_once(self, job: Job) -> MonitorAnswer:
        fds = () if job.member is None else job.member.descriptors()
        return self._exchange(job.request, fds, job.deadline)

    def _exchange(
        self, request: MonitorRequest, fds: Sequence[int], deadline: int | None
    ) -> MonitorAnswer:
        """Send a request and return its answer; raises ChannelClosedError for a dead monitor."""
        assert self.end is not None
        late = f"{name_of(request)}: the monitor did not answer in time"
        while self._number - self._answered >= UNANSWERED_MAX:
            if self._receive(deadline) is None:
                raise SwapError(late)
        self.end.send(encode(self._number + 1, request), fds)
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
        """Return the next answer, None at the deadline; raises ChannelClosedError."""
        assert self.end is not None
        received = self.end.recv(deadline)
        if received is None:
            return None
        try:
            number, answer = decode_answer(received[0])
        except ProtocolError:
            raise ChannelClosedError from None  # it cannot be trusted any more: treated as dead
        self._answered = max(self._answered, min(number, self._number))
        if number in self._abandoned and isinstance(answer, Done):
            raise ChannelClosedError  # it has a member that main does not know of; a new one has not
        return number, answer

    def _record(self, job: Job, answer: MonitorAnswer) -> None:
        """Record what a new monitor must be told."""
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
            case ((Trim() | SwapOut() | Disable()), Done()):
                self._accepted_move = job.request
            case _, Collected(members=gone):
                for number in gone:
                    self._drop(number)

    def _drop(self, number: int) -> None:
        self.members = tuple(known for known in self.members if known.member.number != number)


def refusal(answer: MonitorAnswer) -> str:
    """Return the text of an answer that is not the expected one."""
    return answer.text if isinstance(answer, Refused) else f"unexpected answer: {answer}"
