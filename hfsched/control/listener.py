"""The loop of a task that accepts clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, Event, Listener, Runtime

__all__ = ["accept"]

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
