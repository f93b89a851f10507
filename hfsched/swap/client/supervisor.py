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
from dataclasses import replace
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError, SpawnerLostError
from hfsched.swap.client.conversation import Conversation
from hfsched.swap.client.errors import LostError, MonitorFailedError, SwapError
from hfsched.swap.client.jobs import Job
from hfsched.swap.client.member import RegisteredMember
from hfsched.swap.client.setup import SetupStep, refusal, setup_steps
from hfsched.swap.core.resources import Resources
from hfsched.swap.protocol.messages import (
    Begin,
    Collected,
    Disable,
    Done,
    Enable,
    Exit,
    Give,
    GoOn,
    Hold,
    MonitorAnswer,
    MonitorRequest,
    Refused,
    Register,
    Stage,
    SwapOut,
    Trim,
    Zapped,
    encode,
    name_of,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Process, Runtime

__all__ = ["ATTEMPTS", "MonitorSupervisor"]

ATTEMPTS = 3  # monitors in a row that may die of the same request
STARTS = 10  # times the first monitor may fail to start; and others, before there is a pause
# ns, after a process could not be started; nothing tells when there is room for one
START_AGAIN = 100_000_000


def _nothing() -> None:
    pass


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
        self._fill: Callable[[], None] = _nothing  # before the first monitor is told anything
        self._process: Process | None = None
        self._talk: Conversation | None = None  # None: there is no monitor
        self._accepted_move: MonitorRequest | None = None  # the move that was accepted last
        self._held = False  # moves wait, in every monitor
        self._begun = False  # a monitor has used the resources before,
        self._served = False  # and a monitor has served faults
        self._setup: list[SetupStep] = []  # to be done before it serves; the first is under way
        self._move_is_due = False  # the move that was accepted last follows these
        self._bad_starts = 0  # in a row
        self._problem = ""  # of the last of them
        self._failures = 0  # of monitors, since a command was accepted
        self.failure = ""  # the last one, until a command is accepted
        self.irreplaceable = False  # no other monitor can be started any more
        self.half_enabled = False  # memory may be registered though the table does not say so
        self.takeovers = 0
        self.failed = 0  # monitors that have ended with an internal error
        self.start_at: int | None = (
            0  # ns: when another monitor is started, None while there is one
        )
        self.members: tuple[RegisteredMember, ...] = ()
        self.dead_static: frozenset[int] = frozenset()  # members that died, and were not allowed to

    def key(self) -> object:
        """Return the whole state, hashable."""
        members = tuple((known.member.number, known.zapped) for known in self.members)
        promise = None if self._accepted_move is None else name_of(self._accepted_move)
        return (
            None if self._talk is None else self._talk.key(),
            (self._begun, self.takeovers, self._move_is_due, self._held),
            tuple(name_of(step.request) for step in self._setup),
            (self._served, self._bad_starts, self.start_at, self._failures, self.failed),
            self.irreplaceable,
            self.half_enabled,
            promise,
            members,
            (*sorted(self.dead_static),),
        )

    @property
    def pid(self) -> int | None:
        """The monitor's process id, for any task; None: there is no process."""
        process = self._process
        return None if process is None else process.pid

    @property
    def end(self) -> End | None:
        """The channel to the monitor; None: there is no monitor."""
        return None if self._talk is None else self._talk.end

    @property
    def serving(self) -> bool:
        """Whether there is a monitor that serves faults and takes requests."""
        return self._talk is not None and not self._setup

    def perform(self, job: Job) -> MonitorAnswer:
        """Return the answer to a request; raises SwapError.

        Exit with `discard` is also done if the monitor is dead, or does not answer and is killed.
        """
        discard = isinstance(job.request, Exit) and job.request.discard
        if isinstance(job.request, Disable):
            self._accepted_move = job.request  # also if no monitor serves by the deadline
        for attempt in range(ATTEMPTS):
            self._runtime.retain_only(
                self.key, attempt, encode(0, job.request), job.deadline, level=1
            )
            if discard and not self.serving:
                self._kill()
                return Done()
            if isinstance(job.request, GoOn):
                self._held = False  # whatever becomes of this one
            self.ensure(job.deadline, name_of(job.request))
            if isinstance(job.request, Enable | Stage):
                self._prepare_enable()
            assert self._talk is not None
            fds = () if job.member is None else job.member.descriptors()
            try:
                answer = self._talk.ask(job.request, fds, job.deadline)
            except OSError as exc:
                raise SwapError(f"{name_of(job.request)}: {exc.strerror}") from exc
            except ChannelClosedError:
                self._kill()
                if discard:
                    return Done()
            except MonitorFailedError as exc:
                at_it = exc.request == self._talk.number
                self._note_failure(str(exc))
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
        assert self._talk is not None
        try:
            received = self._talk.receive(None)
            if received is not None and self._setup and received[0] == self._talk.number:
                self._step_answered(received[1])
        except (ChannelClosedError, OSError):
            self._gone("it died before it served faults")
        except MonitorFailedError as exc:
            self._note_failure(str(exc))
            self._gone(f"the monitor has failed: {exc}")

    def close(self) -> None:
        """Close the channel to a monitor that has answered Exit, and wait for its process to end."""
        self._setup = []
        self.start_at = 0
        if self._talk is not None:
            self._talk.end.close()
            self._talk = None
        if self._process is not None:
            self._process.join()
            self._process = None

    def _kill(self) -> None:
        """Kill the monitor and wait: no two may ever work on the same pages."""
        if self._process is not None:
            self._process.kill()
        self.close()

    # Starting a monitor.

    def begin(self, fill: Callable[[], None], meanwhile: Callable[[], None]) -> None:
        """Start the first monitor, as `ensure` does.

        `fill` is called while its process starts, before it is told of the resources, and `meanwhile` while it gets ready.
        """
        self._fill = fill
        self.advance()
        meanwhile()
        self.ensure()

    def ensure(self, deadline: int | None = None, what: str = "start") -> None:
        """Wait until a monitor serves; raises LostError, and SwapError at the deadline."""
        while not self.serving:
            self._runtime.retain_only(self.key, deadline, what, level=2)
            self.advance()
            if self._talk is not None and self._runtime.select([self._talk.end], deadline):
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
        if self._talk is not None or (self.start_at and self._runtime.now() < self.start_at):
            return
        try:
            talk = self._start()
            self._fill()
            self._fill = _nothing
            self._send_step(talk)
        except SpawnerLostError as exc:
            self._kill()
            self.irreplaceable = True
            raise LostError(f"swap: there is no monitor: {exc}") from exc
        except OSError as exc:
            self._gone(str(exc.strerror), pause=True)
        except MonitorFailedError as exc:
            self._note_failure(str(exc))
            self._gone(f"the monitor has failed: {exc}")
        except ChannelClosedError:
            self._gone("it died before it served faults")

    def _start(self) -> Conversation:
        """Start a process, and note how to set it up; raises OSError, SpawnerLostError."""
        end, theirs = self._runtime.channel("swap.monitor")
        self._talk = Conversation(self._runtime, end)
        try:
            self._process = self._runtime.process("monitor", self._program, [theirs])
        except (OSError, SpawnerLostError):
            theirs.close()
            raise
        self.start_at = None
        self._setup = setup_steps(
            self._resources, self.members, fresh=not self._begun, held=self._held
        )
        self._move_is_due = True
        return self._talk

    def _send_step(self, talk: Conversation) -> None:
        talk.send(self._setup[0].request, self._setup[0].fds)

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
        if isinstance(request, Hold) and not self._held:
            self._setup.insert(0, SetupStep(GoOn()))  # it was asked for meanwhile
        if not self._setup and self._move_is_due:
            self._move_is_due = False
            if self._accepted_move is not None:
                self._setup.append(SetupStep(self._accepted_move))
        if self._setup:
            assert self._talk is not None
            self._send_step(self._talk)
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
        starting = self._talk is None or bool(self._setup) or self._process is None
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

    # What a new monitor must be told.

    def _note_failure(self, text: str) -> None:
        self.failure = text
        self.failed += 1
        self._failures += 1
        self._accepted_move = Disable() if self._failures == 1 else None

    def _record(self, job: Job, answer: MonitorAnswer) -> None:
        if isinstance(job.request, Enable | Stage | Disable) and isinstance(answer, Done):
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
            case Hold(), Done():
                self._held = True
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
