"""Canonical encodings: values are equal to a search exactly if their encodings are.

Python's ``==`` and `hash` do not serve that: ``hash(-1) == hash(-2)``, and ``1 == True == 1.0``.  An
encoding says the type of each part, the sign of a zero, the order of a dict, and not the order of a set;
it is the same in every process.  `digest` is its 128-bit BLAKE2b hash.

An object is encoded by what its method ``key`` returns, else by the fields of its dataclass or struct,
an enum's member by its name, a class by its name.  What remains, such as an object that equals nothing but
itself, a function, or a NaN (which does not even equal itself), has no canonical form: it is refused.

Implementation note.  `marshal` in format 2 is a canonical encoding of values of the built-in types, written
in C: it has no references and no mark of interned strings, and sets are sorted by encodings.  It takes
every buffer for bytes, and a NaN for a number, so where its output may have one the slower way below
decides.  The first byte tells the two ways apart.
"""

from __future__ import annotations

import marshal
import re
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from hashlib import blake2b
from typing import Any

from msgspec import Struct

from hfsched.errors import UserError

__all__ = [
    "ATOMS",
    "SIZE",
    "NoCanonicalFormError",
    "RefusedError",
    "digest",
    "encode",
    "unkeyed_lock",
]

SIZE = 16  # bytes of a digest
FORMAT = 2  # of `marshal`
ATOMS = frozenset((int, str, bytes, bool, type(None)))  # each is its own canonical form
BUILT_IN = b"b"
OTHER = b"o"

# A binary NaN (or infinity), and a buffer of less than 16 MiB: where one may be in marshal's output.
_SUSPECT = re.compile(rb"(?:[gy]|y.{8}).{6}[\xf0-\xff][\x7f\xff]|s...\x00", re.DOTALL)
_LONG = 1 << 24  # bytes

Form = Callable[[Any], object]


class RefusedError(UserError):
    """The explorer cannot vouch for a search of this scenario; the text says what stands in the way."""


class NoCanonicalFormError(RefusedError):
    """A value that is compared has a part without a canonical form."""


def unkeyed_lock(name: str) -> RefusedError:
    """Return the refusal of a search whose states leave out what a lock guards."""
    return RefusedError(
        f"lock {name}: states cannot be compared without what it guards: give it state=, which returns all"
        " of that, or state=guards_nothing (hfsched.runtime.base); or search by a strategy that compares no"
        " states, such as pos"
    )


class _FormlessError(Exception):
    """Says why a value has no canonical form."""


def encode(value: Any, place: str) -> bytes:
    """Return the canonical encoding of a value; `place` says where it is, for the error.

    Raises NoCanonicalFormError.
    """
    try:
        data = marshal.dumps(value, FORMAT)
    except ValueError:  # of another type, or too deep
        return OTHER + _encode_form(value, place)
    if (len(data) >= _LONG or _SUSPECT.search(data) is not None) and not _built_in(value):
        return OTHER + _encode_form(value, place)
    return BUILT_IN + data


def digest(value: Any, place: str) -> bytes:
    """Return the 128-bit digest of a value's canonical encoding; raises NoCanonicalFormError."""
    return blake2b(encode(value, place), digest_size=SIZE).digest()


def _built_in(value: Any) -> bool:
    """Return whether a value that `marshal` takes has no buffer but bytes, and no NaN."""
    kind = type(value)
    if kind in (tuple, list, set, frozenset):
        return all(type(each) in ATOMS or _built_in(each) for each in value)
    if kind is dict:
        return _built_in([*value, *value.values()])
    if kind in (float, complex):
        return bool(value == value)  # noqa: PLR0124 - which a NaN is not
    return kind in ATOMS or value is ...


def _encode_form(value: object, place: str) -> bytes:
    try:
        return marshal.dumps(_form(value), FORMAT)
    except _FormlessError as exc:
        why = str(exc)
    except (RecursionError, ValueError):
        why = f"a {type(value).__name__} that is nested too deeply, or contains itself"
    raise NoCanonicalFormError(f"{place}: {why} has no canonical form to compare states by")


# The slower way: a tree of atoms, floats, and tuples whose first element says what they stand for.


def _form(value: Any) -> Any:
    kind = type(value)
    if kind in ATOMS:
        return value
    return (_FORMS.get(kind) or _form_of(kind))(value)


def _float(value: float) -> object:
    if value != value:  # noqa: PLR0124 - this is what makes it a NaN
        raise _FormlessError("a float that is NaN")
    return value


def _complex(value: complex) -> object:
    return ("complex", _float(value.real), _float(value.imag))


def _sequence(name: str) -> Form:
    def form(value: Any) -> object:
        return (name, *[each if type(each) in ATOMS else _form(each) for each in value])

    return form


def _set(name: str) -> Form:
    return lambda value: (name, *sorted(marshal.dumps(_form(each), FORMAT) for each in value))


def _mapping(value: Mapping[Any, Any]) -> object:
    return ("dict", *[(_form(key), _form(item)) for key, item in value.items()])


_FORMS: dict[type, Form] = {
    float: _float,
    complex: _complex,
    tuple: _sequence("tuple"),
    list: _sequence("list"),
    set: _set("set"),
    frozenset: _set("frozenset"),
    dict: _mapping,
    bytearray: lambda value: ("bytearray", bytes(value)),
    deque: lambda value: ("deque", value.maxlen, *map(_form, value)),
    type(...): lambda _value: ("ellipsis",),
    range: lambda value: ("range", value.start, value.stop, value.step),
}
_BASES = (int, str, bytes, float, tuple, list, dict, set, frozenset, bytearray)


def _form_of(kind: type) -> Form:
    """Return the form of another type's values, and keep it."""
    name = f"{kind.__module__}.{kind.__qualname__}"
    form = _FORMS[kind] = _find_form(kind, name)
    return form


def _find_form(kind: type, name: str) -> Form:
    if issubclass(kind, type):
        return lambda value: ("class", value.__module__, value.__qualname__)
    if issubclass(kind, Flag):
        return lambda value: ("flag", name, value.value)
    if issubclass(kind, Enum):
        return lambda value: ("enum", name, value.name)
    if callable(getattr(kind, "key", None)):
        return lambda value: ("object", name, _form(value.key()))
    if issubclass(kind, Struct):
        return _fields(name, kind.__struct_fields__)
    if is_dataclass(kind):
        return _fields(name, tuple(each.name for each in fields(kind)))
    for base in _BASES:
        if issubclass(kind, base):
            inner = _FORMS.get(base, base)
            return lambda value: ("sub", name, inner(value), _form(getattr(value, "__dict__", {})))

    def refuse(_value: object) -> object:
        raise _FormlessError(
            f"a {kind.__qualname__} (give it a method key that returns its state)"
            if kind.__module__ != "builtins"
            else f"a {kind.__qualname__}"
        )

    return refuse


def _fields(name: str, names: tuple[str, ...]) -> Form:
    return lambda value: ("fields", name, *[_form(getattr(value, each)) for each in names])
