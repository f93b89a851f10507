"""Connections and eventfds that this process makes, for programs that it talks to by a path.

`Runtime` only adopts such descriptors; this is where they are opened.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, EventFd, Runtime

__all__ = ["PathPeers"]


class PathPeers:
    """Opens what a front-end needs of a program that listens at `path`.  Each method raises OSError."""

    def __init__(self, runtime: Runtime, path: str) -> None:
        self._runtime = runtime
        self._path = path

    def connect(self) -> Connection:
        """Connect, without waiting: who has too many that wait refuses."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.connect(self._path)
        except BaseException:
            sock.close()
            raise
        return self._runtime.adopt_connection(self._path, sock.detach())

    def eventfd(self, name: str) -> tuple[EventFd, int]:
        """Return a new eventfd and its descriptor."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return self._runtime.adopt_eventfd(name, fd), fd

    def pair(self, name: str) -> tuple[Connection, int]:
        """Return both ends of a new connection, the second one as a descriptor."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return self._runtime.adopt_connection(name, ours.detach()), theirs.detach()

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)
