"""Sockets and eventfds of other programs; see `hfsched.runtime.foreign`.

The descriptors' own flags are left as they are, for another process may share them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from hfsched.runtime.base import ChannelClosedError
from hfsched.runtime.threads.channel import FDS_MAX, poll_until, receive

__all__ = ["ForeignConnection", "ForeignEventFd", "ForeignListener"]

T = TypeVar("T")

_SEND = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_PEERCRED = struct.Struct("=iII")  # pid, uid, gid
_FULL = (errno.EAGAIN, errno.ENOBUFS)


@dataclass(frozen=True, slots=True)
class _Condition:
    """A condition of a socket that is not its being readable; `events` as of poll()."""

    sock: socket.socket
    events: int

    def fileno(self) -> int:
        return self.sock.fileno()


class ForeignEventFd:
    """See `hfsched.runtime.foreign.EventFd`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def signal(self) -> None:
        if poll_until((self._fd,), 0, select.POLLOUT):  # it may be one that waits
            with suppress(BlockingIOError):
                os.eventfd_write(self._fd, 1)

    def take(self) -> int:
        if poll_until((self._fd,), 0):
            with suppress(BlockingIOError):
                return os.eventfd_read(self._fd)
        return 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class ForeignConnection:
    """See `hfsched.runtime.foreign.Connection`."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.room = _Condition(sock, select.POLLOUT)
        self.hangup = _Condition(sock, 0)

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def peer_uid(self) -> int:
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size)
        uid: int = _PEERCRED.unpack(raw)[1]
        return uid

    def send(self, data: bytes, fds: Sequence[int] = ()) -> int:
        if not data or len(fds) > FDS_MAX:
            raise ValueError(f"there must be data, and at most {FDS_MAX} descriptors")
        try:
            if fds:
                return socket.send_fds(self._sock, [data], list(fds), _SEND)
            return self._sock.send(data, _SEND)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise ChannelClosedError from exc
        except OSError as exc:
            if exc.errno in _FULL:
                return 0
            raise

    def recv(self, size: int, deadline: int | None = None, *, peek: bool = False) -> bytes | None:
        flags = socket.MSG_PEEK if peek else 0
        return self._when_ready(deadline, lambda: self._sock.recv(size, flags))

    def recv_fds(
        self, size: int, count: int, deadline: int | None = None
    ) -> tuple[bytes, list[int]] | None:
        got = self._when_ready(deadline, lambda: receive(self._sock, size, count))
        if got is None:
            return None
        data, fds, complete = got
        if not complete:
            for fd in fds:
                os.close(fd)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return data, fds

    def _when_ready(self, deadline: int | None, take: Callable[[], T]) -> T | None:
        """Return what `take` returns when there is something, None at the deadline."""
        while deadline is None or poll_until((self._sock.fileno(),), deadline):
            try:
                return take()
            except BlockingIOError:  # the descriptor is one that does not wait
                poll_until((self._sock.fileno(),), deadline)
            except ConnectionResetError:
                # Said once: the peer left something unread, and is gone; what it sent is there.
                return take()
        return None

    def unread(self) -> int:
        raw = fcntl.ioctl(self._sock, termios.FIONREAD, bytes(4))
        count: int = struct.unpack("i", raw)[0]
        return count

    def limit_unsent(self, size: int) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def shutdown(self, *, receive: bool = False, send: bool = False) -> None:
        how = {(True, False): socket.SHUT_RD, (False, True): socket.SHUT_WR}
        with suppress(OSError):  # no peer is connected any more
            self._sock.shutdown(how.get((receive, send), socket.SHUT_RDWR))

    def close(self) -> None:
        self._sock.close()


class ForeignListener:
    """See `hfsched.runtime.foreign.Listener`; the listening socket is made non-blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> ForeignConnection | None:
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, ConnectionError):
            return None  # it went away again
        return ForeignConnection(sock)

    def close(self) -> None:
        self._sock.close()
