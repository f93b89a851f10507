"""A transaction of a utility service, and the answer that it ends with."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.runtime.declared import uncompared

if TYPE_CHECKING:
    from hfsched.runtime.base import Event

__all__ = ["Answer", "Direction", "State", "Status", "Ticket", "Transaction"]


class State(Enum):
    """The state of a service's host-asked side; `docs/services.md` has the table of its changes.

    A service is READY if it has no transaction, so it cannot stay in the state of one that has ended.
    """

    INIT = "init"  # no daemon has registered
    READY = "ready"
    HOSTMSG = "hostmsg"  # a request was taken from the channel, and is not handed over yet
    REQ = "req"  # it is in the outbox, in RX, or with the daemon
    DYING = "dying"


class Direction(Enum):
    """Who asks."""

    HOST = "host"
    GUEST = "guest"


class Status(IntEnum):
    """How a request ended; a reply has it as one byte."""

    OK = 0
    FAILED = 1  # the service could not do it; the body may say why
    NOT_FOUND = 2
    MALFORMED = 3  # the request cannot be parsed
    UNSUPPORTED = 4
    BUSY = 5  # another request of this service is under way
    TIMED_OUT = 6
    DAEMON_GONE = 7
    HIBERNATED = 8
    RESTORED = 9  # the requester's process is not the one that runs the machine now
    CLOSED = 10


class Answer(Struct, frozen=True):
    """A status, and what the service has to say."""

    status: Status
    body: bytes = b""

    @property
    def ok(self) -> bool:
        """Whether the request was carried out."""
        return self.status is Status.OK


@uncompared(answer="who waits for it observes it, and it follows from what has ended its request")
class Ticket:
    """What a requester of the host holds: it gets exactly one answer."""

    def __init__(self, done: Event) -> None:
        self.done = done  # set when there is an answer
        self.answer: Answer | None = None

    def give(self, answer: Answer) -> None:
        """Answer it; called once, under the service's lock."""
        assert self.answer is None, "one request, two answers"
        self.answer = answer
        self.done.set()

    def wait(self) -> Answer:
        """Wait for the answer, which comes at the request's deadline at the latest."""
        answer = self.wait_until(None)
        assert answer is not None
        return answer

    def wait_until(self, deadline: int | None) -> Answer | None:
        """Wait for the answer until a deadline of the requester's own (ns), and return None then.

        `UtilityService.give_up` must follow that.  Called once.
        """
        if not self.done.wait(deadline):
            return None
        self.done.close()
        return self.answer


class Transaction(Struct):
    """One request: {direction, epoch, id}, what is asked, and until when.

    `deadline` is in ns on the runtime's clock; while the machine is paused it is None and `left` has
    the time that remains.  A request that waits in the channel has epoch and id -1.  `taken` is set when a
    host's daemon has a guest's request.
    """

    direction: Direction
    body: bytes
    left: int
    deadline: int | None = None
    epoch: int = -1
    id: int = -1
    state: State = State.READY
    taken: bool = False
    ticket: Ticket | None = None

    def stop(self, now: int) -> None:
        """Keep the time that is left."""
        if self.deadline is not None:
            self.left = max(0, self.deadline - now)
            self.deadline = None

    def start(self, now: int) -> None:
        """Let the time that is left run."""
        self.deadline = now + self.left

    def due(self, now: int) -> bool:
        """Return whether the deadline has passed."""
        return self.deadline is not None and self.deadline <= now

    def key(self) -> object:
        """Return all that distinguishes states."""
        answer = None if self.ticket is None else self.ticket.answer
        what = (self.direction, self.epoch, self.id, self.body, self.state, self.taken)
        return (*what, self.deadline, self.left, answer)
