"""All utility services of one VM on the host: what a command or a snapshot asks a guest for."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hfsched.errors import UserError
from hfsched.mailbox.records import check
from hfsched.services.bodies import (
    DATA_MAX,
    FileOp,
    FileRequest,
    FreezeOp,
    FreezeRequest,
    Heartbeat,
    KvpOp,
    KvpRequest,
    Request,
    SetTime,
    ShutdownOp,
    ShutdownRequest,
    pack,
)
from hfsched.services.courier import Transport, carry, keep_time
from hfsched.services.daemons import Daemon, serve
from hfsched.services.dispatch import Dispatcher
from hfsched.services.records import ServiceRecord
from hfsched.services.service import UtilityService
from hfsched.services.supervisor import serve_guest, supervise
from hfsched.services.transaction import Answer, Status, Ticket
from hfsched.services.wire import ServiceId

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Task

__all__ = ["GuestServices", "GuestServicesRecord", "ServiceError"]

_SECOND = 1_000_000_000  # ns
TIMEOUT = 30 * _SECOND
FREEZE_TIMEOUT = 15 * 60 * _SECOND  # a guest may flush much before it has frozen
VERSIONS = {int(each): (1, 1) for each in ServiceId}


class ServiceError(UserError):
    """A guest did not do what it was asked for; `status` says why."""

    def __init__(self, what: str, answer: Answer) -> None:
        self.status = answer.status
        said = answer.body.decode(errors="replace")
        reason = answer.status.name.lower().replace("_", " ")
        super().__init__(f"{what}: {reason}" + (f": {said!r}" if said else ""))


class GuestServicesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All services of one VM; whether the guest may be frozen, and the copy that is under way."""

    v: int = 1
    services: tuple[ServiceRecord, ...]
    frozen: bool = False
    transfer: int | None = None


