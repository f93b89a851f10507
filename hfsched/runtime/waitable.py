"""What `Runtime.select` waits for."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Waitable"]


class Waitable(Protocol):
    """Something `Runtime.select` can wait for."""

    def fileno(self) -> int:
        """Return the descriptor that becomes readable (production only)."""
