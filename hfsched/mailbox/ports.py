"""The host's ports: bounded queues of messages for host programs.

A message to the primary begins with 16 bytes, {source port u64, destination port u64}, little
endian; at most 4080 bytes follow (TF-Hafnium/hafnium-driver-linux, `struct hf_msg_hdr`).  A VM with
`framing` "raw" has no header and one port.

Every queue is bounded.  A message that finds its queue full blocks the thread that brought it, and
so the guest that sent it, alone.  Messages for a port that was never opened wait in one
bounded queue for each VM; those for a connection that has gone, or that was given up, are discarded and
counted.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from hfsched.abi.ffa import MAILBOX_SIZE
from hfsched.errors import UserError
from hfsched.mailbox.records import PortsRecord, VmPortsRecord, check
from hfsched.runtime.declared import uncompared

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = [
    "FIRST_CONNECTION",
    "HEADER",
    "PAYLOAD_MAX",
    "RAW",
    "Port",
    "PortMessage",
    "Ports",
    "frame",
]

HEADER = struct.Struct("<QQ")
PAYLOAD_MAX = MAILBOX_SIZE - HEADER.size
QUEUE_MAX = 16  # messages
FIRST_CONNECTION = 1 << 32  # ports below are named by users, those from here by us
RAW = -1  # the one port of a VM without framing


class PortMessage(Struct, frozen=True):
    """A message as the host reads it: the guest's port (`RAW` without framing) and the payload."""

    source: int
    payload: bytes


Key: TypeAlias = tuple[int, int]  # {VM id, host port}
Handler: TypeAlias = Callable[[PortMessage], None]


@uncompared(
    discarded="a counter for the summary",
    malformed="a counter for the summary",
)
class _Vm:
    """What the ports keep of a VM: what waits for ports that are not open, or full."""

    def __init__(self, *, raw: bool) -> None:
        self.raw = raw
        self.unclaimed: deque[tuple[int, PortMessage]] = deque()
        self.waiting: list[_Waiting] = []  # the thread of each adds and removes its own
        self.given_up: set[int] = set()  # ports whose reader was given up, and that are not open
        self.discarded = 0
        self.malformed = 0


class _Waiting:
    """A message whose thread waits for room: `look` is set when there may be some, or something else is to be done.

    Each has an event of its own: one that finds no room must not clear what another is about to wait for.
    """

    def __init__(self, number: int, port_message: PortMessage, look: Event) -> None:
        self.number = number
        self.port_message = port_message
        self.look = look

    @property
    def item(self) -> tuple[int, PortMessage]:
        """It, as the unclaimed queue has it."""
        return self.number, self.port_message


def _wake(entry: _Vm, number: int | None = None) -> None:
    """Have the threads look that wait with messages for a port (None: for any); under the lock."""
    for each in entry.waiting:
        if number is None or each.number == number:
            each.look.set()


def frame(source: int, destination: int, payload: bytes) -> bytes:
    """Put the header before a payload of at most `PAYLOAD_MAX` bytes."""
    return HEADER.pack(source, destination) + payload


@uncompared(closed="it is not the open port of its number any more, which is compared")
class Port:
    """An open port: the reader's end of a queue.  Made by `Ports.open`.

    `arrived` is set while there is something to get, and for good when the port is closed or all
    is stopped.
    """

    def __init__(self, ports: Ports, key: Key, messages: list[PortMessage]) -> None:
        self._ports = ports
        self.key = key
        self.handler: Handler | None = None
        self.messages = deque(messages)
        self.closed = False
        self.arrived = ports.runtime.event(f"port.{key[0]}.{key[1]}.arrived")
        if messages:
            self.arrived.set()

    @property
    def number(self) -> int:
        """The host's port number."""
        return self.key[1]

    @property
    def ended(self) -> bool:
        """Whether it is closed, or all is stopped."""
        return self._ports.ended(self)

    def get(self, deadline: int | None = None) -> PortMessage | None:
        """Return the next message; None at the deadline, or when it is closed or all is stopped.

        Messages queued when all is stopped can still be read.
        """
        while True:
            ended = self._ports.ended(self)  # first: then nothing comes any more that is not seen
            port_message = self._ports.take(self)
            if port_message is not None:
                return port_message
            if ended or not self.arrived.wait(deadline):
                return None

    def close(self, *, given_up: bool = False) -> None:
        """Stop listening; what was not read is discarded, `given_up`: also what comes before the next `open`."""
        self._ports.close(self, given_up=given_up)


