"""A socket device with real sockets, and a front-end whose driver speaks packets."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path

from driver import WITHIN, FrontEnd
from vsock_guest import CID, Packet, decode, packet

from hfsched.control.named_socket import NamedSocket, dial
from hfsched.runtime.base import Connection
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vhost.devices.vsock import Vsock
from hfsched.vhost.devices.vsock.packet import Op

__all__ = ["BUFFERS", "EVENT", "PORT", "RX", "TX", "Bed", "exactly"]

RX, TX, EVENT = range(3)
BUFFERS = 16  # that the guest gives for packets
PORT = 80


class Bed:
    """A device with its sockets in a directory, and a front-end with the driver of a guest."""

    def __init__(
        self, stack: ExitStack, path: Path, features: int = -1, *, start: bool = True
    ) -> None:
        self.stack, self.path = stack, path
        path.mkdir(exist_ok=True)
        self.runtime = ThreadRuntime()
        stack.callback(self.runtime.close)
        self.device = self.make()
        self.front = stack.enter_context(FrontEnd(self.device, features=features, start=start))
        self.got: list[Packet] = []
        if start:
            self.fill(BUFFERS)

    def make(self) -> Vsock:
        made = NamedSocket(self.path / "uds", stream=True)
        listener = self.runtime.adopt_listener("uds", made.socket.detach())
        device = Vsock(CID, self._connect, listener)
        self.stack.callback(made.remove)
        self.stack.callback(device.close)
        return device

    def _connect(self, port: int) -> Connection | None:
        try:
            return self.runtime.adopt_connection("host", dial(self.path / f"uds_{port}").detach())
        except OSError:
            return None

    # The guest.

    def fill(self, count: int) -> None:
        """Give the device buffers of a page."""
        for _ in range(count):
            self.front.queues[RX].add(room=4096)
        self.front.queues[RX].kick()

    def send(self, sent: Packet) -> None:
        header, data = sent
        self.front.request(header.encode() + data, index=TX)

    def next(self) -> Packet:
        """Return the next packet of the device, and give it the buffer again."""
        if not self.got:
            found = self.front.wait(RX)
            self.got = [decode(data) for _, data in found]
            self.fill(len(found))
        return self.got.pop(0)

    def nothing_comes(self) -> bool:
        """Whether there is nothing more for the guest, when all was done that it asked for."""
        self.front.on_device(lambda: None)
        found = self.front.queues[RX].take()
        self.got += [decode(data) for _, data in found]
        self.fill(len(found))
        return not self.got

    # The host.

    def listen(self, port: int) -> socket.socket:
        made = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        made.settimeout(WITHIN)
        made.bind(os.fspath(self.path / f"uds_{port}"))
        made.listen()
        return made

    def call(self, says: bytes) -> socket.socket:
        """Connect as a host program does."""
        made = self.stack.enter_context(socket.socket(socket.AF_UNIX))
        made.settimeout(WITHIN)
        made.connect(os.fspath(self.path / "uds"))
        made.sendall(says)
        return made

    def open(self) -> socket.socket:
        """Connect guest port 1000 to host port 80; return the host's end."""
        with self.listen(PORT) as listener:
            self.send(packet(Op.REQUEST))
            header, _ = self.next()
            assert header.op == Op.RESPONSE
            sock = self.stack.enter_context(listener.accept()[0])
        sock.settimeout(WITHIN)
        return sock


def exactly(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        data = sock.recv(size - len(found))
        assert data, found
        found += data
    return found
