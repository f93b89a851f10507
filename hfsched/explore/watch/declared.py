"""Which fields are declared (`hfsched.runtime.declared`), asked for at each access to an attribute."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from hfsched.runtime.declared import Declaration

__all__ = ["DeclaredFields"]


class DeclaredFields:
    """Fields by their class; `found` has those that were asked for."""

    def __init__(self, declarations: Iterable[Declaration]) -> None:
        self._fields: set[tuple[type, Hashable]] = {
            (each.owner, each.field) for each in declarations
        }
        self._names = {name for _, name in self._fields}
        self.found: set[tuple[type, Hashable]] = set()

    def has(self, of: Any, name: Hashable) -> bool:
        """Return whether a field of an object, or of a class, is declared, in its class or a base."""
        if name not in self._names:
            return False
        kind = of if isinstance(of, type) else type(of)
        found = {(owner, name) for owner in kind.__mro__} & self._fields
        self.found |= found
        return bool(found)
