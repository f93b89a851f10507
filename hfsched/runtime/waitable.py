"""What `Runtime.select` waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Condition", "Waitable"]


class Waitable(Protocol):
    """Something `Runtime.select` can wait for."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable (production only)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a descriptor that is not its being readable; `events` as of poll() (production only)."""

    fd: int
    events: int

    def fileno(self) -> int:
        """See `Waitable`."""
        return self.fd
