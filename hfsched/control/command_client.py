"""The client's side of a machine's control socket.  Blocking; deadlines are of `time.monotonic`."""

from __future__ import annotations

import errno
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hfsched.control import commands, port_client, runtime_dir, wire
from hfsched.control.commands import Answer, CommandError, EventsSubscribe, Refused, Request
from hfsched.errors import UserError
from hfsched.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Conversation", "RefusedError", "ask", "find", "find_machine", "subscribe"]

_PORTS_SOCKET = "the socket of a machine's ports: commands go to the socket `control` beside it"
_PACKET_MAX = 1 << 16  # bytes of an event; a later machine's may be longer than ours

_NO_REPLY = "the machine has ended without a reply"
_KILLED = "the machine has ended without the event `ended`: its process was killed"


class RefusedError(UserError):
    """The machine has refused a request, which has had no effect."""


def find(where: str, deadline: float) -> tuple[Path, str | None]:
    """Return the control socket, and the VM, of ``VM``, ``MACHINE/VM`` or a socket's path.

    By its path it is all VMs of the machine: None.  Raises UserError, TimeoutError.
    """
    if not where:
        raise UserError("'': an empty name: name a VM, MACHINE/VM, or a machine's socket")
    if (path := _socket(where)) is not None:
        return path, None
    machine, slash, vm = where.rpartition("/")
    if slash and not vm and runtime_dir.NAME.fullmatch(machine):
        raise UserError(f"{where}: name a VM: {machine}/VM")
    if (slash and not runtime_dir.NAME.fullmatch(machine)) or not vm:
        raise UserError(f"{where}: there is no such socket")
    return port_client.find(vm, machine or None, deadline).with_name(commands.CONTROL), vm


def find_machine(where: str | None, deadline: float) -> Path:
    """Return the control socket of ``MACHINE`` or a socket's path; None: of the machine that runs.

    Raises UserError, which names the machines that run, where that is not one; TimeoutError.
    """
    if where == "":
        raise UserError("'': an empty name: name a machine, or its socket")
    if where is not None and (path := _socket(where)) is not None:
        return path
    if where is not None and "/" in where:
        raise UserError(f"{where}: there is no such socket")
    sockets = runtime_dir.port_sockets()
    if where in sockets:
        return sockets[where].with_name(commands.CONTROL)
    running = {}
    for name, ports in sockets.items():
        with suppress(port_client._GoneError):
            path = ports.with_name(commands.CONTROL)
            port_client._open(path, deadline).close()
            running[name] = path
    if where is None and len(running) == 1:
        return next(iter(running.values()))
    listed = port_client._listed(list(running))
    if where is not None:
        raise UserError(port_client._no_machine(where, list(running)))
    raise UserError(f"several machines, name one: {listed}" if running else listed)


def _socket(where: str) -> Path | None:
    if not ("/" in where and os.path.exists(where)):  # noqa: PTH110 - False where Path raises
        return None
    inside = Path(where, commands.CONTROL)
    if port_client.is_socket(inside):
        return inside
    if not port_client.is_socket(where):
        raise UserError(
            f"{where}: not a socket: name a machine, or the socket `control` in its directory"
        )
    return Path(where)


def ask(path: Path, request: Request, deadline: float) -> Answer:
    """Return the answer to a request; raises UserError for one that is refused, TimeoutError."""
    with Conversation(path, deadline) as machine:
        return machine.ask(request, deadline)


class Conversation:
    """Requests on one connection; use it in a ``with``.  Raises as `ask` does."""

    def __init__(self, path: Path, deadline: float) -> None:
        self._path = path
        try:
            self._sock = port_client._open(path, deadline)
        except port_client._GoneError:
            raise UserError(f"{path}: no process listens there: the machine has ended") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._sock.close()

    def ask(self, request: Request, deadline: float) -> Answer:
        """Return the answer to a request."""
        self.send(request)
        return self.reply(deadline)

    def send(self, request: Request, files: Sequence[int] = ()) -> None:
        """Send a request, with descriptors; whatever keeps it from coming is in the next reply."""
        with suppress(OSError):  # refused before the request: the reply gives the reason
            socket.send_fds(self._sock, [commands.encode(request)], files, socket.MSG_NOSIGNAL)

    def reply(self, deadline: float | None) -> Answer:
        """Return the next reply; raises UserError (RefusedError: a refusal), TimeoutError."""
        path = self._path
        data = self.receive(commands.ANSWER_MAX + 1, deadline, _NO_REPLY)
        try:
            answer = commands.decode_answer(data)
        except CommandError as exc:
            ports = _is_ports_refusal(data)
            why = _PORTS_SOCKET if ports else f"not a machine's control socket: {exc}"
            raise UserError(f"{path}: {why}") from None
        if isinstance(answer, Refused):
            raise RefusedError(answer.text)
        return answer

    def receive(self, limit: int, deadline: float | None, ended: str) -> bytes:
        """Return the next packet, cut to `limit` bytes; `ended` is said of a machine that sends none any more."""
        path, sock = self._path, self._sock
        while port_client.readable(sock, deadline):
            try:
                data = sock.recv(limit)
            except BlockingIOError:
                continue
            except OSError as exc:
                if exc.errno == errno.ECONNRESET:
                    continue  # reported once: what the machine sent before comes next
                raise UserError(f"{path}: {exc.strerror}") from None
            if not data:
                raise UserError(f"{path}: {ended}")
            return data
        raise TimeoutError(f"{path}: the machine does not answer")


def subscribe(path: Path, deadline: float) -> Iterator[dict[str, Any]]:
    """Yield a machine's events as JSON objects, until the machine ends; the last is ``ended``.

    An event of a type that `hfsched.control.events` does not have is yielded too.  The deadline is for
    the subscription.  Raises UserError, also for a machine that ends without that event; TimeoutError.
    """
    with Conversation(path, deadline) as machine:
        machine.ask(EventsSubscribe(), deadline)
        while True:
            event = _event(path, machine.receive(_PACKET_MAX, None, _KILLED))
            yield event
            if event["event"] == "ended":
                return


def _event(path: Path, data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        shown = one_line(data.decode(errors="backslashreplace"), 100)
        raise UserError(f"{path}: not an event: {shown}")
    return event


def _is_ports_refusal(data: bytes) -> bool:
    try:
        wire.parse_answer(data)
    except wire.RefusedError as exc:
        return exc.code != "bad-answer"
    return False
