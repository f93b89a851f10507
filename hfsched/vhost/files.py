"""What a handler does with the descriptors of a front-end; a model replaces it in exploration."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path

from hfsched.errors import UserError
from hfsched.memory.ram import sealed_memfd
from hfsched.runtime.waitable import Condition
from hfsched.vhost.mapping import Mapping, map_file

__all__ = ["Files", "StateFile"]

_PART = 4096  # bytes that a pipe takes, or has, without waiting, when poll says that it is ready


class StateFile:
    """The pipe, socket or file by which a device's state travels; it owns the descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.room = Condition(fd, select.POLLOUT)

    def fileno(self) -> int:
        """See `Waitable`."""
        return self._fd

    def read(self) -> bytes:
        """Return what is there, when it is ready to be read; nothing: the end.  Raises OSError."""
        return os.read(self._fd, 1 << 16)

    def write(self, data: bytes | memoryview) -> int:
        """Write a part, when there is room; return its bytes.  Raises OSError."""
        return os.write(self._fd, data[:_PART])

    def close(self) -> None:
        """Close it; the second call does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Files:
    """See the module's text."""

    map = staticmethod(map_file)
    close = staticmethod(os.close)
    state_file = StateFile

    @staticmethod
    def check_eventfd(fd: int) -> None:
        """Raise UserError for what is no eventfd: anything else may block, or be ready for ever."""
        with suppress(OSError):
            if str(Path(f"/proc/self/fd/{fd}").readlink()) == "anon_inode:[eventfd]":
                return
        raise UserError("a ring's descriptor that is no eventfd")

    @staticmethod
    def make(size: int) -> tuple[int, Mapping]:
        """Return a new memfd, the caller's, and its mapping; raises UserError."""
        try:
            fd = sealed_memfd("hfsched:inflight", size)
        except OSError as exc:
            raise UserError(f"memory of {size} bytes: {exc.strerror}") from None
        try:
            return fd, map_file(fd, 0, size)
        except BaseException:
            os.close(fd)
            raise
