"""The scenario `services`: a guest and its daemon, the way to it and back, and the host's tasks.

The service, its courier, its timer, the parser and the guest's side are production code.  Of the machine
there are models: RX, which holds one message, the courier's place among those who wait for it, and `tx`, the way of a vCPU's message from the guest's send
to the thread that delivers it.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from msgspec.structs import replace

from hfsched.scenarios.servicesguest import SERVICE, Guest, Way
from hfsched.services.courier import carry, keep_time
from hfsched.services.dispatch import Dispatcher
from hfsched.services.guest import GuestState
from hfsched.services.records import ServiceRecord
from hfsched.services.service import UtilityService
from hfsched.services.supervisor import serve_guest
from hfsched.services.transaction import Answer, State, Status
from hfsched.services.wire import decode, encode

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.runtime.base import Event

__all__ = ["Host"]

TIMEOUT = 30  # ns: the explorer lets any deadline pass at any point


class _FaultError(Exception):
    """A fault of the host's daemon."""


class Size(Protocol):
    """What of the scenario's parameters the host takes."""

    @property
    def requests(self) -> int: ...
    @property
    def hosts(self) -> int: ...
    @property
    def leavers(self) -> int: ...
    @property
    def event(self) -> str: ...
    @property
    def asks(self) -> int: ...
    @property
    def crashes(self) -> int: ...
    @property
    def farewells(self) -> int: ...
    @property
    def faults(self) -> int: ...
    @property
    def mute(self) -> bool: ...
    @property
    def timers(self) -> bool: ...
    @property
    def boot(self) -> bool: ...


