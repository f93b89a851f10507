"""One client of a machine's host ports, from its hello to its end.

Two tasks: the reader (which is also the owner) brings the client's packets to the VM and waits as
long as the mailbox is full; the writer brings the VM's messages to the client and waits as long
as the client does not read.  So a full mailbox delays only its senders, and a slow client only the
guest that writes to it.

Implementation note.  The kinds of end:

- the client shuts its sending down: the reader delivers what came before, then waits for the hang-up;
- the client has disconnected: the reader sees the hang-up, or the writer an error.  The writer closes
  the endpoint at once, so that a guest that answers is not delayed, while the reader still delivers;
- the client does not read: what cannot be sent until its deadline ends the connection, by the task that
  was to send it.  What came before from the client is delivered, as when it has disconnected;
- the VM has ended or the server closes: `end` makes the client's sending fail and wakes both.  The
  reader discards what is there.  The messages in the port's queue are still sent (without waiting,
  if the server closes), then the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hfsched.control import wire
from hfsched.control.listener import offer
from hfsched.control.pusher import Pusher, Timing
from hfsched.errors import UserError
from hfsched.scheduler.outbox import Sent
from hfsched.text import meant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hfsched.mailbox.ports import PortMessage
    from hfsched.runtime.base import Connection, Event, Runtime
    from hfsched.scheduler.endpoint import Endpoint

__all__ = ["PortMachine", "Session"]

_NS = 1_000_000_000
_NS_PER_MS = 1_000_000
_REASON_WITHIN = _NS  # the reason of an abort follows the first refused message
_PASSED = 0  # a deadline that has passed: do not wait


class PortMachine(Protocol):
    """What the host ports need of a machine."""

    def vm_names(self) -> list[str]:
        """Return the names of all VMs; constant."""

    def port_number(self, vm: str, port: int | str) -> int:
        """Return the number of a port, which may be a name; raises UserError for an unknown one."""

    def endpoint(self, vm: str, port: int, local: int | None = None) -> Endpoint:
        """Connect to a port of a VM that `vm_names` has, from host port `local` (None: a new one).

        Raises UserError when the host port is in use.
        """


class Session:
    """A client on an accepted `connection`, which the session owns from here on.

    `name_vm(vm)` puts the VM that the client wants into `vm`, under the server's lock, and returns the
    reason of its end, None while it lives.  `closing` is set once, before `end`, when the server closes.  These are called on the session's tasks and must not block:
    `admit` once with the hello, which raises RefusedError if there is no place for it; `on_idle` each
    time that bytes were handled; `on_client(vm, port, host_port, reason)` when the client is connected
    to a port (None), and when that has ended (why we have ended it, empty if it was the client);
    `on_give_up(text)` when it is disconnected because it does not read.
    """

    def __init__(
        self,
        runtime: Runtime,
        machine: PortMachine,
        names: tuple[str, str],
        connection: Connection,
        *,
        closing: Event,
        name_vm: Callable[[str], str | None],
        admit: Callable[[wire.Hello | wire.Ask], None],
        on_idle: Callable[[], None],
        on_client: Callable[[str, int, int, str | None], None],
        on_give_up: Callable[[str], None],
        timing: Timing,
    ) -> None:
        self.vm: str | None = None
        self._runtime = runtime
        self._machine = machine
        self._machine_name, self._name = names
        self._connection = connection
        self._closing = closing
        self._name_vm = name_vm
        self._on_idle = on_idle
        self._on_client = on_client
        self._on_give_up = on_give_up
        self._patience = timing.hello
        self._pusher = Pusher(runtime, connection, closing, timing.unread, self._give_up)
        self._admit = admit
        self._leaving = runtime.event(f"{self._name}.leaving")
        self._held = runtime.cell(f"{self._name}.held", value=False)
        self._lock = runtime.lock(f"{self._name}.end", state=self.key)
        self._reason = ""
        self._refusing = False  # nothing more is taken from the client
        self._given_up = False  # it did not read
        self._over = False  # the socket is closed, or about to be
        self.undelivered = 0  # messages that the VM did not accept; once its task has ended
        self.discarded = 0  # messages that the writer had taken when the client disconnected

    def key(self) -> object:
        """Return all that the lock guards."""
        return (self._reason, self._refusing, self._given_up, self._over)

    # For the server; any thread.

    def end(self, reason: str) -> None:
        """Take nothing more from the client; send it what is left, the reason and end of file."""
        with self._lock:
            if self._over:
                return
            self._reason = self._reason or reason
            self._refusing = True
            self._connection.shutdown(receive=True)
            self._leaving.set()

    def foretell(self, reason: str) -> None:
        """Let the client find a reason at its end, which is near, unless it has another one."""
        with self._lock:
            self._reason = self._reason or reason

    def dismiss(self, code: str, text: str) -> None:
        """Refuse a client that has not sent its hello, whose place is needed."""
        with self._lock:
            if not self._over:
                offer(self._connection, wire.error(code, text))
                self._connection.shutdown(receive=True, send=True)

    def pending(self) -> bool:
        """Return whether the client has sent a message that the VM has yet to accept."""
        # The socket first: a message that has left it is held.
        with self._lock:
            if self._refusing or self._over:
                return False
            return self._connection.unread() > 0 or self._held.get()

    # The reader's task.

    def run(self) -> None:
        """Serve the client to its end."""
        try:
            endpoint = self._greet()
            if endpoint is not None:
                self._serve(endpoint)
        except wire.RefusedError as exc:
            self._pusher.push(wire.error(exc.code, str(exc)))
        except ConnectionError:
            pass  # disconnected before it was served
        finally:
            with self._lock:
                self._over = True
                self._connection.close()
                self._leaving.close()

    def _greet(self) -> Endpoint | None:
        """Receive the hello and connect; None: nothing more is to be done."""
        ready = self._runtime.select(
            [self._connection, self._closing], self._runtime.now() + self._patience
        )
        if self._closing in ready:  # first, for closing makes the socket readable too
            raise wire.RefusedError("stopping", f"machine {self._machine_name} stops")
        if self._connection not in ready:
            raise wire.RefusedError("silent", f"no hello within {self._patience / _NS:g} s")
        data = self._connection.recv(wire.HELLO_MAX + 1)
        self._on_idle()  # until now it could have been a message that waits
        if not data:
            return None
        hello = wire.parse_hello(data)
        self._admit(hello)
        vms = self._machine.vm_names()
        if isinstance(hello, wire.Ask):
            answer = {
                "ok": True,
                "machine": self._machine_name,
                "has": hello.vm in vms,
                "vms": vms[: wire.VMS_MAX],
            }
            self._pusher.push(wire.encode(answer))
            return None
        if hello.vm not in vms:
            known = ", ".join(vms[:8]) + (", ..." if len(vms) > 8 else "")
            raise wire.RefusedError(
                "no-vm",
                f"no VM {hello.vm!r} in machine {self._machine_name}: it has {known}"
                + meant(hello.vm, vms),
            )
        return self._connect(hello)

    def _connect(self, hello: wire.Hello) -> Endpoint:
        ended = self._name_vm(hello.vm)
        if ended is not None:
            raise wire.RefusedError("vm-ended", f"vm {hello.vm} has ended: {ended}")
        if hello.unread_ms is not None:
            self._pusher.limit = hello.unread_ms * _NS_PER_MS
        try:
            port = self._machine.port_number(hello.vm, hello.port)
        except UserError as exc:
            raise wire.RefusedError("no-port", str(exc)) from None
        try:
            return self._machine.endpoint(hello.vm, port, hello.local)
        except UserError as exc:
            raise wire.RefusedError("port-in-use", str(exc)) from None

    def _serve(self, endpoint: Endpoint) -> None:
        assert self.vm is not None
        try:
            try:
                # It needs a descriptor for each.
                self._runtime.select([self._leaving, endpoint.arrived], _PASSED)
            except OSError as exc:
                raise wire.RefusedError("too-many", f"no descriptor: {exc.strerror}") from None
            number, limit = endpoint.host_port, endpoint.payload_max
            self._on_client(self.vm, endpoint.remote, number, None)
            try:
                self._pusher.push(wire.Welcome(self._machine_name, self.vm, number, limit).encode())
                writer = self._runtime.spawn(f"{self._name}.writer", lambda: self._write(endpoint))
                try:
                    self._read(endpoint)
                finally:
                    self._leaving.set()
                    writer.join()
            except UserError as exc:  # no thread
                self._pusher.push(wire.closing(str(exc)))
            finally:
                with self._lock:
                    reason = self._reason
                self._on_client(self.vm, endpoint.remote, number, reason)
        finally:
            endpoint.close()

    def _read(self, endpoint: Endpoint) -> None:
        limit = 1 + endpoint.payload_max + 1  # one byte more shows that a message is too long
        while self._connection.recv(1, peek=True):
            self._held.set(True)
            packet = self._connection.recv(limit) or b""
            more = not self._closing.is_set() and self._deliver(endpoint, packet)
            self.undelivered += not more
            self._held.set(False)
            self._on_idle()
            if not more:
                break
        # Discarding makes space: a client that waits for it learns that the connection has ended.
        while first := self._connection.recv(1):
            self.undelivered += first == wire.DATA
        self._runtime.select([self._connection.hangup])

    def _deliver(self, endpoint: Endpoint, packet: bytes) -> bool:
        """Bring a packet to the VM; False: the VM takes nothing more."""
        if packet[:1] != wire.DATA:
            self._pusher.push(wire.REFUSED + b"a packet of an unknown type")
            return True
        if len(packet) - 1 > endpoint.payload_max:
            text = f"a message of more than {endpoint.payload_max} bytes"
            self._pusher.push(wire.REFUSED + text.encode())
            return True
        if endpoint.send(packet[1:]) is not Sent.DEAD:
            return True
        with self._lock:
            self._refusing = True
        if not self._leaving.wait(self._runtime.now() + _REASON_WITHIN):
            self.end(f"vm {self.vm} has ended")
        return False

    # The writer's task.

    def _write(self, endpoint: Endpoint) -> None:
        try:
            for port_message in self._port_messages(endpoint):
                self._on_idle()  # it has left the port's queue
                if not self._pusher.push(wire.DATA + port_message.payload):
                    self.discarded += 1
                    return
            with self._lock:
                reason = self._reason or "the machine stops"
            self._pusher.push(wire.closing(reason))
        finally:
            with self._lock:
                given_up = self._given_up
            endpoint.close(given_up=given_up)
            self._connection.shutdown(receive=True, send=True)

    def _port_messages(self, endpoint: Endpoint) -> Iterator[PortMessage]:
        """Yield the VM's messages until no more will come."""
        arrived = endpoint.arrived
        while True:
            last = self._leaving.is_set()
            while (port_message := endpoint.recv(_PASSED)) is not None:
                yield port_message
            if last:
                return
            if arrived in self._runtime.select([arrived, self._leaving]):
                ended = endpoint.ended  # first: then nothing comes any more that is not seen
                port_message = endpoint.recv(_PASSED)
                if port_message is not None:
                    yield port_message
                elif ended:
                    return  # the machine stops
                # else a snapshot keeps what is there

    # Both.

    def _give_up(self) -> None:
        """Disconnect the client; it finds the reason after what it has not read."""
        limit = f"{self._pusher.limit / _NS:g} s"
        text = f"nothing was read for {limit}, and messages waited: read them, or ask for a longer time"
        with self._lock:  # the connection is open: it is one of its own two tasks that gives up
            self._reason = self._reason or text
            self._given_up = True
            self._connection.limit_unsent(2 * wire.SEND_BUFFER)  # or the reason has no room
            offer(self._connection, wire.closing(self._reason))
            self._connection.shutdown(receive=True, send=True)
            self._leaving.set()
        self._on_give_up(f"vm {self.vm}: disconnected: nothing read for {limit}")
