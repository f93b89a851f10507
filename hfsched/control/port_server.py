"""A machine's host ports for other programs: the socket `ports`, and a session for each client.

::

    with claim(machine.name) as directory, PortServer(runtime, machine, directory) as server:
        machine.start()
        ...
        machine.stop()      # first, so that no sender waits for a mailbox

`hfsched.control.wire` has the messages, `hfsched.client` is the other side.
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Self

from hfsched.control import wire
from hfsched.control.listener import accept, offer
from hfsched.control.places import FullError, Places
from hfsched.control.pusher import Timing
from hfsched.control.runtime_dir import PORTS
from hfsched.control.session import PortMachine, Session
from hfsched.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hfsched.control.runtime_dir import MachineDirectory
    from hfsched.runtime.base import Connection, Runtime, Task

__all__ = ["CLIENTS_MAX", "PATIENCE", "SILENT_MAX", "UNREAD_LIMIT", "PortMachine", "PortServer"]

CLIENTS_MAX = 256
SILENT_MAX = 16  # clients besides, that have not sent their hello, or only ask
# Clocks, since a client that says or reads nothing makes no progress that could be watched; and at the end a
# machine must not wait for its clients.
PATIENCE = 5_000_000_000  # ns
UNREAD_LIMIT = 30_000_000_000  # ns
_CLOSE_WITHIN = 5_000_000_000  # ns


class PortServer:
    """Serves the host ports of `machine` in `directory` from its creation until `close`.

    A client must send its hello within `patience` ns, or earlier where its place is needed: `silent_max`
    have one without.  Those that connect beyond `clients_max` are refused.  One that reads nothing of what waits for it for `unread_limit` ns, unless
    its hello says another time, is disconnected.  Called on a client's task, and must not block:
    `on_idle` whenever `pending` may have turned False; `on_client(client, vm, port, host_port, reason)`
    when a client, by number, is connected to a VM's port (None) and when that has ended (why we have
    ended it, empty if it was the client); `on_notice(text)` with what the machine's user should know.
    Raises UserError when the socket cannot be made.
    """

    def __init__(
        self,
        runtime: Runtime,
        machine: PortMachine,
        directory: MachineDirectory,
        *,
        patience: int = PATIENCE,
        unread_limit: int = UNREAD_LIMIT,
        clients_max: int = CLIENTS_MAX,
        silent_max: int = SILENT_MAX,
        on_idle: Callable[[], None] = lambda: None,
        on_client: Callable[[int, str, int, int, str | None], None] = lambda *_: None,
        on_notice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._name = directory.name
        self._timing = Timing(patience, unread_limit)
        self._clients_max = clients_max
        self._places = Places(clients_max + silent_max, clients_max, os.geteuid())
        self._on_idle = on_idle
        self._on_client = on_client
        self._on_notice = on_notice
        self._closing = runtime.event("ports.closing")
        self._lock = runtime.lock("ports.sessions", state=self.key)
        self._sessions: dict[int, Session] = {}
        self._tasks: dict[int, Task] = {}
        self._ended: dict[str, str] = {}
        self._discarded: Counter[str] = Counter()
        self._undelivered: Counter[str] = Counter()
        self._count = 0
        self._closed = False  # of the task that closes it alone
        self._listener = runtime.adopt_listener("ports", directory.listen(PORTS).detach())
        self._acceptor = runtime.spawn("ports.accept", self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def key(self) -> object:
        """Return all that the lock guards."""
        named = tuple((number, session.vm) for number, session in self._sessions.items())
        sessions = (named, tuple(self._tasks), self._places.key())
        counts = (tuple(self._discarded.items()), tuple(self._undelivered.items()))
        return (sessions, tuple(self._ended.items()), counts)

    # For the machine.

    def vm_ended(self, vm: str, reason: str) -> None:
        """Report to the VM's clients, present and later ones, that it has ended.  Does not block."""
        with self._lock:
            self._ended.setdefault(vm, reason)
            concerned = [session for session in self._sessions.values() if session.vm == vm]
        for session in concerned:
            session.end(f"vm {vm} has ended: {reason}")

    def pending(self) -> bool:
        """Return whether some client's message was sent and not yet accepted by its VM.

        Call this before `Machine.quiet`: a message that is no longer pending is the machine's.
        Messages for a VM that has ended do not count.
        """
        return any(session.pending() for session in self._current())

    def clients(self) -> int:
        """Return how many clients there are."""
        return len(self._current())

    def discarded(self, vm: str) -> int:
        """Return how many messages of a VM were taken from a port's queue for a client that had disconnected.

        Ports count the others.
        """
        with self._lock:
            return self._discarded[vm]

    def undelivered(self) -> Mapping[str, int]:
        """Return how many messages the VMs had not accepted when their senders' connections ended.

        By VM; those for a VM that has ended do not count.  Complete after `close`.
        """
        with self._lock:
            return {vm: n for vm, n in self._undelivered.items() if vm not in self._ended}

    def foretell(self, what: str) -> None:
        """Have the present clients find, at their end, `what` the machine does; before it is stopped."""
        for session in self._current():
            session.foretell(f"machine {self._name} {what}")

    def close(self, deadline: int | None = None) -> list[str]:
        """Refuse new clients, end all present ones and wait for their tasks until `deadline` (ns).

        Each client gets the messages in its port's queue, as far as its socket has space, the reason
        and end of file.  Messages that clients sent and the VM did not accept are lost: see `undelivered`.
        Returns the names of tasks that did not end: a sender that waits for a full mailbox ends
        with the machine only.  The default deadline is five seconds from now.  One task alone calls this.
        """
        if deadline is None:
            deadline = self._runtime.now() + _CLOSE_WITHIN
        if self._closed:
            return []
        self._closing.set()
        self._closed = True
        stuck = [] if self._acceptor.join(deadline) else [self._acceptor.name]
        with self._lock:
            tasks = list(self._tasks.values())
        for session in self._current():
            session.end(f"machine {self._name} stops")
        stuck += [task.name for task in tasks if not task.join(deadline)]
        if not stuck:
            self._closing.close()
        return stuck

    def _current(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    # The accepting task.

    def _accept(self) -> None:
        try:
            accept(self._runtime, self._listener, self._closing, self._receive)
        finally:
            self._listener.close()  # here, for nobody else may close what this task still uses

    def _receive(self, connection: Connection) -> None:
        try:
            self._admit(connection)
        except wire.RefusedError as exc:
            offer(connection, wire.error(exc.code, str(exc)))
            connection.close()

    def _admit(self, connection: Connection) -> None:
        uid = connection.peer_uid
        wire.check_peer(uid)
        connection.limit_unsent(wire.SEND_BUFFER)
        with self._lock:
            self._count += 1
            number = self._count
            try:
                evicted = self._places.enter(number, uid, self._runtime.now())
            except FullError:
                raise self._full() from None
            silent = None if evicted is None else self._sessions.get(evicted)
            session = Session(
                self._runtime,
                self._machine,
                (self._name, f"ports.{number}"),
                connection,
                closing=self._closing,
                name_vm=partial(self._name_vm, number),
                admit=partial(self._take_place, number),
                on_idle=self._on_idle,
                on_client=partial(self._on_client, number),
                on_give_up=lambda text: self._on_notice(f"client {number} of {text}"),
                timing=self._timing,
            )
            try:
                # Under the lock: it must be registered before its task removes it.
                self._tasks[number] = self._runtime.spawn(
                    f"ports.{number}.reader", partial(self._serve, number, session)
                )
            except UserError as exc:
                self._places.leave(number)
                raise wire.RefusedError("too-many", str(exc)) from None
            self._sessions[number] = session
        if silent is not None:
            silent.dismiss("too-many", "this place was needed before a hello had come")

    def _full(self) -> wire.RefusedError:
        text = f"machine {self._name} has {self._clients_max} clients already"
        return wire.RefusedError("too-many", text)

    def _take_place(self, number: int, hello: wire.Hello | wire.Ask) -> None:
        with self._lock:
            try:
                if isinstance(hello, wire.Hello):
                    self._places.keep(number)
                elif not self._places.begin(number):
                    raise FullError
            except FullError:
                raise self._full() from None

    def _name_vm(self, number: int, vm: str) -> str | None:
        with self._lock:
            self._sessions[number].vm = vm
            return self._ended.get(vm)

    # A client's task.

    def _serve(self, number: int, session: Session) -> None:
        try:
            session.run()
        finally:
            with self._lock:
                del self._sessions[number], self._tasks[number]
                self._places.leave(number)
                if session.vm is not None and session.discarded:
                    self._discarded[session.vm] += session.discarded
                if session.vm is not None and session.undelivered:
                    self._undelivered[session.vm] += session.undelivered
            self._on_idle()
