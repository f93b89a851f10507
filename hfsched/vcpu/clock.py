"""A VM's counter, which stands still while its machine is suspended."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Clock"]


class Clock:
    """Counts the ns of `now`, less those between `freeze` and `thaw`.

    Both are called while no vCPU runs.
    """

    __slots__ = ("_behind", "_stood", "now")

    def __init__(self, now: Callable[[], int]) -> None:
        self.now = now
        self._behind = 0
        self._stood: int | None = None

    def read(self) -> int:
        """Return the count."""
        return (self.now() if self._stood is None else self._stood) - self._behind

    def freeze(self) -> None:
        """Stand still from now on."""
        if self._stood is None:
            self._stood = self.now()

    def thaw(self) -> None:
        """Go on from there."""
        if self._stood is not None:
            self._behind += self.now() - self._stood
            self._stood = None
