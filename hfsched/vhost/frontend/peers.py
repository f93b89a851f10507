"""What a front-end needs of the edge of the program, and whom it tells what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hfsched.runtime.base import Connection, EventFd

__all__ = ["Driver", "Peers"]


class Peers(Protocol):
    """Opens what is outside.  Each raises OSError."""

    def connect(self) -> Connection:
        """Connect to the back-end; does not wait."""

    def eventfd(self, name: str) -> tuple[EventFd, int]:
        """Return a new eventfd, and its descriptor, which is closed with it."""

    def pair(self, name: str) -> tuple[Connection, int]:
        """Return both ends of a new connection, the second one as a descriptor."""

    def close(self, fd: int) -> None:
        """Close a descriptor."""


class Driver(Protocol):
    """Who is told what the device does; on the front-end's task, without a lock.  None may block."""

    def used(self) -> None:
        """Learn that requests were given back."""

    def config_changed(self) -> None:
        """Learn that the configuration space is another than before."""

    def need_reset(self) -> None:
        """Learn that nothing goes on until the driver resets the device."""
