"""The processes whose faults the monitor serves, as its controller uses them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hfsched.swap.protocol.messages import Register

__all__ = ["Processes"]


class Processes(Protocol):
    """The processes whose faults the monitor serves; each method may raise OSError."""

    def add(self, register: Register, fds: Sequence[int]) -> None:
        """Serve a process's faults, and wake all that wait there; takes over `fds`.

        Its ranges are registered with its uffd if those of the other members are.
        """

    def dead(self) -> Sequence[int]:
        """Return the numbers of the members that are dead."""

    def drop(self, member: int) -> None:
        """Remove a dead member."""
