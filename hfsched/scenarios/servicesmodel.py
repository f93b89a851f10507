"""The scenario `services`: a guest and its daemon, the way to it and back, and the host's tasks.

The service, its courier, its timer, the parser and the guest's side are production code.  Of the machine
there are models: RX, which holds one message, and `tx`, the way of a vCPU's message from the guest's send
to the thread that delivers it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from hfsched.services.courier import carry, keep_time
from hfsched.services.dispatch import Dispatcher
from hfsched.services.guest import GuestService, GuestState
from hfsched.services.records import ServiceRecord
from hfsched.services.service import UtilityService
from hfsched.services.transaction import Answer, Direction, State, Status
from hfsched.services.wire import Goodbye, Message, ServiceId, decode, encode

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["Guest", "Host", "Rx"]

TIMEOUT = 30  # ns: the explorer lets any deadline pass at any point
SERVICE = ServiceId.KVP


class Size(Protocol):
    """What of the scenario's parameters the host takes."""

    @property
    def requests(self) -> int: ...
    @property
    def event(self) -> str: ...
    @property
    def asks(self) -> int: ...
    @property
    def timers(self) -> bool: ...
    @property
    def boot(self) -> bool: ...


class Rx:
    """The guest's RX: one message, of one sender.  `room` is set while it is empty."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self._left, self._right = runtime.channel("rx")
        self.room = runtime.event("rx.room")
        self.room.set()

    def try_send(self, data: bytes) -> bool:
        """See `hfsched.services.courier.Transport`."""
        if not self.room.is_set():
            return False
        self.room.clear()
        self._left.send(data)
        return True

    def leave(self) -> None:
        """See `hfsched.services.courier.Transport`."""

    def take(self) -> bytes:
        """Wait for a message, and empty RX."""
        received = self._right.recv()
        assert received is not None
        self.room.set()
        return received[0]


class Guest:
    """A guest with one daemon.  `user` is held by whatever of user space runs: a hibernation freezes it.

    The daemon's messages take their way by another vCPU than those about the service itself, and may be late.
    """

    def __init__(self, runtime: ExploreRuntime, asks: int) -> None:
        self._runtime = runtime
        self._asks = asks
        self.rx = Rx(runtime)
        self.tx, self.port = runtime.channel("tx")
        self.daemon = GuestService(SERVICE)
        self.user = runtime.lock("user", state=self.key)
        self.asked: list[bytes] = []
        self.answered: list[tuple[bytes, Answer]] = []
        self.lives = 0

    def key(self) -> object:
        """Return all that the lock guards."""
        return (self.daemon.key(), tuple(self.asked), tuple(self.answered), self.lives)

    def serve(self) -> None:
        """Be the daemon."""
        if self._asks:
            with self.user:
                self._ask()
        while True:
            self._runtime.retain_only()
            data = self.rx.take()
            with self.user:
                life = self.lives
                request = self._receive(data)
            self._runtime.retain_only(life, request)
            if request is None:
                continue
            with self.user:
                # Or another daemon has taken its place, and knows of no request.
                if life == self.lives:
                    self._send(self.daemon.reply(request, Answer(Status.OK, request.body)))

    def _send(self, message: Message) -> None:
        self.tx.send(encode(message))

    def _receive(self, data: bytes) -> Message | None:
        request = self.daemon.receive(decode(data))
        self._note()
        self._ask()
        return request

    def _ask(self) -> None:
        """Ask the host, if nothing is asked."""
        idle = self.daemon.state is GuestState.READY and len(self.answered) == len(self.asked)
        if idle and len(self.asked) < self._asks:
            self.asked.append(b"g%d" % len(self.asked))
            self._send(self.daemon.ask(self.asked[-1]))

    def hibernate(self, deliver: Callable[[bytes], None]) -> None:
        """Freeze user space, close, come back, negotiate; user space last."""
        with self.user:
            deliver(encode(self.daemon.goodbye(Goodbye.HIBERNATE)))
            self._note()
            self._runtime.retain_only()
            deliver(encode(self.daemon.offer()))
            self._runtime.retain_only()

    def crash(self, deliver: Callable[[bytes], None]) -> None:
        """End the daemon without a word; another one registers."""
        with self.user:
            self.lives += 1
            self.daemon.goodbye()
            self._note()
            deliver(encode(self.daemon.offer()))
            self._runtime.retain_only()

    def _note(self) -> None:
        if self.daemon.answer is not None:
            self.answered.append((self.asked[-1], self.daemon.answer))
            self.daemon.answer = None


class Host:
    """The host: who asks, the service with its courier and timer, deliveries, a daemon for the guest."""

    def __init__(self, runtime: ExploreRuntime, guest: Guest, size: Size) -> None:
        self._runtime = runtime
        self._guest = guest
        self._size = size
        self.answers: list[tuple[int, Status]] = []
        self._lives = 0
        self._closing = runtime.event("closing.0")
        self._service = self._make()
        self._link = UtilityService(runtime, "link", 0)
        self._services = {int(SERVICE): self._service}
        self._dispatcher = Dispatcher(self._services, {SERVICE: (1, 1)}, self._link)
        # A vCPU's thread is in the hypervisor, the scheduler or a handler: what a pause waits for.
        self._vcpus = runtime.lock("vcpus", state=self._life)
        runtime.declare_records(self.answers, reason="what the oracles compare")

    def _life(self) -> tuple[int, str]:
        return self._lives, self._services[SERVICE].name

    def _make(self) -> UtilityService:
        return UtilityService(self._runtime, f"kvp.{self._lives}", SERVICE)

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
        spawn(f"courier.{life}", partial(carry, *parts, self._guest.rx, closing))
        if self._size.timers:
            spawn(f"timer.{life}", partial(keep_time, *parts, closing))
        if self._size.requests:
            spawn(f"host.{life}", partial(self._ask, service, life))
        if self._size.asks:
            spawn(f"serve.{life}", partial(self._serve, service))

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

    def _ask(self, service: UtilityService, life: int) -> None:
        for number in range(self._size.requests):
            self._runtime.retain_only(number)
            body = b"h%d.%d" % (life, number)
            ticket = service.ask(body, TIMEOUT)
            self._runtime.retain_only(number)
            answer = ticket.wait()
            assert not answer.ok or answer.body == body, f"{body!r} is answered {answer.body!r}"
            self.answers.append((life, answer.status))

    def _serve(self, service: UtilityService) -> None:
        while True:
            self._runtime.retain_only()
            service.asks.wait()
            asked = service.take_asked()
            if asked is not None:
                epoch, number, body = asked
                service.complete(epoch, number, Answer(Status.OK, body), Direction.GUEST)

    # What happens.

    def hibernate(self) -> None:
        """Let the guest hibernate, and come back."""
        self._guest.hibernate(self.deliver)

    def crash(self) -> None:
        """Replace the guest's daemon by another one."""
        self._guest.crash(self.deliver)

    def pause(self) -> None:
        """Pause the machine; nothing of the service may change by that."""
        with self._vcpus:
            self._service.pause()
            before = self._service.save()
            self._runtime.checkpoint("paused")
            after = self._service.save()
            _check_calm(before, after)
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
            self._start_process()
            restored.resume()

    # Oracles.

    def check(self) -> None:
        """Check the end."""
        service, guest = self._service, self._guest
        mine = [status for life, status in self.answers if life == self._lives]
        assert len(mine) == self._size.requests, (
            f"{len(mine)} of {self._size.requests} requests are answered"
        )
        assert service.state is State.READY, f"stuck in {service.state.name}"
        assert guest.daemon.state is GuestState.READY, f"the daemon is {guest.daemon.state.name}"
        assert len(guest.asked) == self._size.asks, f"the guest has asked only {guest.asked}"
        assert [body for body, _ in guest.answered] == guest.asked, (
            "a guest's request has no answer"
        )
        for body, answer in guest.answered:
            assert not answer.ok or answer.body == body, f"{body!r} is answered {answer.body!r}"

    def final(self) -> object:
        """Return the final state."""
        return (tuple(self.answers), tuple(self._guest.answered))


def _check_calm(before: ServiceRecord, after: ServiceRecord) -> None:
    """Raise if a pause was felt: the host's side goes on, but may only queue up what it asks, and what it answers."""
    if before.asked is not None and after.asked is None:
        assert after.outbox[:-1] == before.outbox, "an answer is more than one message"
        before = replace(before, asked=None, outbox=after.outbox)
    assert replace(before, requests=0) == replace(after, requests=0), "a pause is felt"