class Host:
    """The host: who asks, the service with its courier and timer, deliveries, a daemon for the guest."""

    def __init__(self, runtime: ExploreRuntime, guest: Guest, size: Size) -> None:
        self._runtime = runtime
        self._guest = guest
        self._size = size
        self.answers: list[tuple[int, Status]] = []
        self._ended: list[bytes] = []  # requests
        runtime.declare_records(self.answers, self._ended, reason="what the oracles compare")
        self._ends = _ends(size)
        self._lives = 0
        self._closing = runtime.event("closing.0")
        self._way = Way(runtime, guest.rx, 0)
        self._service = self._make()
        self._link = UtilityService(runtime, "link", 0)
        self._services = {int(SERVICE): self._service}
        self._dispatcher = Dispatcher(self._services, {SERVICE: (1, 1)}, self._link)
        # A vCPU's thread is in the hypervisor, the scheduler or a handler: what a pause waits for.
        self._vcpus = runtime.lock("vcpus", state=self._life)

    def _life(self) -> tuple[int, str]:
        return self._lives, self._services[SERVICE].name

    def _make(self) -> UtilityService:
        service = UtilityService(self._runtime, f"kvp.{self._lives}", SERVICE)
        locks = self._runtime.controller.table.locks()
        [lock] = [each for each in locks if each.name == f"{service.name}.transactions"]
        self._lock = lock
        return service

    def start(self) -> None:
        """Let the daemon register, and start all tasks."""
        self.deliver(encode(self._guest.daemon.offer()))
        if not self._size.boot:
            accept = self._service.begin_send()
            assert accept is not None
            self._service.end_send(accept, sent=True)
            self._guest.daemon.receive(decode(accept.data))
        self._runtime.spawn("daemon", self._guest.serve)
        self._runtime.spawn("reply", self._deliver_replies)
        self._start_process()

    def _start_process(self) -> None:
        """Start what lives as long as a process of the host."""
        life, service, closing = self._lives, self._service, self._closing
        parts = (self._runtime, [service])
        spawn = self._runtime.spawn
        spawn(f"courier.{life}", partial(carry, *parts, self._way, closing))
        if self._size.timers:
            spawn(f"timer.{life}", partial(keep_time, *parts, closing))
        if self._size.requests:
            for number in range(self._size.hosts):
                spawn(f"host.{life}.{number}", partial(self._ask, service, life, number))
        if self._size.asks and not self._size.mute:
            spawn(f"serve.{life}", partial(self._serve, service, closing, life))

    def deliver(self, data: bytes) -> None:
        """Deliver a message of the guest: the vCPU's thread does, which a pause waits for."""
        self._dispatcher.deliver(data)

    def _deliver_replies(self) -> None:
        while True:
            self._runtime.retain_only()
            if self._size.event in ("pause", "restore"):
                self._runtime.select([self._guest.port])
                with self._vcpus:
                    self._deliver_reply()
            else:
                self._deliver_reply()

    def _deliver_reply(self) -> None:
        received = self._guest.port.recv()
        assert received is not None
        self.deliver(received[0])

    def _ask(self, service: UtilityService, life: int, host: int) -> None:
        leaves = host < self._size.leavers
        for number in range(self._size.requests):
            self._runtime.retain_only(number)
            body = b"h%d.%d.%d" % (life, host, number)
            ticket = service.ask(body, TIMEOUT)
            self._runtime.retain_only(number)
            answer = service.give_up(ticket) if leaves else ticket.wait()
            self._ended.append(body)
            assert not answer.ok or answer.body == body, f"{body!r} is answered {answer.body!r}"
            known = self._ends | {Status.TIMED_OUT} if leaves else self._ends
            assert answer.status in known, f"{body!r} ends with {answer.status.name}"
            self.answers.append((life, answer.status))

    def _serve(self, service: UtilityService, closing: Event, life: int) -> None:
        """Be the host's daemon, which is started again after each of its faults."""
        faults = self._runtime.cell(f"faults.{life}", value=0) if self._size.faults else None

        def answer(body: bytes) -> Answer:
            if faults is not None and faults.get() < self._size.faults:
                faults.set(faults.get() + 1)
                raise _FaultError
            return Answer(Status.OK, body)

        while not closing.is_set():
            service.retake_asked()
            with suppress(_FaultError):
                serve_guest(self._runtime, service, answer, closing)

    # What happens.

    def hibernate(self) -> None:
        """Let the guest hibernate, and come back."""
        self._guest.hibernate(self.deliver)

    def crash(self, *, says: bool = False) -> None:
        """Replace the guest's daemon by another one; a pause waits for its delivery too."""
        with self._vcpus:
            self._guest.crash(self.deliver, says=says)

    def pause(self) -> None:
        """Pause the machine; nothing of the service may change by that."""
        with self._vcpus:
            self._service.pause()
            before = self._service.save()
            self._runtime.checkpoint("paused")
            after = self._service.save()
            _check_calm(before, after, withdraws=self._size.leavers > 0)
            self._service.resume()

    def restore(self) -> None:
        """Take a snapshot, and go on in another process; who has asked in this one gets no answer."""
        with self._vcpus:
            self._service.pause()
            record = self._service.save()
            self._closing.set()
            self._lives += 1
            restored = self._make()
            restored.restore(record)
            self._service = self._services[SERVICE] = restored
            self._closing = self._runtime.event(f"closing.{self._lives}")
            self._way = Way(self._runtime, self._guest.rx, self._lives)
            self._start_process()
            restored.resume()

    # Oracles.

    def look(self) -> None:
        """Check what holds before every step, unless the service is being changed.

        A request is under way if one waits in a channel that is read; none is to be sent that has ended.
        """
        if self._lock.owner is not None:
            return
        guarded: Any = self._service.key()
        (_, is_open, paused, _, _), _, _, waiting, (pending, _), outbox, _ = guarded
        idle = is_open and not paused and pending is None
        assert not (waiting and idle), "a request waits, and none is under way"
        requests = [decode(each.data).body for each in outbox if each.request is not None]
        late = [body for body in requests if body in self._ended]
        assert not late, f"{late[0]!r} has ended, and is to be sent"

    def check(self) -> None:
        """Check the end."""
        service, guest = self._service, self._guest
        mine = [status for life, status in self.answers if life == self._lives]
        due = self._size.requests * self._size.hosts
        assert len(mine) == due, f"{len(mine)} of {due} requests are answered"
        assert not self._way.waits(), "the courier keeps its place, and has nothing to send"
        assert service.state is State.READY, f"stuck in {service.state.name}"
        assert guest.daemon.state is GuestState.READY, f"the daemon is {guest.daemon.state.name}"
        assert len(guest.asked) == self._size.asks, f"the guest has asked only {guest.asked}"
        assert [body for body, _ in guest.answered] == guest.asked, (
            "a guest's request has no answer"
        )
        for body, answer in guest.answered:
            assert not answer.ok or answer.body == body, f"{body!r} is answered {answer.body!r}"
            assert answer.status in self._ends, f"{body!r} ends with {answer.status.name}"

    def final(self) -> object:
        """Return the final state."""
        return (tuple(self.answers), tuple(self._guest.answered))


def _ends(size: Size) -> set[Status]:
    """Return how a request may end whose requester waits; of either side: each asks one at a time."""
    ends = set() if size.mute else {Status.OK}
    if size.timers:
        ends.add(Status.TIMED_OUT)
    if size.crashes or size.farewells:
        ends.add(Status.DAEMON_GONE)
    if size.event == "hibernate":
        ends |= {Status.HIBERNATED, Status.DAEMON_GONE}
    return ends


def _check_calm(before: ServiceRecord, after: ServiceRecord, *, withdraws: bool) -> None:
    """Raise if a pause was felt: the host's side goes on, but may only queue up what it asks, and what it answers.

    Or it `withdraws` what it has asked.
    """
    if withdraws:
        kept = [each for each in before.outbox if each.request is None or each in after.outbox]
        before = replace(before, outbox=tuple(kept))
    if before.asked is not None and after.asked is None:
        assert after.outbox[:-1] == before.outbox, "an answer is more than one message"
        before = replace(before, asked=None, outbox=after.outbox)
    assert replace(before, requests=0) == replace(after, requests=0), "a pause is felt"
