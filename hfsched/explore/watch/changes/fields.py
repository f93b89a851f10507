"""Changes of fields, of the variables of a class, and of a variable of a closure."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import partial
from types import CellType, MemberDescriptorType
from typing import Any

from hfsched.explore.watch.changes.before import (
    MISSING,
    Difference,
    Places,
    Was,
    has_no_state,
    instead,
    others_of,
)
from hfsched.explore.watch.history import ALL
from hfsched.explore.watch.kinds import found_in
from hfsched.explore.watch.places import dict_of, fields_of

__all__ = ["Fields"]


class Fields(Places):
    """The fields of an object, the variables of a class, or a variable of a closure."""

    def _save(self, key: Hashable) -> None:
        if key is ALL:
            for name in fields_of(self.of):
                self._old.setdefault(name, Was(_field(self.of, name)))
        elif isinstance(key, str) and key not in self._old:
            self._old[key] = Was(_field(self.of, key))

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        for name, was in self._old.items():
            now = _field(self.of, name)
            if now is MISSING or was.equals(now) or has_no_state(now):
                continue
            others = others_of(was.value, now) + ([MISSING] if was.value is MISSING else [])
            put = partial(_set_field, self.of, name)
            variants = [partial(instead, put, each, now) for each in others]
            yield Difference(name, name, self._site(name), variants)


def _field(of: Any, name: str) -> Any:
    if type(of) is CellType:
        try:
            return of.cell_contents
        except ValueError:
            return MISSING
    if issubclass(type(of), type):
        return of.__dict__.get(name, MISSING)
    found = dict_of(of)
    if found is not None and name in found:
        return found[name]
    slot = found_in(type(of), name)
    if isinstance(slot, MemberDescriptorType):
        try:
            return slot.__get__(of)
        except AttributeError:
            return MISSING
    return MISSING


def _set_field(of: Any, name: str, value: Any) -> None:
    """Set a field as `object` does, also of a frozen object; raises TypeError or AttributeError where that cannot be."""
    if type(of) is CellType:
        if value is MISSING:
            del of.cell_contents
        else:
            of.cell_contents = value
        return
    if issubclass(type(of), type):
        if value is MISSING:
            type.__delattr__(of, name)
        else:
            type.__setattr__(of, name, value)
        return
    slot = found_in(type(of), name)
    found = dict_of(of)
    if isinstance(slot, MemberDescriptorType):
        if value is MISSING:
            slot.__delete__(of)
        else:
            slot.__set__(of, value)
    elif found is not None:
        if value is MISSING:
            dict.pop(found, name, None)
        else:
            dict.__setitem__(found, name, value)
    else:
        raise AttributeError(name)
