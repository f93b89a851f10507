"""All utility services of one VM on the host: what a command or a snapshot asks a guest for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from hfsched.mailbox.records import check
from hfsched.services.bodies import (
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
from hfsched.services.copying import FileCopy, ServiceError
from hfsched.services.courier import Transport, carry, keep_time
from hfsched.services.daemons import Daemon, HostKeys, serve
from hfsched.services.dispatch import Dispatcher
from hfsched.services.records import ServiceRecord
from hfsched.services.service import UtilityService
from hfsched.services.supervisor import serve_guest, supervise
from hfsched.services.transaction import Answer, Status, Ticket
from hfsched.services.wire import ServiceId

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime, Task, Waitable

__all__ = ["Finish", "GuestServices", "GuestServicesRecord", "ServiceError"]

_SECOND = 1_000_000_000  # ns
TIMEOUT = 30 * _SECOND
FREEZE_TIMEOUT = 15 * 60 * _SECOND  # a guest may flush much before it has frozen
VERSIONS = {int(each): (1, 1) for each in ServiceId}
# Waits for a request that has begun, and returns the answer's body.  When one of the waitables is ready the request is
# given up, as at its deadline.  Raises ServiceError.
Finish: TypeAlias = "Callable[[Sequence[Waitable]], bytes]"


class GuestServicesRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All services of one VM; whether the guest may be frozen, the copy under way, the host's keys for it."""

    v: int = 1
    services: tuple[ServiceRecord, ...]
    frozen: bool = False
    transfer: int | None = None
    keys: dict[str, bytes] = {}


