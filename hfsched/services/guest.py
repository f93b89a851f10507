"""A guest's side of a service: what a guest's library does, without waiting.

A guest gives each message that it takes out of RX to `receive`, sends what comes back, and serves the
requests that `receive` returns; `reply` makes the answer.  The state is one of `GuestState`: a guest that
writes this again, in C for example, needs that, two epochs and an id.
"""

from __future__ import annotations

from enum import Enum

from hfsched.services.transaction import Answer, Status
from hfsched.services.wire import Goodbye, Kind, Message

__all__ = ["GuestService", "GuestState"]


class GuestState(Enum):
    """What the host knows of this guest's daemon."""

    AWAY = "away"  # it has not registered, or it hibernates
    OFFERED = "offered"
    READY = "ready"
    REFUSED = "refused"


class GuestService:
    """One service's daemon in a guest, for versions `lowest` to `highest`.

    `stale` counts answers of which the host has said that they came too late, `dropped` what was asked before
    the last negotiation, or answers to what this daemon does not wait for.
    """

    def __init__(self, service: int, lowest: int = 1, highest: int = 1) -> None:
        self.service = service
        self._versions = (lowest, highest)
        self.state = GuestState.AWAY
        self.version = 0
        self._epoch = 0  # of its own requests
        self._host_epoch = 0
        self._next_id = 0
        self._asked: int | None = None  # the id of its own request
        self.answer: Answer | None = None  # to its last request
        self.stale = 0
        self.dropped = 0

    def key(self) -> object:
        """Return the whole state."""
        numbers = (self.version, self._epoch, self._host_epoch, self._next_id, self._asked)
        return (self.state, *numbers, self.answer, self.stale, self.dropped)

    def offer(self) -> Message:
        """Register, at first, and when it is back from a hibernation."""
        self.state = GuestState.OFFERED
        lowest, highest = self._versions
        return Message(Kind.OFFER, self.service, highest, lowest)

    def goodbye(self, why: Goodbye = Goodbye.EXIT) -> Message:
        """Go: nothing is served, and no answer is waited for."""
        self.state = GuestState.AWAY
        self._fail(Status.HIBERNATED if why is Goodbye.HIBERNATE else Status.DAEMON_GONE)
        return Message(Kind.GOODBYE, self.service, self.version, why)

    def _fail(self, status: Status) -> None:
        if self._asked is not None:
            self._asked, self.answer = None, Answer(status)

    def receive(self, message: Message) -> Message | None:
        """Take a message; return a request that is to be served."""
        if message.kind is Kind.ACCEPT and self.state in (GuestState.OFFERED, GuestState.READY):
            self._fail(Status.DAEMON_GONE)  # what was asked before an offer has no answer
            self.state, self.version = GuestState.READY, message.version
            self._epoch, self._host_epoch = message.epoch, message.id
        elif message.kind is Kind.REFUSE and self.state is GuestState.OFFERED:
            self.state = GuestState.REFUSED
        elif message.kind is Kind.STALE:
            self.stale += 1
        elif message.kind is Kind.REQUEST and self._serves(message):
            return message
        elif message.kind is Kind.REPLY and self._waits_for(message):
            self._asked, self.answer = None, Answer(Status(message.flag), message.body)
        else:
            self.dropped += 1
        return None

    def _serves(self, message: Message) -> bool:
        """Return whether a request was made after the last negotiation.

        A restore raises the host's epoch without one, hence "not before".
        """
        ahead = (message.epoch - self._host_epoch) % (1 << 32)
        return self.state is GuestState.READY and ahead < 1 << 31

    def _waits_for(self, message: Message) -> bool:
        mine = (message.epoch, message.id) == (self._epoch, self._asked)
        return mine and message.flag in frozenset(Status)

    def reply(self, request: Message, answer: Answer) -> Message:
        """Answer a request, at any time: the host knows whether it still waits."""
        status, body = answer.status, answer.body
        return Message(
            Kind.REPLY, self.service, request.version, status, request.epoch, request.id, body
        )

    def ask(self, body: bytes) -> Message:
        """Ask the host; only while READY, and one request at a time."""
        assert self.state is GuestState.READY
        assert self._asked is None, "one request at a time"
        self._next_id = self._asked = (self._next_id + 1) % (1 << 32)
        self.answer = None
        return Message(Kind.REQUEST, self.service, self.version, 0, self._epoch, self._asked, body)
