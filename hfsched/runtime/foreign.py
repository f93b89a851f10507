"""Sockets and eventfds whose other side is not this runtime's: another program, or the kernel.

The runtime opens none by a path.  Its caller, at the edge of the program, opens and binds; the runtime
adopts the descriptor (`Runtime.adopt_listener` and the like) and owns it from then on.  An explorer has
models of them.

None of these waits but `Connection.recv`; to wait for several, or for room, use `Runtime.select`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hfsched.runtime.waitable import Waitable

__all__ = ["Connection", "EventFd", "Listener"]


class EventFd(Waitable, Protocol):
    """A counter that another program or the kernel signals, or is signalled by; ready when above 0."""

    def signal(self) -> None:
        """Add 1; without effect on a counter that is full, which is signalled already."""

    def take(self) -> int:
        """Return the counter (1 for a semaphore), which is 0 (less by 1) afterwards; 0: not signalled."""

    def close(self) -> None:
        """Close it; the second call does nothing."""


class Connection(Waitable, Protocol):
    """A connected socket, of bytes (stream) or of packets; ready when `recv` would not wait.

    The operating system's failures are OSErrors; a peer that is gone is a `ChannelClosedError` to who
    sends, the end to who receives.
    """

    @property
    def room(self) -> Waitable:
        """Ready when there may be room to send, or the peer is gone."""

    @property
    def hangup(self) -> Waitable:
        """Ready when the peer is gone, or both directions are shut down."""

    @property
    def peer_uid(self) -> int:
        """The user that the peer had when it connected, or listened, by the kernel's word."""

    def send(self, data: bytes, fds: Sequence[int] = ()) -> int:
        """Send a packet, or as many bytes as have room, with descriptors (at most 32).

        Return the number of bytes: 0 if there is no room now.  `data` is not empty.
        Raises ChannelClosedError.
        """

    def recv(self, size: int, deadline: int | None = None, *, peek: bool = False) -> bytes | None:
        """Return bytes, or a packet cut to `size`; empty: the end; None: the deadline (ns) has passed.

        `peek` leaves it there.  Descriptors that came along are closed.
        """

    def recv_fds(
        self, size: int, count: int, deadline: int | None = None
    ) -> tuple[bytes, list[int]] | None:
        """Return what `recv` does, and up to `count` descriptors; the caller's from here on.

        Raises OSError, with EMFILE, and closes those that came, if some could not be received.
        """

    def unread(self) -> int:
        """Return how many bytes have come and were not received."""

    def limit_unsent(self, size: int) -> None:
        """Let about `size` bytes at most be on their way to the peer."""

    def shutdown(self, *, receive: bool = False, send: bool = False) -> None:
        """End a direction: a `recv` returns the end, the peer reads the end; tasks that wait wake up."""

    def close(self) -> None:
        """Close it; the second call does nothing."""


class Listener(Waitable, Protocol):
    """A socket that is connected to; ready when a connection waits."""

    def accept(self) -> Connection | None:
        """Return the connection that waits longest, None if none does; OSError: it cannot be had now."""

    def close(self) -> None:
        """Close it; the second call does nothing."""
