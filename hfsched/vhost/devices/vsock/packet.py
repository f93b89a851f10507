"""Packets (virtio 1.3, section 5.10.6): a header, and the bytes of RW packets."""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from msgspec import Struct

__all__ = ["HEADER_SIZE", "HOST_CID", "MASK", "PACKET_MAX", "STREAM", "Header", "Op", "Shutdown"]

_HEADER = struct.Struct("<QQIIIHHIII")
HEADER_SIZE = _HEADER.size  # bytes
HOST_CID = 2
STREAM = 1  # the type of packets
PACKET_MAX = 1 << 16  # bytes of an RW packet that we send: as many as drivers do
MASK = 0xFFFF_FFFF  # counters and sizes are modulo 2^32


class Op(IntEnum):
    """What a packet says."""

    REQUEST = 1
    RESPONSE = 2
    RST = 3
    SHUTDOWN = 4
    RW = 5
    CREDIT_UPDATE = 6
    CREDIT_REQUEST = 7


class Shutdown(IntFlag):
    """The flags of SHUTDOWN: its sender will receive no more, send no more."""

    RECEIVE = 1
    SEND = 2
    BOTH = 3


class Header(Struct, frozen=True):
    """A packet's header; `size` bytes follow.

    `buffer` is the size of its sender's buffer for this connection, `forwarded` how many bytes have left it (modulo 2^32).
    """

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    size: int
    type: int
    op: int  # an `Op`, of which a guest may send any number
    flags: int = 0
    buffer: int = 0
    forwarded: int = 0

    def encode(self) -> bytes:
        """Return its `HEADER_SIZE` bytes."""
        return _HEADER.pack(
            self.source_cid,
            self.target_cid,
            self.source_port,
            self.target_port,
            self.size,
            self.type,
            self.op,
            self.flags,
            self.buffer,
            self.forwarded,
        )

    @classmethod
    def decode(cls, data: bytes) -> Header:
        """Return the header in `HEADER_SIZE` bytes, any of which are one."""
        return cls(*_HEADER.unpack(data))
