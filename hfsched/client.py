"""Exchanges messages with a VM of a running machine, from another program.

::

    import hfsched

    with hfsched.connect("trusty", port=1) as trusty:
        trusty.send(b"hello")
        print(trusty.recv(timeout=5))

Messages are whole: one `send` here is one message there.  Nothing is dropped: while the VM's
mailbox is full, `send` waits (or raises BlockingIOError), after some messages that the socket
holds; and a program that does not `recv` delays the guest that writes to it.

`hfsched.client_asyncio` is the same for asyncio.
"""

from __future__ import annotations

import errno
import select
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from hfsched import times
from hfsched.control import wire
from hfsched.control.port_client import dial, find, readable
from hfsched.control.wire import RefusedError
from hfsched.errors import HfschedError, UserError
from hfsched.text import safe_repr

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "CONNECT_WITHIN",
    "Connection",
    "ConnectionClosed",
    "RefusedError",
    "check_timeout",
    "connect",
]

CONNECT_WITHIN = 10.0  # seconds


class ConnectionClosed(HfschedError, EOFError):  # noqa: N818 - an end, and often no error
    """The connection has ended; the text is the reason."""


class Connection:
    """A connection to a port of a VM.  Made by `connect`; use it in a ``with``.

    `machine` and `vm` are names, `port` is the VM's port as it was asked for, `host_port` this end's (-1 for a VM without
    framing), `payload_max` the longest message in bytes.  `reason` is why the connection ended,
    as far as that is known.  One thread may send while another receives; any may close.
    """

    def __init__(self, sock: socket.socket, welcome: wire.Welcome, port: int | str) -> None:
        self.machine = welcome.machine
        self.vm = welcome.vm
        self.port = port
        self.host_port = welcome.host_port
        self.payload_max = welcome.payload_max
        self.reason: str | None = None
        self._sock = sock
        self._mutex = threading.RLock()
        self._users = 0  # calls under way: the last one closes the socket of a closed connection
        self._closed = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} to {self.machine}/{self.vm} port {self.port}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        """Yield messages until the connection ends; `reason` is why it did."""
        while True:
            try:
                message = self.recv()
            except ConnectionClosed:
                return
            yield message

    def fileno(self) -> int:
        """Return the descriptor, for ``select``: readable when `recv` would not wait."""
        return self._sock.fileno()

    def send(
        self,
        data: bytes | bytearray | memoryview,
        *,
        block: bool = True,
        timeout: float | None = None,
    ) -> None:
        """Send one message of at most `payload_max` bytes; it may be empty.

        Waits while there is no space, at most `timeout` seconds (None: no limit), and then raises
        TimeoutError; with `block` False it raises BlockingIOError at once.  A message is sent whole
        or not at all.  Raises UserError for one that is too long, ConnectionClosed at the end.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            hint = ': write b"..." or .encode()' if isinstance(data, str) else ""
            raise TypeError(f"a message is bytes, not {type(data).__name__}{hint}")
        check_timeout(timeout)
        data = bytes(data)
        if len(data) > self.payload_max:
            raise UserError(f"a message of {len(data)} bytes: at most {self.payload_max}")
        packet = wire.DATA + data
        deadline = None if timeout is None else time.monotonic() + timeout
        with _Use(self):
            while True:
                try:
                    self._sock.send(packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
                except BlockingIOError:
                    if not block:
                        raise BlockingIOError(
                            errno.EAGAIN, f"{self}: it takes no more now"
                        ) from None
                except ConnectionResetError:
                    continue  # reported once
                except OSError as exc:
                    why = f"{exc.strerror}: if the machine closed it, recv() says why in the end"
                    raise self._end(f"{self} takes no more: {why}") from None
                else:
                    return
                if not self._writable(deadline):
                    raise TimeoutError(f"{self}: not taken within {timeout} s")

    def recv(self, timeout: float | None = None, *, block: bool = True) -> bytes:
        """Return the next message of the VM.

        Waits at most `timeout` seconds (None: no limit), and then raises TimeoutError; with `block`
        False it raises BlockingIOError at once.  Raises ConnectionClosed at the end, and
        RefusedError when the machine did not deliver a message; the connection stays open.
        """
        check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        with _Use(self):
            while True:
                try:
                    packet = self._sock.recv(wire.PACKET_MAX, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    if not block:
                        raise BlockingIOError(errno.EAGAIN, f"{self}: no message yet") from None
                    if not readable(self._sock, deadline):
                        raise TimeoutError(f"{self}: no message within {timeout} s") from None
                except ConnectionResetError:
                    continue  # reported once: the machine left packets unread; its own come next
                except OSError as exc:
                    raise self._end(f"{self} is broken: {exc.strerror}") from None
                else:
                    message = self._message(packet)
                    if message is not None:
                        return message

    def shutdown(self) -> None:
        """End sending; `recv` still works."""
        with _Use(self), suppress(OSError):  # the machine has ended: recv raises
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Disconnect, and end calls in other threads; what was sent before is delivered."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self.reason = self.reason or "closed by this program"
            if not self._users:
                self._sock.close()
                return
        with suppress(OSError):  # the machine has ended
            self._sock.shutdown(socket.SHUT_RDWR)

    # Inside.

    def _message(self, packet: bytes) -> bytes | None:
        """Return a packet's message, None for a packet without one; raise for a refusal or an end."""
        kind = packet[:1]
        if kind == wire.DATA:
            return packet[1:]
        if kind == wire.REFUSED:
            raise RefusedError("message", wire.text_of(packet))
        if kind == wire.CLOSING:
            self.reason = self.reason or wire.text_of(packet)
            return None
        if packet:
            raise self._end(f"machine {self.machine} sent a packet of type {kind!r}")
        raise self._end(f"machine {self.machine} has ended without a reason")

    def _end(self, otherwise: str) -> ConnectionClosed:
        return ConnectionClosed(self.reason or otherwise)

    def _writable(self, deadline: float | None) -> bool:
        waiter = select.poll()
        waiter.register(self._sock, select.POLLOUT)
        left = None if deadline is None else max(0.0, deadline - time.monotonic()) * 1000
        return bool(waiter.poll(left))


