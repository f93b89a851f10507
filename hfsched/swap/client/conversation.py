"""Requests to one monitor and its answers, by their numbers, over its channel; one task uses it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.swap.client.errors import MonitorFailedError, SwapError
from hfsched.swap.protocol.messages import (
    Done,
    Failed,
    MonitorAnswer,
    MonitorRequest,
    ProtocolError,
    Register,
    decode_answer,
    encode,
    name_of,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime

__all__ = ["Conversation"]

UNANSWERED_MAX = 32  # requests: more might fill the channel of a monitor that hangs


class Conversation:
    """See the module's text.  This object owns `end`.

    Each method that receives raises ChannelClosedError for a monitor that is dead, or cannot be
    trusted any more, and MonitorFailedError with the last message of one that has failed.
    """

    def __init__(self, runtime: Runtime, end: End) -> None:
        self._runtime = runtime
        self.end = end
        self.number = 0  # of the last request
        self._answered = 0  # the number of the last answer
        self._abandoned: set[int] = set()  # registrations whose requester has timed out

    def key(self) -> object:
        """Return the whole state, hashable."""
        return (self.number, self._answered, *sorted(self._abandoned))

    def send(self, request: MonitorRequest, fds: Sequence[int] = ()) -> None:
        """Send a request; `receive` returns its answer, which has the number `number`."""
        try:
            self.end.send(encode(self.number + 1, request), fds)
        except ChannelClosedError:
            while self.receive(self._runtime.now()) is not None:  # what it sent before
                pass
            raise
        self.number += 1

    def ask(
        self, request: MonitorRequest, fds: Sequence[int], deadline: int | None
    ) -> MonitorAnswer:
        """Return the answer to a request; raises SwapError at the deadline (ns), and OSError."""
        late = SwapError(f"{name_of(request)}: the monitor did not answer in time")
        while self.number - self._answered >= UNANSWERED_MAX:
            if self.receive(deadline) is None:
                raise late
        self.send(request, fds)
        while (received := self.receive(deadline)) is not None:
            number, answer = received
            if number == self.number:
                return answer
        if isinstance(request, Register):
            self._abandoned.add(self.number)
        raise late

    def receive(self, deadline: int | None) -> tuple[int, MonitorAnswer] | None:
        """Return the next answer and its request's number; None at the deadline (ns)."""
        received = self.end.recv(deadline)
        if received is None:
            return None
        try:
            number, answer = decode_answer(received[0])
        except ProtocolError:
            raise ChannelClosedError from None  # it cannot be trusted any more: treated as dead
        if isinstance(answer, Failed):
            raise MonitorFailedError(answer.text, number)
        self._answered = max(self._answered, min(number, self.number))
        if number in self._abandoned and isinstance(answer, Done):
            raise ChannelClosedError  # it has a member that main does not know of; a new one has not
        return number, answer
