"""`UtilityService`: one service of one VM on the host, and what happens to its transactions.

Three events stop a machine, and they are different.  A *pause* changes nothing, but that deadlines stand
still.  A *restore* in another process fails what the host has asked, since its requesters are not there.
The guest's own *hibernation* fails the requests of both sides, and closes the channel until the guest is
back.  `docs/services.md` has the table.
"""

from __future__ import annotations

from collections import deque

from hfsched.errors import HfschedError
from hfsched.mailbox.records import check
from hfsched.services.records import GuestAskedRecord, OutgoingRecord, ServiceRecord
from hfsched.services.transaction import Answer, Direction, State, Status, Transaction
from hfsched.services.transactions import EPOCHS, OUTBOX_MAX, Outgoing, Transactions
from hfsched.services.wire import Kind, Message

__all__ = ["ServiceClosedError", "UtilityService"]


class ServiceClosedError(HfschedError):
    """The service is closed: no daemon can register, and none comes back."""


class UtilityService(Transactions):
    """See the module's docstring; requests and answers are `Transactions`'."""

    # The daemon.

    def register(self, version: int) -> None:
        """INIT -> READY: a daemon of the guest has registered, or another one in its place, or is back.

        What the one before was asked has failed.  The guest's epoch is a new one, so that no
        answer to an earlier daemon is taken for an answer to this one.  Raises ServiceClosedError.
        """
        with self._lock:
            self._refuse_if_closing()
            self._fail(Status.DAEMON_GONE)
            self._registered = self._open = True
            self._version = version
            self._guest_epoch = (self._guest_epoch + 1) % EPOCHS
            self._outbox.clear()
            self._tell(
                Message(Kind.ACCEPT, self.service, version, 0, self._guest_epoch, self._epoch)
            )
            self._poll()

    def daemon_gone(self) -> None:
        """Fail what the daemon was asked: INIT, until another one registers."""
        with self._lock:
            if not self._closing:
                self._fail(Status.DAEMON_GONE)
                self._registered = self._open = False

    def _fail(self, status: Status) -> None:
        """Fail the request under way, without a look at the channel, and forget the guest's."""
        self._asked = None
        if self._pending is not None:
            self._end(self._pending, Answer(status))

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise ServiceClosedError(f"{self.name}: the service is closed")

    # The guest's own hibernation.

    def hibernate(self) -> None:
        """Fail the requests of both sides and close the channel; what waits in it stays there.

        A request that lies in RX already cannot be recalled: the answer to it is stale.
        """
        with self._lock:
            if self._closing or not self._registered:
                return
            self._fail(Status.HIBERNATED)
            self._open = False
            self._outbox.clear()
            self._epoch = (self._epoch + 1) % EPOCHS
            self._guest_epoch = (self._guest_epoch + 1) % EPOCHS

    def back(self) -> None:
        """Open the channel again and read it.  Raises ServiceClosedError."""
        with self._lock:
            self._refuse_if_closing()
            self._open = self._registered
            self._poll()

    # The machine's pause.

    def pause(self, deadline: int | None = None) -> bool:
        """Let deadlines stand still, and nothing be sent; nothing else changes until `resume`.

        Return whether the send that is under way has ended by the deadline (ns).
        """
        now = self._runtime.now()
        with self._lock:
            if self._closing:
                return True
            for each in self._under_way():
                each.stop(now)
            self._paused = True
            if not self._sending:
                return True
            self._idle.clear()
        return self._idle.wait(deadline)

    def resume(self) -> None:
        """Let deadlines run on, and read the channel."""
        now = self._runtime.now()
        with self._lock:
            if not self._paused or self._closing:
                return
            self._paused = False
            for each in self._under_way():
                each.start(now)
            self._poll()
            for event in (self.work, self.timer, self.asks):
                event.set()

    def close(self, why: bytes = b"") -> None:
        """DYING: answer every request, with what there is to say; nothing happens any more."""
        with self._lock:
            self._asked = None
            for each in self._under_way():
                self._end(each, Answer(Status.CLOSED, why))
            self._closing, self._open = True, False
            self._outbox.clear()

    def free(self) -> None:
        """Free the events of a service that is closed; no task uses it any more."""
        for event in (self.work, self.timer, self.asks, self._idle):
            event.close()

    # Snapshots.

    def save(self) -> ServiceRecord:
        """Return the record, at any time; deadlines are times left."""
        now = self._runtime.now()
        with self._lock:
            host_asked = [each for each in self._under_way() if each.direction is Direction.HOST]
            return ServiceRecord(
                service=self.service,
                registered=self._registered,
                closing=self._closing,
                open=self._open,
                version=self._version,
                epoch=self._epoch,
                guest_epoch=self._guest_epoch,
                next_id=self._next_id,
                requests=len(host_asked),
                asked=None if self._asked is None else _guest_asked(self._asked, now),
                outbox=tuple(OutgoingRecord(each.data, each.request) for each in self._outbox),
            )

    def restore(self, record: ServiceRecord) -> int:
        """Take over a record, in a service that has none yet; return how many requests have failed by that.

        It is paused until `resume`.  The guest's request under way stays, with the time that it had left,
        and this process's daemon serves it.  Raises UserError for a record that no service can have.
        """
        _check(record, self.service)
        with self._lock:
            check(not self._registered and not self._under_way(), f"{self.name}: it is in use")
            self._closing, self._registered = record.closing, record.registered
            self._open, self._version = record.open, record.version
            self._guest_epoch, self._next_id = record.guest_epoch, record.next_id
            alive = record.registered and not record.closing
            self._epoch = (record.epoch + alive) % EPOCHS
            self._outbox = deque(
                Outgoing(each.data) for each in record.outbox if each.request is None
            )
            asked = record.asked
            if asked is not None:
                self._asked = Transaction(
                    Direction.GUEST, asked.body, asked.left, None, asked.epoch, asked.id, State.REQ
                )
            self._paused = True
            return record.requests


def _guest_asked(asked: Transaction, now: int) -> GuestAskedRecord:
    left = asked.left if asked.deadline is None else max(0, asked.deadline - now)
    return GuestAskedRecord(asked.epoch, asked.id, asked.body, left)


def _check(record: ServiceRecord, service: int) -> None:
    what = f"utility service {record.service}"
    check(record.v == 1, f"{what}: version {record.v} of the record: only 1 is known")
    check(record.service == service, f"{what}: this is service {service}")
    numbers = (record.epoch, record.guest_epoch, record.next_id)
    check(all(0 <= each < EPOCHS for each in numbers), f"{what}: epochs and ids are 32 bits")
    check(0 <= record.version < 256, f"{what}: version {record.version}")  # a byte
    check(record.open <= record.registered, f"{what}: open without a daemon")
    check(record.requests >= 0, f"{what}: {record.requests} requests")
    check(len(record.outbox) <= OUTBOX_MAX + 2, f"{what}: {len(record.outbox)} messages to be sent")
    check(record.asked is None or record.asked.left >= 0, f"{what}: a deadline in the past")
    check(record.asked is None or record.open, f"{what}: a guest asks through a closed channel")
