"""The host's ports: where messages for the host wait for their readers, with bounds.

A message to the primary begins with 16 bytes, {source port u64, destination port u64}, little
endian; at most 4080 bytes follow (TF-Hafnium/hafnium-driver-linux, `struct hf_msg_hdr`).  A VM with
`framing` "raw" has no header and one port.

Every queue is bounded.  A message that finds its queue full holds the thread that brought it, and
so the guest that sent it, and nobody else.  Messages for a port that was never opened wait in one
bounded queue for each VM; messages for a connection that has gone are discarded and counted.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from hfsched.abi.ffa import MAILBOX_SIZE
from hfsched.errors import UserError

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["FIRST_CONNECTION", "HEADER", "PAYLOAD_MAX", "RAW", "Letter", "Port", "Ports", "frame"]

HEADER = struct.Struct("<QQ")
PAYLOAD_MAX = MAILBOX_SIZE - HEADER.size
QUEUE_MAX = 16  # messages
FIRST_CONNECTION = 1 << 32  # ports below are named by users, those from here by us
RAW = -1  # the one port of a VM without framing


@dataclass(slots=True, unsafe_hash=True)
class Letter:
    """A message as the host reads it: the guest's port (`RAW` without framing) and the payload."""

    source: int
    payload: bytes


Key: TypeAlias = tuple[int, int]  # {VM id, host port}
Handler: TypeAlias = Callable[[Letter], None]


@dataclass(slots=True)
class _Vm:
    raw: bool
    unclaimed: deque[tuple[int, Letter]] = field(default_factory=deque)
    discarded: int = 0
    malformed: int = 0


def frame(source: int, destination: int, payload: bytes) -> bytes:
    """Put the header before a payload of at most `PAYLOAD_MAX` bytes."""
    return HEADER.pack(source, destination) + payload


class Port:
    """An open port: the reader's end of a queue.  Made by `Ports.open`."""

    def __init__(self, ports: Ports, key: Key, handler: Handler | None) -> None:
        self._ports = ports
        self.key = key
        self.handler = handler
        self.letters: deque[Letter] = deque()
        self.filled = ports.runtime.event(f"port.{key[0]}.{key[1]}.filled")

    @property
    def number(self) -> int:
        """The host's port number."""
        return self.key[1]

    def get(self, deadline: int | None = None) -> Letter | None:
        """Return the next message; None at the deadline, or when all is stopped."""
        while True:
            letter = self._ports.take(self)
            if letter is not None:
                return letter
            if self._ports.stopped or not self.filled.wait(deadline):
                return None

    def close(self) -> None:
        """Stop listening; what was not read is discarded and counted."""
        self._ports.close(self)


class Ports:
    """All ports of a machine's host side."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._lock = runtime.lock("ports", state=self.key)
        self._vms: dict[int, _Vm] = {}
        self._open: dict[Key, Port] = {}
        self._room = runtime.event("ports.room")
        self._next = FIRST_CONNECTION
        self.stopped = False

    def key(self) -> object:
        """Return all that the lock guards."""
        vms = tuple((vm, tuple(entry.unclaimed)) for vm, entry in self._vms.items())
        return (vms, tuple((key, tuple(port.letters)) for key, port in self._open.items()))

    def add(self, vm: int, *, raw: bool) -> None:
        """Know a VM."""
        self._vms[vm] = _Vm(raw)

    def open(self, vm: int, number: int | None = None, handler: Handler | None = None) -> Port:
        """Listen on a port, a new connection's own without a number.

        With a `handler` there is no queue: it is called with each message on the thread that
        brought it, and must not block.  Raises UserError when the port is taken.
        """
        with self._lock:
            entry = self._vms[vm]
            if entry.raw:
                number = RAW
            elif number is None:
                number = self._next
                self._next += 1
            elif not 0 <= number < FIRST_CONNECTION:
                raise UserError(f"port {number}: not between 0 and {FIRST_CONNECTION - 1}")
            key = (vm, number)
            if key in self._open:
                what = "its only port (framing raw)" if entry.raw else f"port {number}"
                raise UserError(f"vm {vm}: {what} is in use by another connection")
            port = Port(self, key, handler)
            self._open[key] = port
            mine = [letter for wanted, letter in entry.unclaimed if wanted == number]
            entry.unclaimed = deque(item for item in entry.unclaimed if item[0] != number)
            if handler is None:
                port.letters.extend(mine)
            if port.letters:
                port.filled.set()
            self._room.set()
        if handler is not None:
            for letter in mine:
                handler(letter)
        return port

    def put(self, vm: int, message: bytes) -> bool:
        """Bring a message from a VM to its port; wait for room.  False: stopped meanwhile.

        A message without a whole header is counted as malformed, and gone.
        """
        entry = self._vms[vm]
        if entry.raw:
            number, letter = RAW, Letter(RAW, message)
        elif len(message) < HEADER.size:
            with self._lock:
                entry.malformed += 1
            return True
        else:
            source, number = HEADER.unpack_from(message)
            letter = Letter(source, message[HEADER.size :])
        while True:
            with self._lock:
                if self.stopped:
                    return False
                port = self._open.get((vm, number))
                if port is not None and port.handler is not None:
                    break
                if self._put(entry, port, number, letter):
                    return True
                self._room.clear()
            self._room.wait()
        port.handler(letter)
        return True

    def _put(self, entry: _Vm, port: Port | None, number: int, letter: Letter) -> bool:
        if port is not None:
            if len(port.letters) >= QUEUE_MAX:
                return False
            port.letters.append(letter)
            port.filled.set()
        elif FIRST_CONNECTION <= number < self._next:
            entry.discarded += 1
        elif len(entry.unclaimed) >= QUEUE_MAX:
            return False
        else:
            entry.unclaimed.append((number, letter))
        return True

    def take(self, port: Port) -> Letter | None:
        """Take a port's next message, None without one."""
        with self._lock:
            if not port.letters:
                if not self.stopped:
                    port.filled.clear()
                return None
            if len(port.letters) >= QUEUE_MAX:
                self._room.set()
            return port.letters.popleft()

    def close(self, port: Port) -> None:
        """See `Port.close`."""
        with self._lock:
            if self._open.get(port.key) is port:
                del self._open[port.key]
                self._vms[port.key[0]].discarded += len(port.letters)
                port.letters.clear()
                self._room.set()

    def stop(self) -> None:
        """Let go of every thread that waits here; queues can still be emptied."""
        with self._lock:
            self.stopped = True
            self._room.set()
            for port in self._open.values():
                port.filled.set()

    def waiting(self) -> int:
        """Return how many messages lie in open ports' queues."""
        with self._lock:
            return sum(len(port.letters) for port in self._open.values())

    def counts(self, vm: int) -> tuple[int, int, int]:
        """Return a VM's messages {unclaimed, discarded, malformed}."""
        with self._lock:
            entry = self._vms[vm]
            return len(entry.unclaimed), entry.discarded, entry.malformed
