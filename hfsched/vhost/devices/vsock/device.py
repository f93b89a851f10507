"""The socket device: its queues, and the Unix sockets of the host."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hfsched.errors import UserError
from hfsched.vhost.device import Device
from hfsched.vhost.devices.vsock.callers import Callers
from hfsched.vhost.devices.vsock.link import Link
from hfsched.vhost.devices.vsock.packet import HEADER_SIZE, MASK, Header
from hfsched.vhost.devices.vsock.stream import State, Stream
from hfsched.vhost.devices.vsock.streams import Streams
from hfsched.vhost.errors import ChainError, MemoryFaultError, RefusedError

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Listener
    from hfsched.vhost.queue import Queue
    from hfsched.vhost.request import Request

__all__ = ["Vsock"]

_RX, _TX, _EVENT = range(3)
_TRANSPORT_RESET = struct.pack("<I", 0)
_FRESH = (0, 0x8000_8000)  # where a driver that begins has its rings, split and packed
_CID_MIN = 3  # 0 is reserved, 1 is local, 2 the host
_FEATURE_STREAM = 1 << 0


class Vsock(Device):
    """The device of the guest `guest_cid`.  Raises UserError for a CID that no guest has.

    `connect(port)` returns a connection for what the guest asks of a port of the host, or None to refuse it; it does not block.
    Host programs connect to `listener`, which is the device's to close.

    All connections end when the device is suspended: the guest is told by RST packets, and by a transport reset where its driver
    gives the event queue to this device (QEMU keeps it).
    """

    type_id = 19
    queues = 3
    features = _FEATURE_STREAM

    def __init__(
        self,
        guest_cid: int,
        connect: Callable[[int], Connection | None],
        listener: Listener | None = None,
        *,
        streams: Streams | None = None,
    ) -> None:
        if not _CID_MIN <= guest_cid < MASK:
            raise UserError(f"CID {guest_cid}: {_CID_MIN} to {MASK - 1}")
        self._guest_cid = guest_cid
        self._connect = connect
        self._streams = Streams(guest_cid) if streams is None else streams
        self._links: dict[Stream, Link] = {}
        self._stale: dict[Stream, None] = {}  # of which the link is to be updated
        self._callers = None if listener is None else Callers(listener, self._ask)
        self._rx: Queue | None = None
        self._tx: Queue | None = None
        self._event: Queue | None = None
        self._tx_waits = False
        self._reset_due = False

    def config(self) -> bytes:
        """See `Device`."""
        return struct.pack("<Q", self._guest_cid)

    # Queues.

    def start_queue(self, queue: Queue) -> None:
        """See `Device`.  A driver that goes on may have connections that this device does not know of."""
        if queue.index == _RX:
            self._rx = queue
        elif queue.index == _TX:
            self._tx = queue
        else:
            self._event = queue
        self._reset_due |= queue.next_base not in _FRESH

    def stop_queue(self, queue: Queue) -> None:
        """See `Device`: no request is kept from one turn to the next."""
        if queue.index == _RX:
            self._rx = None
        elif queue.index == _TX:
            self._tx = None
        else:
            self._event = None

    def available(self, queue: Queue) -> None:
        """See `Device`."""
        if queue.index == _RX:
            self._go_on()
        elif queue.index == _TX:
            self._receive()
        if queue.index == _EVENT or self._reset_due:
            self._tell_reset()

    def _tell_reset(self) -> None:
        while self._reset_due and self._event is not None:
            request = self._event.pop()
            if request is None:
                return
            if request.write_size >= len(_TRANSPORT_RESET):
                self._write(request, _TRANSPORT_RESET)
                self._reset_due = False
            request.complete()

    def _write(self, request: Request, data: bytes) -> bool:
        """Write to a guest that may have taken its memory away; return whether it was done."""
        try:
            request.write(data)
        except (ChainError, MemoryFaultError) as exc:
            self.host.notice(f"a packet to the guest: {exc}")
            return False
        return True

    # From the guest.

    def _receive(self) -> None:
        """Take the guest's packets, as long as answers to them have room."""
        tx = self._tx
        self._tx_waits = self._streams.blocked
        if tx is not None and not self._tx_waits:
            for request in tx.requests():
                self._take(request)
                request.complete(0)
                if self._streams.blocked:
                    self._tx_waits = True
                    break
        self._go_on()

    def _take(self, request: Request) -> None:
        try:
            header = Header.decode(request.read(HEADER_SIZE))
        except (ChainError, MemoryFaultError) as exc:
            self.host.notice(f"a packet of the guest, dropped: {exc}")
            return

        def payload() -> bytes | None:
            try:
                return request.read(header.size, HEADER_SIZE)
            except (ChainError, MemoryFaultError):
                return None

        stream = self._streams.receive(header, payload)
        if stream is None:
            return
        if stream.state is State.ASKED:
            self._answer(stream)
        self._stale[stream] = None

    def _answer(self, stream: Stream) -> None:
        """Connect the guest to a port of the host."""
        connection = self._connect(stream.host_port)
        if connection is None:
            stream.abort()
        else:
            stream.accept()
            self._link(stream, connection)
        self._streams.changed(stream)

    def _link(self, stream: Stream, connection: Connection) -> None:
        self._links[stream] = Link(self.host, connection, stream, self._socket_ready)
        self._stale[stream] = None

    # To the guest.

    def _socket_ready(self, link: Link) -> None:
        self._stale[link.stream] = None
        self._go_on()

    def _go_on(self) -> None:
        """Do what can be done now: for the host, then for the guest, which may make more for the host."""
        while True:
            while self._stale:
                stream, _ = self._stale.popitem()
                self._update(stream)
            self._send()
            if not self._stale:
                break
        if self._tx_waits and not self._streams.blocked:
            self._tx_waits = False
            self.host.post(self._receive)

    def _update(self, stream: Stream) -> None:
        link = self._links.get(stream)
        if link is not None:
            link.update()
            if link.closed:
                del self._links[stream]
                if self._callers is not None:
                    self._callers.accept(self.host)  # there is a descriptor again
        self._streams.changed(stream)

    def _send(self) -> None:
        """Give the guest packets, as long as there are some and it has room."""
        if self._rx is None or not self._streams.is_due:
            return
        for request in self._rx.requests():
            if request.write_size <= HEADER_SIZE:  # no use for it
                request.complete(0)
                continue
            packet = self._streams.take(request.write_size, self._pull)
            if packet is None:
                self._rx.unpop(request)
                return
            if not self._write(request, packet):
                self._end_all()
            request.complete()

    def _pull(self, stream: Stream, size: int) -> bytes | None:
        link = self._links.get(stream)
        data = b"" if link is None else link.pull(size)
        if not data:
            self._stale[stream] = None
        return data

    def _ask(self, connection: Connection, port: int) -> bool:
        """Ask the guest for what a host program wants; return whether that could be done."""
        stream = self._streams.ask(port)
        if stream is None:
            return False
        self._link(stream, connection)
        self._go_on()
        return True

    # Its life.

    def resume(self) -> None:
        """See `Device`."""
        if self._callers is not None:
            self._callers.accept(self.host)

    def suspend(self) -> None:
        """See `Device`: end all connections."""
        if self._callers is not None:
            self._callers.hang_up()
        for link in self._links.values():
            link.update()
        self._end_all()
        self._reset_due = True
        self._tx_waits = False

    def _end_all(self) -> None:
        self._streams.abort()
        for link in self._links.values():
            link.close()
        self._links.clear()
        self._stale.clear()

    def reset(self) -> None:
        """See `Device`."""
        self._streams.reset()
        self._reset_due = False

    def save(self) -> Any:
        """See `Device`: what the guest will have to be told of."""
        return {"streams": self._streams.save()}

    def restore(self, state: Any) -> None:
        """See `Device`."""
        ports = state.get("streams") if isinstance(state, dict) else None
        if not isinstance(ports, list) or not all(map(_is_pair, ports)):
            raise RefusedError("a socket device's state without its connections")
        self._streams.restore([(guest, host) for guest, host in ports])
        self._reset_due = True

    def close(self) -> None:
        """See `Device`."""
        if self._callers is not None:
            self._callers.close()


def _is_pair(ports: Any) -> bool:
    """Whether these are a guest's and a host's port."""
    return (
        isinstance(ports, list)
        and len(ports) == 2
        and all(type(port) is int and 0 <= port <= MASK for port in ports)
    )
