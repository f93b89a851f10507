"""The host's side of a guest's mailbox: senders in the order of arrival; none is refused.

The mailbox holds one message.  Senders queue here; the first one tries, and when the mailbox is
busy sleeps until the guest has released it.  Nothing is dropped.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.hypervisor.interface import PrimaryInterface, SendResult
from hfsched.mailbox.mirror import Entry
from hfsched.runtime.declared import uncompared

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime
    from hfsched.scheduler.driver import DrivenVm, Driver

__all__ = ["Outbox", "OutboxPlace", "Sent"]


# Finding an enumeration's member takes as long as a call.
_SENT, _SUSPENDED, _ENDED = SendResult.SENT, Entry.SUSPENDED, Entry.ENDED


class Sent(Enum):
    """The result of a send."""

    SENT = "sent"
    BUSY = "busy"  # not before the deadline
    DEAD = "dead"  # the VM has aborted, or the machine stops


@uncompared(
    _turns="their number is compared; their order is that in which their senders have seen it grow"
)
class Outbox:
    """The queue of host programs that send to one VM."""

    def __init__(
        self, runtime: Runtime, interface: PrimaryInterface, driver: Driver, vm: DrivenVm
    ) -> None:
        self._runtime = runtime
        self._interface = interface
        self._driver = driver
        self._vm = vm
        self._lock = runtime.lock(f"{vm.name}.outbox", state=lambda: len(self._turns))
        self._turns: deque[Event | None] = deque()  # the first may try; None: it never waited
        self.accepted = 0

    def try_send(self, message: bytes) -> Sent:
        """Send if the mailbox is empty and no sender waits before this one; never blocks."""
        with self._lock:
            if self._turns:
                return Sent.BUSY
            self._turns.append(None)
        try:
            return self._attempt(message, self._runtime.now(), notify=False)
        finally:
            self._next()

    def send(self, message: bytes, deadline: int | None = None) -> Sent:
        """Send, and wait for the mailbox until the deadline.  At most 4096 bytes."""
        turn = self.join()
        if turn is not None:
            try:
                its_turn = turn.wait(deadline)
            except BaseException:  # interrupted: no sender may wait behind an abandoned place
                self._give_up(turn)
                raise
            if not its_turn:
                return self._give_up(turn)
            turn.close()  # it is set, and will not be set again
        try:
            sent = self._attempt(message, deadline, notify=False)
            while sent is Sent.BUSY:
                self._runtime.retain_only(message, level=1)
                self._driver.note_waiting()
                self._vm.writable.clear()  # before the try that it accounts for
                sent = self._attempt(message, deadline, notify=True)
                if sent is Sent.BUSY and not self._vm.writable.wait(deadline):
                    break
            return sent
        finally:
            self._next()

    def place(self) -> OutboxPlace:
        """Return a place for a sender that never waits inside a send."""
        return OutboxPlace(self, self._vm.writable)

    def waiting(self) -> int:
        """Return how many senders are here."""
        with self._lock:
            return len(self._turns)

    # For an `OutboxPlace`.

    def join(self) -> Event | None:
        """Take the last place; return the event of its turn, None for the first place."""
        with self._lock:
            turn = self._runtime.event(f"{self._vm.name}.turn") if self._turns else None
            self._turns.append(turn)
        return turn

    def attempt_first(self, message: bytes) -> tuple[Sent, Event]:
        """Try once in the first place, without waiting; also return what is set when another try may succeed."""
        mirror = self._vm.mirror
        self._vm.writable.clear()  # before the try that it accounts for
        entry = mirror.begin_send()
        if entry is _SUSPENDED:
            return Sent.BUSY, mirror.resumed
        sent = Sent.DEAD if entry is _ENDED else self._enter(message, notify=True)
        return sent, self._vm.writable

    def leave(self, turn: Event | None) -> None:
        """Give a place up, which is the first one if `turn` is None."""
        if turn is None:
            self._next()
        else:
            self._give_up(turn)
        self._driver.note_waiting()  # who looks for quiet may have seen this sender last

    def _attempt(self, message: bytes, deadline: int | None, *, notify: bool) -> Sent:
        """Try once; the end of a suspension is waited for."""
        mirror = self._vm.mirror
        while (entry := mirror.begin_send()) is _SUSPENDED:
            self._runtime.retain_only(message, level=2)
            if not mirror.wait_resumed(deadline):
                return Sent.BUSY
        return Sent.DEAD if entry is _ENDED else self._enter(message, notify=notify)

    def _enter(self, message: bytes, *, notify: bool) -> Sent:
        """Try once; the mirror has let it in."""
        mirror = self._vm.mirror
        try:
            result = self._interface.send(self._vm.id, message, notify=notify)
        except BaseException:
            mirror.end_send()
            raise
        if result is not _SENT:
            mirror.end_send()
            if result is SendResult.INVALID:
                raise InternalError(f"vm {self._vm.name}: {len(message)} bytes cannot be sent")
            return Sent.BUSY
        self.accepted += 1
        self._runtime.retain_only(level=1)
        self._driver.deliver(self._vm.id, ends_send=True)
        return Sent.SENT

    def _give_up(self, turn: Event) -> Sent:
        with self._lock:
            came = self._turns[0] is turn
            if not came:
                self._turns.remove(turn)
        if came:
            self._next()  # our turn came just now: pass it on
        turn.close()
        return Sent.BUSY

    def _next(self) -> None:
        with self._lock:
            self._turns.popleft()
            if self._turns:
                turn = self._turns[0]
                assert turn is not None, "only the first sender has no event"
                turn.set()


class OutboxPlace:
    """A sender that never waits inside a send, and keeps its place in the queue between two tries.

    For one task.  After a try that found no room it waits for `room`, which is set when another one may
    succeed, and tries again; or it must `leave`: while it has the first place no other sender sends.
    """

    def __init__(self, outbox: Outbox, room: Event) -> None:
        self._outbox = outbox
        self.room = room
        self._there = False
        self._turn: Event | None = None  # while it is not the first

    def try_send(self, message: bytes) -> Sent:
        """Send if it is the first, and the mailbox is empty; else take a place, or keep it."""
        if not self._there:
            self._turn = self._outbox.join()
            self._there = True
        if self._turn is not None:
            if not self._turn.is_set():
                self.room = self._turn
                return Sent.BUSY
            self._turn.close()  # it is set, and will not be set again
            self._turn = None
        sent = Sent.DEAD
        try:
            sent, self.room = self._outbox.attempt_first(message)
        finally:
            if sent is not Sent.BUSY:
                self.leave()
        return sent

    def leave(self) -> None:
        """Give the place up, if it has one."""
        if self._there:
            self._there = False
            turn, self._turn = self._turn, None
            self._outbox.leave(turn)
