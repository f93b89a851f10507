"""A machine's control socket: a task for each client.

`hfsched.control.commands` has the messages, `hfsched.control.handlers` what the commands do,
`hfsched.control.command_client` the other side.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Self

from hfsched.control import commands, wire
from hfsched.control.command_session import CommandSession
from hfsched.control.commands import CommandError, Refused
from hfsched.control.events import Hub
from hfsched.control.handlers import CommandMachine
from hfsched.control.listener import accept, offer
from hfsched.control.places import FullError, Places
from hfsched.errors import HfschedError
from hfsched.swap.protocol.messages import TEXT_MAX
from hfsched.text import one_line

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Listener, Runtime, Task

__all__ = ["CLIENTS_MAX", "CommandMachine", "CommandServer"]

CLIENTS_MAX = 16
# Clocks: nobody else's place may depend on a client that does nothing, nor may the machine's end.
PATIENCE = 2_000_000_000  # ns, for a client's first request
_CLOSE_WITHIN = 5_000_000_000  # ns


class CommandServer:
    """Answers requests on a listening socket, which it owns, from its creation until `close`.

    `hub` has the machine's events.  A client must make its first request within `patience` ns.  Later it
    may be idle until another one needs its place, unless it has subscribed.
    """

    def __init__(
        self,
        runtime: Runtime,
        machine: CommandMachine,
        hub: Hub,
        listener: Listener,
        *,
        patience: int = PATIENCE,
        clients_max: int = CLIENTS_MAX,
    ) -> None:
        self._runtime = runtime
        self._machine = machine
        self._hub = hub
        self._patience = patience
        self._listener = listener
        self._closing = runtime.event("control.closing")
        self._lock = runtime.lock("control.clients", state=self.key)
        self._clients: dict[int, tuple[Connection, Task]] = {}
        self._clients_max = clients_max
        self._places = Places(clients_max, clients_max - 1, os.geteuid())
        self._count = 0
        self._acceptor = runtime.spawn("control.accept", self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def key(self) -> object:
        """Return all that the lock guards."""
        return (tuple(self._clients), self._places.key())

    def close(self, deadline: int | None = None) -> list[str]:
        """Refuse new clients, and wait for the requests under way; return tasks that did not end."""
        if deadline is None:
            deadline = self._runtime.now() + _CLOSE_WITHIN
        self._closing.set()
        stuck = [] if self._acceptor.join(deadline) else [self._acceptor.name]
        with self._lock:
            tasks = [task for _, task in self._clients.values()]
        stuck += [task.name for task in tasks if not task.join(deadline)]
        if not stuck:
            self._closing.close()
        return stuck

    def _accept(self) -> None:
        try:
            accept(self._runtime, self._listener, self._closing, self._receive)
        finally:
            self._listener.close()  # here, for nobody else may close what this task still uses

    def _receive(self, connection: Connection) -> None:
        try:
            self._admit(connection)
        except HfschedError as exc:
            code = exc.code if isinstance(exc, CommandError | wire.RefusedError) else "failed"
            refused = Refused(code=code, text=one_line(str(exc), TEXT_MAX))
            offer(connection, commands.encode(refused))
            connection.close()

    def _admit(self, connection: Connection) -> None:
        uid = connection.peer_uid
        wire.check_peer(uid)
        with self._lock:  # it must be registered before its task removes it
            self._count += 1
            number = self._count
            try:
                evicted = self._places.enter(number, uid, self._runtime.now(), self._asks)
            except FullError:
                raise self._full("clients", self._clients_max) from None
            if evicted is not None:
                text = "this connection was idle, and its place was needed"
                _dismiss(self._clients[evicted][0], text)
            body = partial(self._serve, number, connection)
            try:
                task = self._runtime.spawn(f"control.{number}", body)
            except HfschedError:
                self._places.leave(number)
                raise
            self._clients[number] = (connection, task)

    def _asks(self, number: int) -> bool:
        """Return whether a client's request waits for its task; under the lock."""
        return self._clients[number][0].unread() > 0

    def _full(self, what: str, most: int) -> CommandError:
        return CommandError("too-many", f"the control socket has {most} {what} already")

    def _serve(self, number: int, connection: Connection) -> None:
        place = _Place(self, number)
        client = CommandSession(
            self._runtime, self._machine, self._hub, self._closing, connection, place
        )
        try:
            client.serve(self._patience)
        finally:
            with self._lock:
                del self._clients[number]
                self._places.leave(number)
            connection.close()  # last: until then another client's task may dismiss this one


class _Place:
    """A client's place, as the client uses it."""

    def __init__(self, server: CommandServer, number: int) -> None:
        self._server = server
        self._number = number

    def begin(self) -> bool:
        """Note a request; False: the client has lost its place, and gets no answer."""
        with self._server._lock:
            return self._server._places.begin(self._number)

    def rest(self) -> None:
        """Note that the request has been answered."""
        with self._server._lock:
            self._server._places.rest(self._number, self._server._runtime.now())

    def keep(self) -> None:
        """Keep the place until the client leaves; raises CommandError."""
        server = self._server
        with server._lock:
            try:
                server._places.keep(self._number)
            except FullError:
                raise server._full("subscribers", server._clients_max - 1) from None


def _dismiss(connection: Connection, text: str) -> None:
    """Refuse a client that is idle, so that its task ends."""
    offer(connection, commands.encode(Refused(code="too-many", text=text)))
    connection.shutdown(receive=True, send=True)