class GuestServices:
    """One VM's services.  `daemons` answer the guest's requests, by service.

    Give it the guest's messages by `deliver`, on any thread: it never waits.  The functions that ask wait for the
    answer, and raise ServiceError.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        transport: Transport,
        daemons: Mapping[ServiceId, Daemon] | None = None,
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._transport = transport
        self._daemons = dict(daemons or {})
        self.services = {
            int(each): UtilityService(runtime, f"{name}.{each.name.lower()}", each)
            for each in ServiceId
        }
        self._link = UtilityService(runtime, f"{name}.link", 0)
        self._dispatcher = Dispatcher(self.services, VERSIONS, self._link)
        self.deliver = self._dispatcher.deliver
        self._closing = runtime.event(f"{name}.services.closing")
        self._lock = runtime.lock(f"{name}.services", state=lambda: (self._frozen, self._transfer))
        self._frozen = False
        self._transfer: int | None = None
        self._transfers = itertools.count(1)
        self._tasks: list[Task] = []

    def start(self) -> None:
        """Start the tasks."""
        parts = (self._runtime, (self._link, *self.services.values()))
        self._spawn("courier", partial(carry, *parts, self._transport, self._closing))
        self._spawn("timer", partial(keep_time, *parts, self._closing))
        for number, daemon in self._daemons.items():
            self._spawn(number.name.lower(), partial(self._serve, number, daemon))

    def _spawn(self, what: str, body: Callable[[], None]) -> None:
        self._tasks.append(self._runtime.spawn(f"{self._name}.services.{what}", body))

    def _serve(self, number: ServiceId, daemon: Daemon) -> None:
        service = self.services[number]

        def answer(body: bytes) -> Answer:
            return serve(daemon, number, body, self._runtime.now())

        run = partial(serve_guest, self._runtime, service, answer, self._closing)
        supervise(self._runtime, run, service.retake_asked, self._closing)

    def close(self, deadline: int | None = None) -> None:
        """Answer all requests with "closed", and end the tasks by the deadline (ns)."""
        for service in (self._link, *self.services.values()):
            service.close()
        self._closing.set()
        for task in self._tasks:
            task.join(deadline)

    @property
    def malformed(self) -> int:
        """How many messages of the guest could not be parsed."""
        return self._dispatcher.malformed

    # What a guest is asked for.

    def _begin(self, request: Request, timeout: int = TIMEOUT) -> Ticket:
        number, body = pack(request)
        return self.services[number].ask(body, timeout)

    def _ask(self, what: str, request: Request, timeout: int = TIMEOUT) -> bytes:
        answer = self._begin(request, timeout).wait()
        if not answer.ok:
            raise ServiceError(f"{self._name}: {what}", answer)
        return answer.body

    def get(self, key: str) -> bytes:
        """Return the guest's value of a key."""
        return self._ask(f"get {key}", KvpRequest(KvpOp.GET, key))

    def put(self, key: str, value: bytes) -> None:
        """Set a key of the guest."""
        self._ask(f"set {key}", KvpRequest(KvpOp.SET, key, value))

    def ping(self, number: int = 0) -> None:
        """Raise unless the guest answers."""
        found = self._ask("ping", Heartbeat(number))
        if found != number.to_bytes(8, "little"):
            raise ServiceError(f"{self._name}: ping", Answer(Status.FAILED, found))

    def set_time(self, ns: int) -> None:
        """Tell the guest the time, in ns since 1970; after a resume for example."""
        self._ask("set the time", SetTime(ns))

    def shut_down(self, op: ShutdownOp = ShutdownOp.POWER_OFF, grace_ms: int = 30_000) -> None:
        """Let the guest end orderly; it has agreed when this returns."""
        self._ask("shut down", ShutdownRequest(op, grace_ms))

    def freeze(self, timeout_ms: int) -> None:
        """Let the guest keep its file systems as they are, for at most `timeout_ms`."""
        with self._lock:
            self._frozen = True  # before it is: a copy of the machine in between is thawed too
        try:
            self._ask("freeze", FreezeRequest(FreezeOp.FREEZE, timeout_ms), FREEZE_TIMEOUT)
        except ServiceError:
            self._begin(FreezeRequest(FreezeOp.THAW))  # it may have done it, too late
            with self._lock:
                self._frozen = False
            raise

    def thaw(self) -> None:
        """End a freeze; none is no error."""
        self._ask("thaw", FreezeRequest(FreezeOp.THAW))
        with self._lock:
            self._frozen = False

    def copy(self, name: str, size: int, chunks: Iterable[bytes], mode: int = 0o644) -> None:
        """Copy a file of `size` bytes into the guest: it is there whole, or not at all."""
        transfer = next(self._transfers) % (1 << 32)
        with self._lock:
            if self._transfer is not None:
                raise ServiceError(f"{self._name}: copy {name}", Answer(Status.BUSY))
            self._transfer = transfer
        what = f"copy {name}"
        at = crc = 0
        try:
            begin = FileRequest(FileOp.BEGIN, transfer, size, mode, name)
            self._ask(what, begin)
            for chunk in _cut(chunks):
                self._ask(what, FileRequest(FileOp.DATA, transfer, at, data=chunk))
                at, crc = at + len(chunk), zlib.crc32(chunk, crc)
            self._ask(what, FileRequest(FileOp.END, transfer, crc))
        except BaseException:
            self._begin(FileRequest(FileOp.CANCEL, transfer))
            raise
        finally:
            with self._lock:
                self._transfer = None

    # The machine's pause, and snapshots.

    def pause(self, deadline: int | None) -> bool:
        """Let deadlines stand still, and nothing be sent; a step of suspension."""
        late = [each for each in (self._link, *self.services.values()) if not each.pause(deadline)]
        return not late

    def resume(self) -> None:
        """Go on."""
        for each in (self._link, *self.services.values()):
            each.resume()

    def save(self) -> GuestServicesRecord:
        """Return the record, while it is paused."""
        services = tuple(each.save() for each in self.services.values())
        with self._lock:
            return GuestServicesRecord(
                services=services, frozen=self._frozen, transfer=self._transfer
            )

    def restore(self, record: GuestServicesRecord) -> None:
        """Take a record over, before `start`; a frozen guest is thawed, and a half copied file removed.

        It is paused until `resume`.  Raises UserError for a record that is not of these services.
        """
        check(record.v == 1, f"utility services: version {record.v} of the record: only 1 is known")
        numbers = [each.service for each in record.services]
        check(
            sorted(numbers) == sorted(self.services), f"utility services {numbers}: not all, once"
        )
        for each in record.services:
            self.services[each.service].restore(each)
        if record.frozen:
            self._begin(FreezeRequest(FreezeOp.THAW))
        if record.transfer is not None:
            self._transfers = itertools.count(record.transfer + 1)
            self._begin(FileRequest(FileOp.CANCEL, record.transfer))


def _cut(chunks: Iterable[bytes]) -> Iterable[bytes]:
    """Cut into pieces that a request holds."""
    for chunk in chunks:
        for at in range(0, len(chunk), DATA_MAX):
            yield chunk[at : at + DATA_MAX]
