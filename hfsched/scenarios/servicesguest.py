"""The guest of the scenario `services`: its mailbox and its daemon, whose side of the service is production code."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.services.guest import GuestService, GuestState
from hfsched.services.transaction import Answer, Status
from hfsched.services.wire import Goodbye, Message, ServiceId, decode, encode

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["SERVICE", "Guest", "Rx", "Way"]

SERVICE = ServiceId.KVP


class Rx:
    """The guest's RX: one message, of one sender.  `room` is set while it is empty."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        self._left, self._right = runtime.channel("rx")
        self.room = runtime.event("rx.room")
        self.room.set()

    def try_send(self, data: bytes) -> bool:
        """Put a message into RX if that is empty, and return whether it was."""
        if not self.room.is_set():
            return False
        self.room.clear()
        self._left.send(data)
        return True

    def take(self) -> bytes:
        """Wait for a message, and empty RX."""
        received = self._right.recv()
        assert received is not None
        self.room.set()
        return received[0]


class Way:
    """One courier's way to RX, which takes a place among those that wait for it."""

    def __init__(self, runtime: ExploreRuntime, rx: Rx, life: int) -> None:
        self._rx = rx
        self._place = runtime.event(f"place.{life}")  # set while it has one
        self.room = rx.room
        runtime.declare_private(f"place.{life}")

    def try_send(self, data: bytes) -> bool:
        """See `hfsched.services.courier.Transport`."""
        sent = self._rx.try_send(data)
        if sent:
            self._place.clear()
        else:
            self._place.set()
        return sent

    def leave(self) -> None:
        """See `hfsched.services.courier.Transport`."""
        self._place.clear()

    def waits(self) -> bool:
        """Return whether it has a place, at the end."""
        return bool(self._place.peek())


class Guest:
    """A guest with one daemon.  `user` is held by whatever of user space runs: a hibernation freezes it.

    The daemon's messages take their way by another vCPU than those about the service itself, and may be late.
    """

    def __init__(self, runtime: ExploreRuntime, asks: int, *, mute: bool) -> None:
        self._runtime = runtime
        self._asks = asks
        self._mute = mute  # it answers no request
        self.rx = Rx(runtime)
        self.tx, self.port = runtime.channel("tx")
        self.daemon = GuestService(SERVICE)
        self._gone: list[GuestService] = []  # daemons that have crashed
        self.user = runtime.lock("user", state=self.key)
        self.asked: list[bytes] = []
        self.answered: list[tuple[bytes, Answer]] = []
        self.lives = 0

    def key(self) -> object:
        """Return all that the lock guards."""
        daemons = tuple(each.key() for each in (self.daemon, *self._gone))
        return (daemons, tuple(self.asked), tuple(self.answered), self.lives)

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
            if request is None or self._mute:
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

    def crash(self, deliver: Callable[[bytes], None], *, says: bool) -> None:
        """End the daemon, which may say so; another one registers, which knows nothing of it."""
        with self.user:
            self.lives += 1
            farewell = self.daemon.goodbye()
            self._note()
            self._gone.append(self.daemon)
            self.daemon = GuestService(SERVICE)
            if says:
                deliver(encode(farewell))
                self._runtime.retain_only()
            deliver(encode(self.daemon.offer()))
            self._runtime.retain_only()

    def _note(self) -> None:
        if self.daemon.answer is not None:
            self.answered.append((self.asked[-1], self.daemon.answer))
            self.daemon.answer = None