class GuestServices:
    """One VM's services.  `keys` are what the host keeps for the guest, and `daemons` answer its other requests.

    Give it the guest's messages by `deliver`, on any thread: it never waits.  The functions that ask wait for the
    answer, by a deadline (ns) that passes while the machine is paused too; without one for `TIMEOUT` of the
    machine's running time.  They raise ServiceError.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        transport: Transport,
        daemons: Mapping[ServiceId, Daemon] | None = None,
        keys: Mapping[str, bytes] | None = None,
    ) -> None:
        self._runtime = runtime
        self._name = name
        self._transport = transport
        self.keys = HostKeys(runtime, f"{name}.services", keys or {})
        self._daemons = {ServiceId.KVP: self.keys, **(daemons or {})}
        self.services = {
            int(each): UtilityService(runtime, f"{name}.{each.name.lower()}", each)
            for each in ServiceId
        }
        self._link = UtilityService(runtime, f"{name}.link", 0)
        self._dispatcher = Dispatcher(self.services, VERSIONS, self._link)
        self.deliver = self._dispatcher.deliver
        self._closing = runtime.event(f"{name}.services.closing")
        self._lock = runtime.lock(f"{name}.services", state=self._key)
        self._frozen = False
        self._transfer: int | None = None  # the copy under way
        self._last_transfer = 0
        self._tasks: list[Task] = []

    def _key(self) -> object:
        return (self._frozen, self._transfer, self._last_transfer)

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

    def end(self, why: bytes = b"") -> None:
        """Answer all requests with "closed" and why, and later ones; let the tasks end.  Does not wait."""
        for service in (self._link, *self.services.values()):
            service.close(why)
        self._closing.set()

    def close(self, deadline: int | None = None) -> None:
        """Do `end`, wait for the end of the tasks by the deadline (ns), and free what they have used."""
        self.end()
        if all([task.join(deadline) for task in self._tasks]):  # noqa: C419 - each one is waited for
            for service in (self._link, *self.services.values()):
                service.free()
            self._closing.close()

    @property
    def malformed(self) -> int:
        """How many messages of the guest could not be parsed."""
        return self._dispatcher.malformed

    def offers(self, number: ServiceId) -> bool:
        """Return whether the guest has a daemon for a service; also one that hibernates."""
        return self.services[number].registered

    # What a guest is asked for.

    def _begin(self, request: Request, timeout: int = TIMEOUT) -> Ticket:
        number, body = pack(request)
        return self.services[number].ask(body, timeout)

    def ask(
        self,
        what: str,
        request: Request,
        deadline: int | None = None,
        timeout: int = TIMEOUT,
        stop: Sequence[Waitable] = (),
    ) -> bytes:
        """Ask the guest, and return the answer's body; `what` it is, for the error's text.

        Its deadline passes while the machine is paused too; the `timeout` of one without is of running time.
        When one of `stop` is ready the request is given up, as at the deadline.
        """
        return self.begin(what, request, deadline, timeout)(stop)

    def begin(
        self, what: str, request: Request, deadline: int | None = None, timeout: int = TIMEOUT
    ) -> Finish:
        """Do `ask` without waiting; what is returned waits, and is called once."""
        if deadline is not None:
            timeout = max(0, deadline - self._runtime.now())
        ticket = self._begin(request, timeout)

        def finish(stop: Sequence[Waitable] = ()) -> bytes:
            until = deadline
            if stop:
                self._runtime.select([ticket.done, *stop], until)
                until = self._runtime.now()
            answer = ticket.wait_until(until)
            if answer is None:
                number, _ = pack(request)
                answer = self.services[number].give_up(ticket)
            if not answer.ok:
                raise ServiceError(self._name, what, answer)
            return answer.body

        return finish

    def get(self, key: str, deadline: int | None = None) -> bytes:
        """Return the guest's value of a key."""
        return self.ask(f"get {key}", KvpRequest(KvpOp.GET, key), deadline)

    def put(self, key: str, value: bytes, deadline: int | None = None) -> None:
        """Set a key of the guest."""
        self.ask(f"set {key}", KvpRequest(KvpOp.SET, key, value), deadline)

    def delete(self, key: str, deadline: int | None = None) -> None:
        """Delete a key of the guest."""
        self.ask(f"delete {key}", KvpRequest(KvpOp.DELETE, key), deadline)

    def ask_host(self, what: str, request: KvpRequest) -> bytes:
        """Ask for the keys that the host keeps for the guest, as a guest would."""
        answer = self.keys.serve(request, self._runtime.now())
        if not answer.ok:
            raise ServiceError(self._name, what, answer)
        return answer.body

    def ping(self, number: int = 0, deadline: int | None = None) -> int:
        """Raise unless the guest answers; return after how many ns it did."""
        began = self._runtime.now()
        found = self.ask("ping", Heartbeat(number), deadline)
        if found != number.to_bytes(8, "little"):
            raise ServiceError(self._name, "ping", Answer(Status.FAILED, found))
        return self._runtime.now() - began

    def set_time(self, ns: int, deadline: int | None = None) -> None:
        """Tell the guest the time, in ns since 1970; after a resume for example."""
        self.ask("set the time", SetTime(ns), deadline)

    def tell_time(self, ns: int) -> None:
        """Do `set_time` without waiting, if the guest has a daemon for it."""
        if self.offers(ServiceId.TIME):
            self._begin(SetTime(ns))

    def shut_down(
        self,
        op: ShutdownOp = ShutdownOp.POWER_OFF,
        grace_ms: int = 30_000,
        deadline: int | None = None,
    ) -> None:
        """Let the guest end orderly; it has agreed when this returns."""
        self.ask("shut down", ShutdownRequest(op, grace_ms), deadline)

    def freeze(self, timeout_ms: int, deadline: int | None = None) -> None:
        """Let the guest keep its file systems as they are, for at most `timeout_ms`."""
        self.begin_freeze(timeout_ms, deadline)(())

    def begin_freeze(self, timeout_ms: int, deadline: int | None = None) -> Finish:
        """Do `freeze` without waiting; see `begin`."""
        with self._lock:
            self._frozen = True  # before it is: a copy of the machine in between is thawed too
        request = FreezeRequest(FreezeOp.FREEZE, timeout_ms)
        answered = self.begin("freeze", request, deadline, FREEZE_TIMEOUT)

        def finish(stop: Sequence[Waitable] = ()) -> bytes:
            try:
                return answered(stop)
            except ServiceError:
                self._begin(FreezeRequest(FreezeOp.THAW))  # it may have done it, too late
                with self._lock:
                    self._frozen = False
                raise

        return finish

    def thaw(self, deadline: int | None = None) -> None:
        """End a freeze; none is no error."""
        self.begin_thaw(deadline)(())

    def begin_thaw(self, deadline: int | None = None) -> Finish:
        """Do `thaw` without waiting; see `begin`."""
        answered = self.begin("thaw", FreezeRequest(FreezeOp.THAW), deadline)

        def finish(stop: Sequence[Waitable] = ()) -> bytes:
            body = answered(stop)
            with self._lock:
                self._frozen = False
            return body

        return finish

    def begin_copy(
        self,
        name: str,
        size: int,
        mode: int = 0o644,
        deadline: int | None = None,
        stop: Sequence[Waitable] = (),
    ) -> FileCopy:
        """Begin to copy a file of `size` bytes into the guest; one at a time.

        When one of `stop` is ready, each step fails at once.
        """
        what = f"copy {name}"
        with self._lock:
            if self._transfer is not None:
                raise ServiceError(self._name, what, Answer(Status.BUSY))
            transfer = (self._last_transfer + 1) % (1 << 32)
            self._transfer = self._last_transfer = transfer
        copy = FileCopy(partial(self.ask, what, stop=stop), self._end_copy, transfer)
        copy.begin(name, size, mode, deadline)
        return copy

    def _end_copy(self, *, cancel: bool) -> None:
        with self._lock:
            transfer, self._transfer = self._transfer, None
        if cancel and transfer is not None:
            self._begin(FileRequest(FileOp.CANCEL, transfer))

    def copy(self, name: str, size: int, chunks: Iterable[bytes], mode: int = 0o644) -> None:
        """Copy a file of `size` bytes into the guest: it is there whole, or not at all."""
        copy = self.begin_copy(name, size, mode)
        try:
            for chunk in chunks:
                copy.write(chunk)
            copy.finish()
        finally:
            copy.cancel()

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
        keys = self.keys.all()
        with self._lock:
            return GuestServicesRecord(
                services=services, frozen=self._frozen, transfer=self._transfer, keys=keys
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
        self.keys.replace(record.keys)
        if record.frozen:
            self._begin(FreezeRequest(FreezeOp.THAW))
        if record.transfer is not None:
            self._last_transfer = record.transfer
            self._begin(FileRequest(FileOp.CANCEL, record.transfer))
