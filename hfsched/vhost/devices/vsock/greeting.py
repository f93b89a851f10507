"""What a host program says first, `CONNECT <port>` and a line feed, and what it is answered.

The convention is that of Firecracker, cloud-hypervisor and vhost-device-vsock.  A program that says anything else, or whose
connection the guest refuses, finds its own closed.
"""

from __future__ import annotations

import re

from hfsched.vhost.devices.vsock.packet import MASK

__all__ = ["LINE_MAX", "Greeting", "answer"]

LINE_MAX = 32  # bytes, with the line feed
_LINE = re.compile(rb"CONNECT +([0-9]{1,10})\r?\n", re.IGNORECASE)


class Greeting:
    """The line as it comes, in pieces.  After `take`: `port` is that of the guest once the line is whole, `failed` that it is none."""

    def __init__(self) -> None:
        self._line = b""
        self.port: int | None = None
        self.failed = False

    def take(self, data: bytes) -> int:
        """Take what was peeked at; return how many bytes of it belong to the line.  Empty is the end: it is none."""
        end = data.find(b"\n") + 1
        taken = end or len(data)
        self._line += data[:taken]
        if end and len(self._line) <= LINE_MAX and (found := _LINE.fullmatch(self._line)):
            self.port = int(found[1])
        self.failed = self.port is None and bool(end or not data or len(self._line) >= LINE_MAX)
        self.failed |= self.port is not None and self.port >= MASK  # which stands for any port
        return taken


def answer(port: int) -> bytes:
    """Return what a program is told whose connection the guest has accepted: the host's port of it."""
    return b"OK %d\n" % port
