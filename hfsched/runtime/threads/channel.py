"""Waiting for descriptors, and channels between tasks and processes."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Sequence

from hfsched.runtime.base import ChannelClosedError

__all__ = ["FDS_MAX", "MESSAGE_MAX", "SocketEnd", "poll_until", "receive"]

MESSAGE_MAX = 1 << 16
FDS_MAX = 32
_NS = 1_000_000_000
_INT = struct.Struct("i")


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


class _Pollfd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


# Python's poll() rounds to milliseconds, too coarse for a guest's timer.
_ppoll = ctypes.CDLL(None, use_errno=True).ppoll
_ppoll.argtypes = (ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)


def poll_until(fds: Sequence[int], deadline: int | None, *events: int) -> list[int]:
    """Return the positions of the ready (or broken) descriptors, empty at the deadline.

    `events` is what each waits for: by default that it is readable.
    """
    wanted = events or (select.POLLIN,) * len(fds)
    array = (_Pollfd * len(fds))(*map(_Pollfd, fds, wanted))
    while True:
        timeout = None
        if deadline is not None:
            left = max(0, deadline - time.monotonic_ns())
            timeout = ctypes.byref(_Timespec(left // _NS, left % _NS))
        count = _ppoll(array, len(fds), timeout, None)
        if count > 0:
            return [i for i, entry in enumerate(array) if entry.revents]
        if count < 0:
            # A signal: its Python handler runs (and may raise) before the next iteration.
            if ctypes.get_errno() != 4:  # EINTR
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error))
        elif deadline is not None and time.monotonic_ns() >= deadline:
            return []


def receive(
    sock: socket.socket, size: int = MESSAGE_MAX, fds_max: int = FDS_MAX
) -> tuple[bytes, list[int], bool]:
    """Return a message, its descriptors, and whether there was room for all of these."""
    # socket.recv_fds ignores its flags in Python 3.11.
    data, ancillary, flags, _ = sock.recvmsg(
        size, socket.CMSG_LEN(fds_max * _INT.size), socket.MSG_CMSG_CLOEXEC
    )
    fds: list[int] = []
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            whole = len(content) - len(content) % _INT.size
            fds += [fd for (fd,) in _INT.iter_unpack(content[:whole])]
    return data, fds, not flags & socket.MSG_CTRUNC


class SocketEnd:
    """One end of a channel: an AF_UNIX seqpacket socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        if not data or len(data) > MESSAGE_MAX or len(fds) > FDS_MAX:
            raise ValueError(f"a message has 1 to {MESSAGE_MAX} bytes and at most {FDS_MAX} fds")
        try:
            if fds:
                socket.send_fds(self._sock, [data], list(fds))
            else:
                self._sock.send(data)
        except (BrokenPipeError, ConnectionResetError) as exc:
            raise ChannelClosedError from exc

    def recv(self, deadline: int | None = None) -> tuple[bytes, list[int]] | None:
        if deadline is not None and not poll_until((self._sock.fileno(),), deadline):
            return None
        try:
            data, fds, _ = receive(self._sock)
        except ConnectionResetError:
            # The peer has closed without reading all messages; reported once, before its own are read.
            data, fds, _ = receive(self._sock)
        if not data:  # empty messages are never sent
            raise ChannelClosedError
        return data, fds

    def close(self) -> None:
        self._sock.close()
