"""Answers FUSE requests: the session of a guest that mounts, and the operations of the rest."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from hfsched.vhost.devices.fs import wire
from hfsched.vhost.devices.fs.contents import WRITE_MAX, Contents
from hfsched.vhost.devices.fs.names import Names
from hfsched.vhost.devices.fs.share import Operation
from hfsched.vhost.devices.fs.wire import Header, InitFlag, Opcode, fault

if TYPE_CHECKING:
    from hfsched.vhost.devices.fs.share import Share

__all__ = ["REQUEST_MAX", "UNANSWERED", "Server"]

REQUEST_MAX = WRITE_MAX + 4096  # bytes: a write's, with room for headers; or two names or a link
UNANSWERED = (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT)
_INIT_ASKED = struct.Struct("<IIII")  # major, minor, readahead, flags
_OFFERED = (
    InitFlag.ASYNC_READ
    | InitFlag.ATOMIC_O_TRUNC
    | InitFlag.BIG_WRITES
    | InitFlag.AUTO_INVAL_DATA
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.CACHE_SYMLINKS
)
_PAGES_MAX = WRITE_MAX // 4096
_BACKGROUND, _CONGESTED = 64, 48  # requests that the guest has under way without waiting for them


class Server:
    """One guest's session with a share; `minor` is the protocol that was agreed on, 0 while nothing is mounted."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self.minor = 0
        self._operations: dict[int, Operation] = {
            Opcode.INIT: Operation(self._init, wire.INIT.size),
            Opcode.DESTROY: Operation(self._destroy),
            **Names(share).operations,
            **Contents(share).operations,
        }

    def note(self, header: Header, body: bytes) -> None:
        """Take a request that has no answer, one of `UNANSWERED`."""
        if header.opcode != Opcode.INTERRUPT:  # nothing is under way while another request comes
            for node, lookups in wire.forgotten(header.opcode, header.node, body):
                self._share.inodes.forget(node, lookups)

    def answer(self, header: Header, body: bytes, room: int) -> bytes:
        """Carry a request out, and return the payload of its reply, at most `room` bytes.  Raises OSError."""
        operation = self._operations.get(header.opcode)
        if operation is None:
            raise fault(errno.ENOSYS)
        if not self.minor and header.opcode != Opcode.INIT:
            raise fault(errno.EIO)
        if operation.payload > room:
            raise fault(errno.EINVAL)
        if operation.changes and self._share.read_only:
            raise fault(errno.EROFS)
        try:
            return operation.carry_out(header, body, room)
        except (OverflowError, ValueError):  # a number or a name that no call takes
            raise fault(errno.EINVAL) from None

    def _init(self, _header: Header, body: bytes, _room: int) -> bytes:
        """Begin a session: whatever was known before is not known any more."""
        major, minor, readahead, flags = wire.fields(_INIT_ASKED, body)
        if major < wire.MAJOR or (major == wire.MAJOR and minor < wire.MINOR_LEAST):
            raise fault(errno.EPROTO)
        self.end()
        if major == wire.MAJOR:  # a newer one asks again
            self.minor = min(minor, wire.MINOR)
        return wire.INIT.pack(
            wire.MAJOR,
            self.minor or wire.MINOR,
            readahead,
            flags & _OFFERED,
            _BACKGROUND,
            _CONGESTED,
            WRITE_MAX,
            1,  # ns: how fine times are
            _PAGES_MAX,
            0,
            0,
        )

    def _destroy(self, _header: Header, _body: bytes, _room: int) -> bytes:
        self.end()
        return b""

    def end(self) -> None:
        """Know and have open nothing, until the guest mounts again."""
        self.minor = 0
        self._share.clear()
