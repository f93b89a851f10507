"""Requests of both sides, what ends them, and what waits to be sent: all under one lock.

Every method is one atomic change: there is no moment between the end of a transaction and the next look
at the channel.  A transaction is ended by `complete`, or by the event that fails it: the first comer wins,
and whoever comes later finds that {epoch, id} gone, and is counted.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.services.transaction import Answer, Direction, State, Status, Ticket, Transaction
from hfsched.services.wire import BODY_MAX, Kind, Message, encode

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["EPOCHS", "OUTBOX_MAX", "Outgoing", "Transactions"]

OUTBOX_MAX = 16  # messages that a guest does not read: of answers and notices no more are made
EPOCHS = 1 << 32  # epochs and ids are 32 bits on the wire


class Outgoing(Struct, frozen=True):
    """A message for the guest; `request` is the {epoch, id} if it is a host's request."""

    data: bytes
    request: tuple[int, int] | None = None


class Transactions:
    """See the module's docstring.

    The channel is open while a daemon is registered and its guest does not hibernate.

    `work` is set when there may be something to hand over or to send, `timer` when deadlines have
    changed, `asks` when the guest may have asked.  `stale` counts answers for which nobody waits and
    requests of an earlier epoch, `dropped` what no daemon can have sent, or what the guest has no room for.
    """

    def __init__(self, runtime: Runtime, name: str, service: int) -> None:
        self._runtime = runtime
        self.name = name
        self.service = service
        self._lock = runtime.lock(f"{name}.transactions", state=self.key)
        self.work = runtime.event(f"{name}.work")
        self.timer = runtime.event(f"{name}.timer")
        self.asks = runtime.event(f"{name}.asks")
        self._idle = runtime.event(f"{name}.idle")  # set at the end of a send
        self._registered = self._open = self._paused = self._closing = self._sending = False
        self._version = self._epoch = self._guest_epoch = self._next_id = self._tickets = 0
        self._alarm: int | None = None  # the deadline that the timer knows of: none is earlier
        self._channel: deque[Transaction] = deque()
        self._pending: Transaction | None = None  # asked by the host
        self._asked: Transaction | None = None  # asked by the guest
        self._outbox: deque[Outgoing] = deque()
        self.stale = 0
        self.dropped = 0

    def key(self) -> object:
        """Return all that the lock guards."""
        flags = (self._registered, self._open, self._paused, self._closing, self._sending)
        numbers = (self._version, self._epoch, self._guest_epoch, self._next_id, self._tickets)
        waiting = tuple(each.key() for each in self._channel)
        under_way = tuple(each and each.key() for each in (self._pending, self._asked))
        counts = (self.stale, self.dropped)
        return (flags, numbers, self._alarm, waiting, under_way, tuple(self._outbox), counts)

    @property
    def state(self) -> State:
        """The state, by the lock's holder or for a report."""
        if self._closing:
            return State.DYING
        if not self._registered:
            return State.INIT
        return State.READY if self._pending is None else self._pending.state

    @property
    def registered(self) -> bool:
        """Whether a daemon of the guest is registered; also one that hibernates."""
        with self._lock:
            return self._registered and not self._closing

    @property
    def epochs(self) -> tuple[int, int]:
        """The host's epoch and the guest's."""
        return self._epoch, self._guest_epoch

    @property
    def paused(self) -> bool:
        """Whether deadlines stand still, and nothing is sent."""
        with self._lock:
            return self._paused

    # The host asks.

    def ask(self, body: bytes, timeout: int) -> Ticket:
        """Ask the guest; the answer comes within `timeout` ns of the machine's running time."""
        assert len(body) <= BODY_MAX, f"{self.name}: {len(body)} bytes: at most {BODY_MAX}"
        now = self._runtime.now()
        with self._lock:
            self._tickets += 1
            ticket = Ticket(self._runtime.event(f"{self.name}.answer.{self._tickets}"))
            if self._closing:
                ticket.give(Answer(Status.CLOSED))
                return ticket
            asked = Transaction(Direction.HOST, body, timeout, ticket=ticket)
            self._run(asked, now)
            self._channel.append(asked)
            self._poll()
        return ticket

    def _run(self, transaction: Transaction, now: int) -> None:
        """Let a new transaction's time run, unless the machine is paused."""
        if not self._paused:
            transaction.start(now)
            if self._alarm is None or now + transaction.left < self._alarm:
                self._alarm = now + transaction.left
                self.timer.set()

    def _poll(self) -> None:
        """Take the next request from the channel if none is under way."""
        able = self._open and not self._paused and self.state is State.READY
        if able and self._channel:
            self._pending = first = self._channel.popleft()
            first.epoch, first.id, first.state = self._epoch, self._number(), State.HOSTMSG
            self.work.set()

    def _number(self) -> int:
        self._next_id = (self._next_id + 1) % EPOCHS
        return self._next_id

    # Messages to the guest.

    def begin_send(self) -> Outgoing | None:
        """Return the next message to be sent, after HOSTMSG -> REQ; `end_send` must follow.

        Between the two no pause begins: a message that is in RX, and not off the outbox, would be
        in a record twice.
        """
        with self._lock:
            if self._paused:
                return None
            first = self._pending
            if first is not None and first.state is State.HOSTMSG:
                first.state = State.REQ
                self._outbox.append(Outgoing(self._request(first), (first.epoch, first.id)))
            if not self._outbox:
                return None
            self._sending = True
            return self._outbox[0]

    def _request(self, asked: Transaction) -> bytes:
        numbers = (self._version, 0, asked.epoch, asked.id)
        return encode(Message(Kind.REQUEST, self.service, *numbers, asked.body))

    def end_send(self, message: Outgoing, *, sent: bool) -> None:
        """Note that a message lies in RX, or that it found no room; it may have been withdrawn meanwhile."""
        with self._lock:
            self._sending = False
            if self._paused:
                self._idle.set()
            if sent and self._outbox and self._outbox[0] is message:
                self._outbox.popleft()
            if sent and self._outbox:
                self.work.set()

    def tell(self, message: Message) -> None:
        """Send the guest a message that is no answer to a request, unless it reads none."""
        with self._lock:
            self._tell(message)

    def _tell(self, message: Message) -> None:
        if len(self._outbox) < OUTBOX_MAX:
            self._outbox.append(Outgoing(encode(message)))
            self.work.set()

    def _withdraw(self, request: tuple[int, int]) -> None:
        """Empty the outbox of a request that is not in RX yet."""
        self._outbox = deque(each for each in self._outbox if each.request != request)

    # The end of a transaction.

    def complete(
        self, epoch: int, number: int, answer: Answer, direction: Direction = Direction.HOST
    ) -> bool:
        """End the transaction {epoch, id}; return False, and count it, if it has ended already.

        That it is the first comer decides everything: also a time-out, or an event, may have been.
        """
        with self._lock:
            found = self._pending if direction is Direction.HOST else self._asked
            if found is None or (found.epoch, found.id, found.state) != (epoch, number, State.REQ):
                self._late(epoch, number, direction)
                return False
            self._end(found, answer)
            self._poll()
            return True

    def give_up(self, ticket: Ticket) -> Answer:
        """End a request whose requester waits no longer, as one that has timed out; return its answer.

        A requester has its own deadline beside the request's, which stands still while the machine is paused.
        """
        with self._lock:
            for each in self._under_way():
                if each.ticket is ticket:
                    self._end(each, Answer(Status.TIMED_OUT))
                    self._poll()
                    break
        assert ticket.answer is not None
        ticket.done.close()
        return ticket.answer

    def _late(self, epoch: int, number: int, direction: Direction) -> None:
        if self.state in (State.INIT, State.DYING):
            self.dropped += 1
            return
        self.stale += 1
        if direction is Direction.HOST:
            self._tell(Message(Kind.STALE, self.service, self._version, 0, epoch, number))

    def _end(self, ended: Transaction, answer: Answer) -> None:
        """Give the answer to who asked; the caller polls, if it may."""
        if ended.direction is Direction.GUEST:
            self._asked = None
            self._reply(ended.epoch, ended.id, answer)
            return
        if ended is self._pending:
            self._pending = None
            self._withdraw((ended.epoch, ended.id))
        else:
            self._channel.remove(ended)
        assert ended.ticket is not None
        ended.ticket.give(answer)

    def _reply(self, epoch: int, number: int, answer: Answer) -> None:
        status, body = answer.status, answer.body
        message = Message(Kind.REPLY, self.service, self._version, status, epoch, number, body)
        self._outbox.append(Outgoing(encode(message)))
        self.work.set()

    def expire(self, now: int | None = None) -> int | None:
        """Fail what is due at `now` (ns), and return the next deadline; the timer calls it.

        The timer sleeps until that, and sets out anew when `timer` is set.
        """
        with self._lock:
            for each in self._under_way():
                if now is not None and each.due(now):
                    self._end(each, Answer(Status.TIMED_OUT))
            self._poll()
            times = [each.deadline for each in self._under_way() if each.deadline is not None]
            self._alarm = min(times, default=None)
            return self._alarm

    def _under_way(self) -> list[Transaction]:
        return [each for each in (self._pending, self._asked, *self._channel) if each is not None]

    # The guest asks.

    def asked(self, epoch: int, number: int, body: bytes, timeout: int) -> None:
        """Take a guest's request, for a daemon of the host to `take_asked`."""
        now = self._runtime.now()
        with self._lock:
            if not self._open or len(self._outbox) >= OUTBOX_MAX:
                self.dropped += 1
            elif epoch != self._guest_epoch:
                self.stale += 1
            elif self._asked is not None:
                self._reply(epoch, number, Answer(Status.BUSY))
            else:
                self._asked = Transaction(
                    Direction.GUEST, body, timeout, None, epoch, number, State.REQ
                )
                self._run(self._asked, now)
                self.asks.set()

    def take_asked(self) -> tuple[int, int, bytes] | None:
        """Return the guest's request {epoch, id, body} that no daemon has taken yet."""
        with self._lock:
            found = self._asked
            if found is None or found.taken or self._paused:
                self.asks.clear()
                return None
            found.taken = True
            return found.epoch, found.id, found.body

    def retake_asked(self) -> None:
        """Let another daemon of the host take what one that has ended has not answered."""
        with self._lock:
            if self._asked is not None:
                self._asked.taken = False
                self.asks.set()
