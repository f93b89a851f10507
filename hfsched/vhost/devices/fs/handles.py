"""What the guest has open: files and directories, by handles."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass

from hfsched.vhost.devices.fs.wire import fault

__all__ = ["KEPT_FLAGS", "Handle", "Handles"]

# Of the flags that a guest opens a file by, those that its handle has.  O_APPEND comes with each write, and O_TRUNC is done once.
KEPT_FLAGS = os.O_ACCMODE | os.O_SYNC | os.O_DSYNC


@dataclass(slots=True)
class Handle:
    """An open file or directory of a node; without a descriptor (-1) it is gone."""

    fd: int
    node: int
    flags: int
    directory: bool

    @property
    def writable(self) -> bool:
        """Whether it is a file that may have been written to."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Handles:
    """Handles by id, at most `limit` of them."""

    def __init__(self, limit: int, following: int = 1) -> None:
        self.limit = limit
        self.following = following  # the next id; none is used twice
        self._handles: dict[int, Handle] = {}

    def check_room(self) -> None:
        """Raise EMFILE when there is no room for a handle more."""
        if len(self._handles) >= self.limit:
            raise fault(errno.EMFILE)

    def add(self, handle: Handle) -> int:
        """Return the id of a new handle."""
        number = self.following
        self.following += 1
        self._handles[number] = handle
        return number

    def adopt(self, number: int, handle: Handle) -> None:
        """Have a handle of this id."""
        self._handles[number] = handle

    def get(self, number: int, node: int, *, directory: bool = False) -> Handle:
        """Return a handle of a node; EBADF when there is none of that kind, ESTALE when its file is gone."""
        handle = self._handles.get(number)
        if handle is None or handle.node != node or handle.directory != directory:
            raise fault(errno.EBADF)
        if handle.fd < 0:
            raise fault(errno.ESTALE)
        return handle

    def release(self, number: int, node: int, *, directory: bool) -> None:
        """Close a handle; EBADF when there is none of that kind."""
        handle = self._handles.get(number)
        if handle is None or handle.node != node or handle.directory != directory:
            raise fault(errno.EBADF)
        del self._handles[number]
        if handle.fd >= 0:
            os.close(handle.fd)

    def __iter__(self) -> Iterator[tuple[int, Handle]]:
        """Yield {id, handle} of all, those whose files are gone included."""
        return iter(self._handles.items())

    def __len__(self) -> int:
        return len(self._handles)

    def sync(self) -> None:
        """Have all that was written by handles be on its disk; raises OSError."""
        for _, handle in self:
            if handle.fd >= 0 and handle.writable:
                os.fsync(handle.fd)

    def clear(self) -> None:
        """Close all; ids go on."""
        for _, handle in self:
            if handle.fd >= 0:
                os.close(handle.fd)
        self._handles = {}