class Ports:
    """All ports of a machine's host side; each queue has at most `queue_max` messages."""

    def __init__(self, runtime: Runtime, queue_max: int = QUEUE_MAX) -> None:
        self.runtime = runtime
        self._queue_max = queue_max
        self._lock = runtime.lock("ports", state=self.key)
        self._vms: dict[int, _Vm] = {}
        self._open: dict[Key, Port] = {}
        self._next = FIRST_CONNECTION
        self._held = False
        self.stopped = False

    def key(self) -> object:
        """Return all that the lock guards."""
        vms = tuple(
            (
                vm,
                tuple(entry.unclaimed),
                tuple(each.item for each in entry.waiting),
                tuple(sorted(entry.given_up)),
            )
            for vm, entry in self._vms.items()
        )
        ports = tuple(
            (key, tuple(port.messages), port.handler is not None)
            for key, port in self._open.items()
        )
        return (vms, ports, self._next, self._held, self.stopped)

    def add(self, vm: int, *, raw: bool) -> None:
        """Register a VM."""
        self._vms[vm] = _Vm(raw=raw)

    def raw(self, vm: int) -> bool:
        """Return whether a VM's messages have no header, and it has one port."""
        return self._vms[vm].raw

    def open(self, vm: int, number: int | None = None, handler: Handler | None = None) -> Port:
        """Listen on a port, a new connection's own without a number.

        With a `handler` there is no queue: it is called with each message on the thread that
        brought it, and must not block; what lies there already it is given here, after the end of a `hold`.
        Raises UserError when the port is taken.
        """
        with self._lock:
            port = self._open_port(vm, number)
        if handler is not None:
            self._hand_over(port, handler)
        return port

    def _open_port(self, vm: int, number: int | None) -> Port:
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
        mine = [port_message for wanted, port_message in entry.unclaimed if wanted == number]
        entry.unclaimed = deque(item for item in entry.unclaimed if item[0] != number)
        port = Port(self, key, mine)
        self._open[key] = port
        entry.given_up.discard(number)
        _wake(entry)
        if self.stopped:
            port.arrived.set()
        return port

    def _hand_over(self, port: Port, handler: Handler) -> None:
        """Give the handler the queued messages; later ones go to it where they arrive."""
        while True:
            with self._lock:
                port_message = self._take(port)
                held = bool(port.messages) and not (port.closed or self.stopped)
                if port_message is None and not held:
                    port.handler = handler
                    _wake(self._vms[port.key[0]], port.number)
                    return
            if port_message is None:
                port.arrived.wait()
            else:
                handler(port_message)

    def put(
        self,
        vm: int,
        message: bytes,
        block: Callable[[], object] = lambda: None,
        unblock: Callable[[], object] = lambda: None,
    ) -> bool:
        """Queue a message of a VM at its port; wait for room.  False: stopped meanwhile.

        `block` and `unblock` are called before and after each wait; the second may wait itself.

        A message without a whole header is counted as malformed, and dropped.
        """
        entry = self._vms[vm]
        if entry.raw:
            number, port_message = RAW, PortMessage(RAW, message)
        elif len(message) < HEADER.size:
            with self._lock:
                entry.malformed += 1
            return True
        else:
            source, number = HEADER.unpack_from(message)
            port_message = PortMessage(source, message[HEADER.size :])
        waiting: _Waiting | None = None
        while True:
            with self._lock:
                if waiting is not None:
                    entry.waiting.remove(waiting)
                port = self._open.get((vm, number))
                handler = None if port is None or self.stopped else port.handler
                done = (
                    self.stopped
                    or handler is not None
                    or self._put(entry, port, number, port_message)
                )
                if not done:
                    if waiting is None:
                        look = self.runtime.event(f"port.{vm}.{number}.look")
                        waiting = _Waiting(number, port_message, look)
                    waiting.look.clear()
                    entry.waiting.append(waiting)
                stopped = self.stopped
            if done:
                break
            assert waiting is not None
            block()
            waiting.look.wait()
            unblock()
        if waiting is not None:
            waiting.look.close()
        if handler is not None:
            handler(port_message)
        return not stopped

    def _put(self, entry: _Vm, port: Port | None, number: int, port_message: PortMessage) -> bool:
        """Queue a message, or count it as discarded; False: there is no room."""
        if port is not None:
            if len(port.messages) >= self._queue_max:
                return False
            port.messages.append(port_message)
            port.arrived.set()
        elif FIRST_CONNECTION <= number < self._next or number in entry.given_up:
            entry.discarded += 1
        elif len(entry.unclaimed) >= self._queue_max:
            return False
        else:
            entry.unclaimed.append((number, port_message))
        return True

    def take(self, port: Port) -> PortMessage | None:
        """Take a port's next message, None without one."""
        with self._lock:
            return self._take(port)

    def _take(self, port: Port) -> PortMessage | None:
        if port.closed or not port.messages or (self._held and self._lasts(port.key)):
            if not self.stopped and not port.closed:
                port.arrived.clear()
            return None
        _wake(self._vms[port.key[0]], port.number)
        return port.messages.popleft()

    def _lasts(self, key: Key) -> bool:
        """Return whether a port can be opened again, and what lies there waits for that."""
        return self._vms[key[0]].raw or key[1] < FIRST_CONNECTION

    def ended(self, port: Port) -> bool:
        """Return whether no message will come to the port any more."""
        with self._lock:
            return self.stopped or port.closed

    def close(self, port: Port, *, given_up: bool = False) -> None:
        """See `Port.close`."""
        with self._lock:
            if self._open.get(port.key) is port:
                entry = self._vms[port.key[0]]
                del self._open[port.key]
                if given_up and port.number < FIRST_CONNECTION:  # the others are not opened again
                    entry.given_up.add(port.number)
                entry.discarded += len(port.messages)
                port.closed = True
                _wake(entry, port.number)
                port.arrived.set()

    def stop(self) -> None:
        """Release every thread that waits here; queues can still be emptied."""
        with self._lock:
            self.stopped = True
            for entry in self._vms.values():
                _wake(entry)
            for port in self._open.values():
                port.arrived.set()

    def nudge(self, vm: int) -> None:
        """Wake the threads that wait for room for a message of a VM, to look for something else."""
        with self._lock:
            _wake(self._vms[vm])

    # Snapshots; while the machine is suspended.

    def hold(self) -> None:
        """Give out nothing that `save` will return, until `release`: it is read after a restore, or then."""
        with self._lock:
            self._held = True

    def release(self) -> None:
        """End what `hold` began."""
        with self._lock:
            self._held = False
            for port in self._open.values():
                if port.messages:
                    port.arrived.set()

    def save(self) -> PortsRecord:
        """Return what lies here for host programs; what a connection would have read is discarded in it."""
        with self._lock:
            vms = {vm: self._save_vm(vm, entry) for vm, entry in self._vms.items()}
            return PortsRecord(vms, self._next)

    def _save_vm(self, vm: int, entry: _Vm) -> VmPortsRecord:
        queued = [
            (number, each)
            for (owner, number), port in self._open.items()
            if owner == vm
            for each in port.messages
        ]
        there = [*queued, *entry.unclaimed, *(each.item for each in entry.waiting)]
        kept = [item for item in there if self._lasts((vm, item[0]))]
        return VmPortsRecord(
            tuple((number, each.source, each.payload) for number, each in kept),
            tuple(sorted(entry.given_up)),
            entry.discarded + len(there) - len(kept),
            entry.malformed,
        )

    def restore(self, record: PortsRecord) -> None:
        """Put back what `save` returned, before the machine runs; no port is open then.

        Raises UserError for a record that no such machine can have.
        """
        check(sorted(record.vms) == sorted(self._vms), f"ports of VMs {sorted(record.vms)}")
        most = (1 << 64) - 1
        check(FIRST_CONNECTION <= record.next_connection <= most, "no such next connection")
        with self._lock:
            self._next = record.next_connection
            for vm, saved in record.vms.items():
                entry = self._vms[vm]
                for number, source, payload in saved.messages:
                    check(len(payload) <= MAILBOX_SIZE, f"a message of {len(payload)} bytes")
                    if entry.raw:
                        check(number == source == RAW, f"a message to port {number}: it has none")
                    else:
                        known = 0 <= number < FIRST_CONNECTION and 0 <= source <= most
                        check(known, f"a message of port {source} to port {number}")
                    entry.unclaimed.append((number, PortMessage(source, payload)))
                entry.given_up.update(saved.given_up)
                entry.discarded, entry.malformed = saved.discarded, saved.malformed

    def waiting(self) -> int:
        """Return how many messages lie in open ports' queues."""
        with self._lock:
            return self.peek()

    def peek(self) -> int:
        """Return the same without the lock: for oracles."""
        return sum(len(port.messages) for port in self._open.values())

    def counts(self, vm: int) -> tuple[int, int, int]:
        """Return a VM's messages {unclaimed, discarded, malformed}."""
        entry = self._vms[vm]
        with self._lock:
            return len(entry.unclaimed), entry.discarded, entry.malformed
