"""A VM's counter, which does not advance while its machine is suspended."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Counts the ns of `now`, less those between `freeze` and `thaw` and those of `set_back`, or from what was `set`.

    Call both while no vCPU runs.
    """

    __slots__ = ("_frozen_at", "_frozen_total", "now")

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self._frozen_total = 0
        self._frozen_at: int | None = None

    def read(self) -> int:
        """Return the count."""
        return (self.now() if self._frozen_at is None else self._frozen_at) - self._frozen_total

    def freeze(self) -> None:
        """Stop counting."""
        if self._frozen_at is None:
            self._frozen_at = self.now()

    def thaw(self) -> None:
        """Resume counting from there."""
        if self._frozen_at is not None:
            self._frozen_total += self.now() - self._frozen_at
            self._frozen_at = None

    def set(self, count: int) -> None:
        """Show `count` (ns) from now on; call it between `freeze` and `thaw`."""
        assert self._frozen_at is not None
        self._frozen_total = self._frozen_at - count

    def set_back(self, ns: int) -> None:
        """Show `ns` less from now on; call it between `freeze` and `thaw`."""
        assert self._frozen_at is not None
        self._frozen_total += ns
