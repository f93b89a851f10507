"""A shared directory with what the guest knows and has open of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.vhost.devices.fs.handles import Handles
    from hfsched.vhost.devices.fs.inodes import Inodes, Node, Root
    from hfsched.vhost.devices.fs.wire import Header

__all__ = ["Operation", "Share"]

_PRIVATE = 0o600  # until its owner and mode are set


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done for a request: `carry_out(header, body, room)` returns the payload of the reply.

    It raises OSError.  It is called only when there is room for `payload` bytes, and returns no more than fit.
    """

    carry_out: Callable[[Header, bytes, int], bytes]
    payload: int = 0
    changes: bool = False  # refused by a read-only share


@dataclass(slots=True)
class Share:
    """Made by the device; the operations use it."""

    root: Root
    inodes: Inodes
    handles: Handles
    read_only: bool

    def clear(self) -> None:
        """Know and have open nothing."""
        self.handles.clear()
        self.inodes.clear()

    def create(self, parent: Node, name: bytes, flags: int, mode: int, header: Header) -> int:
        """Create a regular file that is not there, and return it open."""
        fd = os.open(
            name,
            flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
            _PRIVATE,
            dir_fd=parent.fd,
        )
        try:
            self.own(parent, fd, mode, header)
        except OSError:
            os.close(fd)
            raise
        return fd

    def own(self, parent: Node, fd: int, mode: int, header: Header) -> None:
        """Give what was just made in a directory its owner, who asked for it, and its mode.

        Without the privilege for it the owner stays.
        """
        made = os.fstat(fd)
        inherits = bool(os.fstat(parent.fd).st_mode & stat.S_ISGID)
        path, proc = self.root.name(fd), self.root.proc
        if os.geteuid() == made.st_uid == 0:
            os.chown(path, header.uid, -1 if inherits else header.gid, dir_fd=proc)
        if not stat.S_ISLNK(made.st_mode):
            kept = stat.S_ISGID if inherits and stat.S_ISDIR(made.st_mode) else 0
            os.chmod(path, mode & 0o7777 | kept, dir_fd=proc)
