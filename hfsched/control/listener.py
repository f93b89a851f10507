"""The loop of a task that accepts clients."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Event, Runtime

__all__ = ["accept"]

_RETRY_AFTER = 100_000_000  # ns; when the process has no descriptor left for a client


def accept(
    runtime: Runtime,
    listener: socket.socket,
    closing: Event,
    admit: Callable[[socket.socket], None],
) -> None:
    """Hand each client of a non-blocking listener to `admit`, which owns it, until `closing`."""
    while closing not in runtime.select([listener, closing]):
        try:
            sock, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            continue  # it went away again
        except OSError:
            closing.wait(runtime.now() + _RETRY_AFTER)
            continue
        admit(sock)
