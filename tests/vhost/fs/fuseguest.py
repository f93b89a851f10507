"""A guest's side of FUSE, through the device's own methods: no ring, no VM."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from hfsched.vhost.devices.fs import Fs
from hfsched.vhost.devices.fs.wire import ATTR, ENTRY, HEADER, REPLY_HEADER, ROOT, Opcode
from hfsched.vhost.errors import ChainError
from hfsched.vhost.queue import Queue
from hfsched.vhost.request import Request

__all__ = ["Attributes", "FakeRequest", "Guest", "raises", "send"]

Post = Callable[[bytes, int, int], bytes]  # a request and its room, on a queue; returns the reply

INIT = struct.pack("<IIII48x", 7, 37, 1 << 17, 0xFFFFFFFF)


@contextmanager
def raises(number: int) -> Iterator[None]:
    """Expect the error of an errno."""
    with pytest.raises(OSError) as caught:
        yield
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@dataclass
class FakeRequest:
    """See `hfsched.vhost.request.Request`; it has the driver's bytes and room in itself."""

    data: bytes
    write_size: int
    reply: bytearray = field(default_factory=bytearray)
    completed: int = 0

    @property
    def read_size(self) -> int:
        return len(self.data)

    def read(self, size: int | None = None, offset: int = 0) -> bytes:
        size = self.read_size - offset if size is None else size
        if not 0 <= offset <= offset + size <= self.read_size:
            raise ChainError(0, 1, "outside")
        return self.data[offset : offset + size]

    def write(self, data: Any, offset: int = 0) -> None:
        end = offset + len(data)
        if end > self.write_size:
            raise ChainError(0, 1, "outside")
        self.reply.extend(bytes(max(0, end - len(self.reply))))
        self.reply[offset:end] = data

    def complete(self, written: int | None = None) -> None:
        self.completed += 1


def send(device: Fs, data: bytes, room: int) -> bytes:
    """Have a device process any bytes; return its reply, nothing if it has none."""
    request = FakeRequest(data, room)
    device.process(cast("Queue", None), cast("Request", request))
    assert request.completed == 1
    return bytes(request.reply)


@dataclass
class Attributes:
    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int

    @classmethod
    def of(cls, data: bytes) -> Attributes:
        ino, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, nlink, uid, gid, *_ = (
            ATTR.unpack(data)
        )
        times = mtime * 10**9 + mtime_ns, atime * 10**9 + atime_ns
        return cls(ino, size, mode, nlink, uid, gid, *times)


class Guest:
    """Sends requests to a device, by its queues with `post`; a failure raises OSError with the errno of the reply."""

    def __init__(self, device: Fs, *, mount: bool = True, post: Post | None = None) -> None:
        self.device = device
        self._post = (lambda data, room, _index: send(device, data, room)) if post is None else post
        self.unique = 0
        if mount:
            self.call(Opcode.INIT, 0, INIT)

    def call(
        self,
        opcode: int,
        node: int = ROOT,
        body: bytes = b"",
        *,
        room: int = 4096,
        owner: tuple[int, int] = (0, 0),
    ) -> bytes:
        """Return the payload of the reply; there are `room` bytes for it."""
        self.unique += 1
        header = HEADER.pack(HEADER.size + len(body), opcode, self.unique, node, *owner, 1, 0, 0)
        reply = self._post(header + body, REPLY_HEADER.size + room, 1)
        length, error, unique = REPLY_HEADER.unpack_from(reply)
        assert unique == self.unique
        assert length == len(reply) <= REPLY_HEADER.size + room
        assert -512 < error <= 0
        if error:
            assert length == REPLY_HEADER.size
            raise OSError(-error, os.strerror(-error))
        return reply[REPLY_HEADER.size :]

    def note(self, opcode: int, node: int, body: bytes) -> None:
        """Send what has no reply."""
        header = HEADER.pack(HEADER.size + len(body), opcode, 0, node, 0, 0, 1, 0, 0)
        assert self._post(header + body, 0, 0) == b""

    @staticmethod
    def entry(payload: bytes) -> int:
        """Return the node of a payload that begins with one."""
        return int(ENTRY.unpack_from(payload)[0])

    # The operations, as far as tests need them more than once.

    def look_up(self, *names: bytes) -> int:
        """Return the node at a path; those on the way stay looked up."""
        node = ROOT
        for name in names:
            node = self.entry(self.call(Opcode.LOOKUP, node, name + b"\0"))
        return node

    def forget(self, node: int, lookups: int = 1) -> None:
        self.note(Opcode.FORGET, node, struct.pack("<Q", lookups))

    def attributes(self, node: int) -> Attributes:
        return Attributes.of(self.call(Opcode.GETATTR, node, bytes(16))[16:])

    def open(self, node: int, flags: int = os.O_RDWR) -> int:
        return handle(self.call(Opcode.OPEN, node, struct.pack("<II", flags, 0)))

    def create(
        self,
        name: bytes,
        parent: int = ROOT,
        flags: int = os.O_RDWR,
        mode: int = 0o644,
        **more: Any,
    ) -> tuple[int, int]:
        """Return {node, handle}."""
        body = struct.pack("<IIII", flags, mode, 0o22, 0) + name + b"\0"
        payload = self.call(Opcode.CREATE, parent, body, **more)
        return self.entry(payload), handle(payload[128:])

    def read(self, node: int, number: int, offset: int, size: int) -> bytes:
        body = struct.pack("<QQIIQII", number, offset, size, 0, 0, 0, 0)
        return self.call(Opcode.READ, node, body, room=size)

    def write(
        self, node: int, number: int, offset: int, data: bytes, flags: int = 0, how: int = 0
    ) -> int:
        body = struct.pack("<QQIIQII", number, offset, len(data), how, 0, flags, 0) + data
        return int(struct.unpack("<II", self.call(Opcode.WRITE, node, body))[0])

    def open_directory(self, node: int = ROOT) -> int:
        return handle(self.call(Opcode.OPENDIR, node, bytes(8)))

    def list(
        self, node: int, number: int, size: int = 4096, *, plus: bool = False
    ) -> list[tuple[bytes, int, int]]:
        """Return {name, inode number, node} of all entries."""
        found: list[tuple[bytes, int, int]] = []
        offset = 0
        while True:
            body = struct.pack("<QQIIQII", number, offset, size, 0, 0, 0, 0)
            opcode = Opcode.READDIRPLUS if plus else Opcode.READDIR
            payload = self.call(opcode, node, body, room=size)
            if not payload:
                return found
            at = 0
            while at < len(payload):
                known = self.entry(payload[at:]) if plus else 0
                at += 128 if plus else 0
                inode, offset, length, _ = struct.unpack_from("<QQII", payload, at)
                found.append((payload[at + 24 : at + 24 + length], inode, known))
                at += (24 + length + 7) & ~7


def handle(payload: bytes) -> int:
    number, flags, _ = struct.unpack("<QII", payload)
    assert not flags
    return int(number)
