"""What is in a place, in bytes: to tell whether the same is there in another execution.

A value is shown whole as far as it cannot change; of what can, the class and its fields that cannot.  The order of a
dict's items and of a set's elements is not shown.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Hashable, Iterable
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import Any

from hfsched.explore.forms import FORMAT, fixed_form
from hfsched.explore.thing import Thing
from hfsched.explore.watch.history import ALL, SHAPE, Extent
from hfsched.explore.watch.kinds import CONTAINERS
from hfsched.explore.watch.places import fields_of, value_of

__all__ = ["shown"]

_CODE = (FunctionType, BuiltinFunctionType, ModuleType)


def shown(of: Any, key: Hashable) -> tuple[bytes, bool]:
    """Return what is in a place of an object, and whether that may change though nothing is written there.

    Nothing is shown of what is not there, or cannot be read now.
    """
    look = _Look()
    try:
        return look.place(of, key), look.changes
    except Exception:  # noqa: BLE001 - of any type
        return b"", False


class _Look:
    """One look; `changes` once something was shown that may change by itself."""

    def __init__(self) -> None:
        self.changes = False

    def place(self, of: Any, key: Hashable) -> bytes:
        """Return what is in a place."""
        kind = type(of)
        if isinstance(key, Extent):
            with memoryview(of) as view, view.cast("B") as data:
                return bytes(data[key.start : key.stop])
        if kind is CellType:
            return self._value(of.cell_contents)
        if not issubclass(kind, CONTAINERS):
            return self._fields(of) if key in (ALL, SHAPE) else self._value(value_of(of, str(key)))
        if issubclass(kind, dict):
            return self._of_dict(of, key)
        if issubclass(kind, set):
            return self._unordered(set.__iter__(of))
        if not issubclass(kind, list | deque):
            return bytes(of)
        base: Any = list if issubclass(kind, list) else deque
        if key is SHAPE or key is ALL:
            return marshal.dumps([self._value(each) for each in base.__iter__(of)], FORMAT)
        return self._value(base.__getitem__(of, key))

    def _of_dict(self, of: dict[Any, Any], key: Hashable) -> bytes:
        if key is SHAPE:
            return self._unordered(dict.__iter__(of))
        if key is ALL:
            pairs = [(self._value(each), self._value(value)) for each, value in dict.items(of)]
            return marshal.dumps(sorted(pairs), FORMAT)
        return self._value(dict.__getitem__(of, key))

    def _unordered(self, values: Iterable[Any]) -> bytes:
        return marshal.dumps(sorted(map(self._value, values)), FORMAT)

    def _value(self, value: Any) -> bytes:
        fixed = fixed_form(value)
        if fixed is not None:
            return fixed
        kind = type(value)
        if issubclass(kind, Thing):
            return marshal.dumps((kind.__qualname__, value.name), FORMAT)
        if kind is MethodType:
            of = self._value(value.__self__)
            return marshal.dumps((value.__func__.__qualname__, of), FORMAT)
        if kind in _CODE:
            name = getattr(value, "__qualname__", value.__name__)
            return marshal.dumps((kind.__qualname__, name), FORMAT)
        return self._fields(value)

    def _fields(self, of: Any) -> bytes:
        """Return an object's class, and its fields that cannot change."""
        self.changes = True
        kind = type(of)
        names = [] if issubclass(kind, CONTAINERS) else sorted({*fields_of(of)})
        values = [(name, fixed_form(value_of(of, name))) for name in names]
        return marshal.dumps((kind.__qualname__, values), FORMAT)
