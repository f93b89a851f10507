"""The state of guests' generators as something to compare, for the explorer.

A generator's state is its position, its locals, and how far the loops are in which it is: their iterators
are no locals.  A value is compared if it is of a built-in type, an enum's member, a dataclass or a struct, a
function with what it encloses, or an object with a method `key`, which returns its state.  What remains is
refused by its name: two states that differ in it alone would be taken for the same.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from types import BuiltinMethodType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

from msgspec import Struct

from hfsched.errors import IncomparableError

__all__ = ["frames", "key_of"]

_Form = Callable[[Any], Hashable]

_ATOMS = (int, str, bytes, float, type(None), range, type, Enum)


class _FormlessError(Exception):
    """Says what cannot be compared."""


def frames(guest: object) -> Hashable:
    """Return the states of a generator and of those that it delegates to, hashable.

    Raises IncomparableError.
    """
    out = []
    inner: object = guest
    while isinstance(inner, GeneratorType):
        frame = inner.gi_frame
        if frame is None:
            break
        where = frame.f_code.co_qualname
        local = tuple(
            (name, key_of(value, f"{where}: local variable {name}"))
            for name, value in sorted(frame.f_locals.items())
        )
        loops = tuple(key_of(each, f"{where}: the iterator of a loop") for each in _loops(inner))
        out.append((where, frame.f_lasti, local, loops))
        inner = inner.gi_yieldfrom
    return tuple(out)


def key_of(value: object, place: str) -> Hashable:
    """Return a guest's value as something hashable; `place` says where it is, for the error.

    Raises IncomparableError.
    """
    try:
        return _key(value)
    except _FormlessError as exc:
        why = str(exc)
    except RecursionError:
        why = f"a {type(value).__qualname__} that is nested too deeply, or contains itself, has no key"
    raise IncomparableError(f"{place}: {why}")


def _loops(guest: GeneratorType[Any, Any, Any]) -> Iterable[object]:
    """Return the iterators on a generator's stack: only the garbage collector looks there."""
    held = gc.get_referents(guest)
    return [
        each for each in held if isinstance(each, Iterator) and not isinstance(each, GeneratorType)
    ]


def _key(value: Any) -> Hashable:
    if isinstance(value, _ATOMS):
        return value
    kind = type(value)
    form = _KNOWN.get(kind)
    if form is None:
        form = _KNOWN[kind] = _form_of(kind)
    return (kind.__qualname__, form(value))


def _form_of(kind: type) -> _Form:
    """Return what makes the values of a type hashable; raises _FormlessError."""
    for kinds, form in _FORMS:
        if issubclass(kind, kinds):
            return form
    if callable(getattr(kind, "key", None)):
        return lambda value: value.key()
    if issubclass(kind, Struct):
        return _fields(kind.__struct_fields__)
    if is_dataclass(kind):
        return _fields([each.name for each in fields(kind)])
    if issubclass(kind, Iterator) and kind.__module__ in ("builtins", "itertools", "_collections"):
        return lambda value: _key(value.__reduce__())  # what it goes over, and where it is
    raise _FormlessError(
        f"a {kind.__qualname__} has no key: give it a method key that returns its state"
    )


def _fields(names: Sequence[str]) -> _Form:
    return lambda value: _sequence(getattr(value, name) for name in names)


def _sequence(values: Iterable[object]) -> Hashable:
    return tuple(_key(each) for each in values)


def _function(value: FunctionType) -> Hashable:
    enclosed = [cell.cell_contents for cell in value.__closure__ or ()]
    defaults = (value.__defaults__, value.__kwdefaults__)
    return (value.__module__, value.__qualname__, _key(defaults), _sequence(enclosed))


_FORMS: list[tuple[type | tuple[type, ...], _Form]] = [
    ((tuple, list), _sequence),
    (deque, lambda value: (value.maxlen, _sequence(value))),
    (dict, lambda value: _sequence(value.items())),
    ((set, frozenset), lambda value: frozenset(_key(each) for each in value)),
    (bytearray, bytes),
    (ModuleType, lambda value: value.__name__),
    (FunctionType, _function),
    (MethodType, lambda value: _key((value.__func__, value.__self__))),
    (BuiltinMethodType, lambda value: (value.__qualname__, _key(value.__self__))),
    (partial, lambda value: _key((value.func, value.args, value.keywords))),
    (GeneratorType, frames),
]
_KNOWN: dict[type, _Form] = {}