class _Use:
    """A call under way: as long as there is one, the descriptor stays open."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __enter__(self) -> None:
        connection = self._connection
        with connection._mutex:
            if connection._closed:
                raise connection._end("closed")
            connection._users += 1

    def __exit__(self, *exc: object) -> None:
        connection = self._connection
        with connection._mutex:
            connection._users -= 1
            if connection._closed and not connection._users:
                connection._sock.close()


def _check(name: str, value: object, kinds: tuple[type, ...], wanted: str) -> None:
    """Raise TypeError for an argument of another type; a bool is no number."""
    if not isinstance(value, kinds) or isinstance(value, bool):
        shown = safe_repr(value, 80)
        raise TypeError(f"{name}={shown}: {wanted}, not {type(value).__name__}")


def check_timeout(timeout: object) -> None:
    """Raise TypeError for what is no time limit, ValueError for no number."""
    if timeout is None:
        return
    _check("timeout", timeout, (int, float), "a number of seconds, or None")
    if timeout != timeout:  # noqa: PLR0124 - not a number
        raise ValueError("timeout=nan: a number of seconds, or None")


def _unread_ms(limit: float | str) -> int:
    _check("unread_limit", limit, (int, float, str), 'seconds, or a time such as "30s"')
    found = times.seconds(limit) if isinstance(limit, str) else limit
    if found is None or not 0.001 <= found <= wire.UNREAD_MS_MAX / 1000:
        shown = repr(limit[:80]) if isinstance(limit, str) else f"{limit:g}"
        wanted = f'0.001 to {wire.UNREAD_MS_MAX // 1000} seconds, or a time such as "30s"'
        raise UserError(f"unread_limit {shown}: {wanted}")
    return round(found * 1000)


def connect(
    vm: str,
    port: int | str = 1,
    machine: str | None = None,
    timeout: float | None = None,
    *,
    local: int | None = None,
    unread_limit: float | str | None = None,
) -> Connection:
    """Connect to a port of a VM of a machine that this user runs on this host.

    `vm` is a VM's name, or "machine/vm".  `port` is a number, or a name that the manifest's `ports`
    have; 1, where text is by convention, unless it is given.  `machine` is a machine's name, or the path of its socket `ports` or its directory (it has a slash); None finds the one machine that has the VM.  `local` asks for a host port of
    that number (below 2**32), to get what the VM sends there; None takes a new one, to which the
    VM answers.  `timeout` is in seconds, for the machine's answers; None means ten.  `unread_limit` is in
    seconds, or a text such as "30s", up to a day: the machine disconnects a program that reads nothing for so long while messages
    wait for it; None means the machine's default (`hfsched run --unread-limit`, 30).

    Raises TypeError for arguments of another type, UserError when there is no such VM or more than one, RefusedError (a UserError with a
    `code`) when the machine refuses, TimeoutError when it does not answer.
    """
    _check("vm", vm, (str,), "a VM's name")
    _check("port", port, (int, str), "a number, or a name that the manifest has")
    if machine is not None:
        _check("machine", machine, (str,), "a machine's name, or the path of its socket")
    if local is not None:
        _check("local", local, (int,), "a host port's number, or None")
    check_timeout(timeout)
    if "/" in vm:
        if machine is not None:
            raise UserError(f"{vm!r} and machine={machine!r}: name the machine once")
        machine, _, vm = vm.rpartition("/")
    deadline = time.monotonic() + (CONNECT_WITHIN if timeout is None else timeout)
    unread_ms = None if unread_limit is None else _unread_ms(unread_limit)
    path = find(vm, machine, deadline)
    sock, welcome = dial(path, wire.Hello(vm, port, local, unread_ms), deadline)
    return Connection(sock, welcome, port)
