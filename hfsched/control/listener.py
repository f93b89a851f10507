"""What both servers do with clients: accept them, and send one a packet that it may not take."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Event, Listener, Runtime

__all__ = ["accept", "offer"]

_RETRY_AFTER = 100_000_000  # ns; when the process has no descriptor left for a client


def accept(
    runtime: Runtime,
    listener: Listener,
    closing: Event,
    admit: Callable[[Connection], None],
) -> None:
    """Hand each client to `admit`, which owns it, until `closing`."""
    while closing not in runtime.select([listener, closing]):
        try:
            connection = listener.accept()
        except OSError:
            closing.wait(runtime.now() + _RETRY_AFTER)
            continue
        if connection is not None:
            admit(connection)


def offer(connection: Connection, packet: bytes) -> bool:
    """Send a packet if the client is connected and its socket has space; return whether it was sent."""
    with suppress(OSError, ChannelClosedError):
        return connection.send(packet) > 0
    return False
