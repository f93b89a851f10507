"""Forms of values: the slower way to a canonical encoding (see `hfsched.explore.canonical`).

A form is a tree of atoms, floats, and tuples whose first element says what they stand for.  What can change
and occurs more than once in a value is written out where it occurs first, and is a reference elsewhere, by
its number in the order of the walk.  What cannot change is written out each time.
"""

from __future__ import annotations

import marshal
import sys
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from enum import Enum, Flag
from itertools import groupby
from types import (
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any

from msgspec import Struct

from hfsched.runtime import declared

__all__ = ["ATOMS", "FORMAT", "FormlessError", "fixed_form", "form"]

FORMAT = 2  # of `marshal`
ATOMS = frozenset((int, str, bytes, bool, type(None)))  # each is its own canonical form

# What can change and was met before, by id: its number, and it itself, so that no other one gets its id.
# None for a number: a member of a set that others there equal, so that it has none.
_Seen = dict[int, tuple[int | None, object]]
_Make = Callable[[Any, _Seen], object]


class FormlessError(Exception):
    """Says why a value has no canonical form."""


class _Absent:
    """Stands for a field that is not set."""


_ABSENT = _Absent()


def form(value: Any, seen: _Seen) -> Any:
    """Return the form of a value; raises FormlessError."""
    kind = type(value)
    if kind in ATOMS:
        return value
    make, changes = _FORMS.get(kind) or _form_of(kind)
    if not changes:
        return make(value, seen)
    known = seen.get(id(value))
    if known is not None:
        if known[0] is None:
            raise FormlessError(
                f"a set with equal members, and a {kind.__qualname__} in one of them,"
            )
        return ("ref", known[0])
    made = make(value, seen)
    seen[id(value)] = (len(seen), value)
    return made


def fixed_form(value: Any) -> bytes | None:
    """Return the form of a value in bytes if nothing in it can change, else None; also if it has none."""
    kind = type(value)
    if kind not in ATOMS and (_FORMS.get(kind) or _form_of(kind))[1]:
        return None
    seen: _Seen = {}
    try:
        made = marshal.dumps(form(value, seen), FORMAT)
    except (FormlessError, RecursionError, ValueError):
        return None
    return None if seen else made


# The built-in types: by the methods of these themselves, which a subclass may have others instead of.


def _float(value: float, _seen: _Seen) -> object:
    number = float.__float__(value)
    if number != number:  # noqa: PLR0124 - this is what makes it a NaN
        raise FormlessError("a float that is NaN")
    return number


def _complex(value: complex, seen: _Seen) -> object:
    return ("complex", _float(value.real, seen), _float(value.imag, seen))


def _sequence(kind: type) -> _Make:
    name, items = kind.__name__, kind.__iter__  # type: ignore[attr-defined]

    def make(value: Any, seen: _Seen) -> object:
        return (name, *[each if type(each) in ATOMS else form(each, seen) for each in items(value)])

    return make


def _set(kind: type) -> _Make:
    name, items = kind.__name__, kind.__iter__  # type: ignore[attr-defined]

    def make(value: Any, seen: _Seen) -> object:
        parts, changing = [], []
        for each in items(value):
            own: _Seen = {}
            part = marshal.dumps(form(each, own), FORMAT)
            if own:
                changing.append((part, each, own))
            else:
                parts.append(part)
        return (name, *sorted([*parts, *_referring(changing, seen)]))

    return make


def _referring(members: list[tuple[bytes, object, _Seen]], seen: _Seen) -> Iterator[bytes]:
    """Return the encodings of a set's members that can change, or have parts that can.

    They are numbered in the order of what they are by themselves; equal ones have no order.
    """
    for _, group in groupby(sorted(members, key=lambda each: each[0]), key=lambda each: each[0]):
        equal = list(group)
        for part, each, own in equal:
            if len(equal) == 1:
                yield marshal.dumps(form(each, seen), FORMAT)
                continue
            if not own.keys().isdisjoint(seen):
                raise FormlessError("a set with equal members, parts of which occur elsewhere,")
            seen.update((key, (None, of)) for key, (_, of) in own.items())
            yield part


def _mapping(kind: type) -> _Make:
    items = kind.items  # type: ignore[attr-defined]

    def make(value: Any, seen: _Seen) -> object:
        return ("dict", *[(form(key, seen), form(item, seen)) for key, item in items(value)])

    return make


def _deque(value: deque[Any], seen: _Seen) -> object:
    return ("deque", value.maxlen, *[form(each, seen) for each in value])


# For each type its form, and whether its values can change.
_FORMS: dict[type, tuple[_Make, bool]] = {
    float: (_float, False),
    complex: (_complex, False),
    tuple: (_sequence(tuple), False),
    list: (_sequence(list), True),
    set: (_set(set), True),
    frozenset: (_set(frozenset), False),
    dict: (_mapping(dict), True),
    bytearray: (lambda value, _seen: ("bytearray", bytes(bytearray.copy(value))), True),
    deque: (_deque, True),
    type(...): (lambda _value, _seen: ("ellipsis",), False),
    range: (lambda value, _seen: ("range", value.start, value.stop, value.step), False),
    _Absent: (lambda _value, _seen: ("absent",), False),
}
_args_of: Any = vars(BaseException)["args"].__get__
# What objects of subclasses of these have beside their fields, and whether that can change.
_CONTENTS: dict[type, tuple[_Make, bool]] = {
    int: (lambda value, _seen: int.__int__(value), False),
    str: (lambda value, _seen: str.__str__(value), False),
    bytes: (lambda value, _seen: bytes.__getitem__(value, slice(None)), False),
    OrderedDict: (_mapping(OrderedDict), True),
    **{each: _FORMS[each] for each in (float, tuple, list, dict, set, frozenset, bytearray)},
    BaseException: (lambda value, seen: form(_args_of(value), seen), True),
}
_IN_C = {*_CONTENTS, defaultdict, Exception, *Struct.__mro__}  # whose whole state is known here


# All other types.


def _form_of(kind: type) -> tuple[_Make, bool]:
    """Return the form of another type's values, and keep it."""
    found = _FORMS[kind] = _find_form(kind)
    return found


def _find_form(kind: type) -> tuple[_Make, bool]:
    if issubclass(kind, type):
        return _class, False
    if not _is_named(kind):
        return _refusal(f"a {kind.__qualname__} (its class {_NAMELESS})")
    name = f"{kind.__module__}.{kind.__qualname__}"
    if issubclass(kind, Enum):
        return _member(kind, name), False
    base = next((each for each in _CONTENTS if issubclass(kind, each)), None)
    content = None if base is None else _CONTENTS[base]
    if callable(getattr(kind, "key", None)):
        make: _Make = lambda value, seen: ("object", name, form(value.key(), seen))  # noqa: E731
        return make, _can_change(kind, content)
    has_fields = issubclass(kind, Struct) or is_dataclass(kind)
    if not has_fields and (base is None or base is BaseException):
        give = (
            ""
            if kind.__module__ == "builtins"
            else " (give it a method key that returns its state)"
        )
        return _refusal(f"a {kind.__qualname__}{give}")
    if any(_has_own_c_code(each) for each in kind.__mro__ if each not in _IN_C):
        return _refusal(f"a {kind.__qualname__}, which is partly written in C,")
    names = _names_of(kind)
    make = _fields(kind, name, names, None if content is None else content[0])
    return make, _can_change(kind, content)


_HEAP = 1 << 9  # of a class's flags: not one of those that are built in
_NAMELESS = "is not what its module has by that name: another one may be called the same"


def _refusal(why: str) -> tuple[_Make, bool]:
    def refuse(_value: object, _seen: _Seen) -> object:
        raise FormlessError(why)

    return refuse, False


def _is_named(kind: type) -> bool:
    """Return whether a class is what its module has by its name, so that it has that for itself."""
    if not kind.__flags__ & _HEAP:
        return True
    found: Any = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind


def _class(value: type, _seen: _Seen) -> object:
    if not _is_named(value):
        raise FormlessError(f"the class {value.__qualname__} (it {_NAMELESS})")
    return ("class", value.__module__, value.__qualname__)


def _can_change(kind: type, content: tuple[_Make, bool] | None) -> bool:
    """Return whether objects of a class can change, or are told apart though they do not differ."""
    if content is not None and content[1]:
        return True
    made: Any = getattr(kind, "__struct_config__", None) or getattr(
        kind, "__dataclass_params__", None
    )
    if made is not None:
        return not (made.frozen and made.eq)
    return content is None or bool(_names_of(kind) or kind.__dictoffset__)


def _has_own_c_code(kind: type) -> bool:
    """Return whether a class itself, and not only a base, is written in C, and may have state there."""
    code = (GetSetDescriptorType, MethodDescriptorType, WrapperDescriptorType)
    return any(
        isinstance(each, code) and each.__objclass__ is kind
        for name, each in kind.__dict__.items()
        if name not in ("__dict__", "__weakref__")
    )


def _names_of(kind: type) -> tuple[str, ...]:
    """Return the names of fields, and of slots."""
    names: list[str] = list(getattr(kind, "__struct_fields__", ()))
    if is_dataclass(kind):
        names += [each.name for each in fields(kind)]
    for owner in kind.__mro__:
        slots = (
            name for name, each in vars(owner).items() if isinstance(each, MemberDescriptorType)
        )
        names += slots
    return tuple(dict.fromkeys(names))


def _fields(kind: type, name: str, names: tuple[str, ...], content: _Make | None) -> _Make:
    """Return the form of objects that are their content, their fields, and what else they have."""
    known = {*names, *(each.field for each in declared.UNCOMPARED if each.owner in kind.__mro__)}

    def make(value: Any, seen: _Seen) -> object:
        parts: list[object] = ["fields", name]
        for field in names:
            each = getattr(value, field, _ABSENT)
            parts.append(each if type(each) in ATOMS else form(each, seen))
        if content is not None:
            parts.append(content(value, seen))
        return tuple(parts)

    def make_more(value: Any, seen: _Seen) -> object:
        found: Any = make(value, seen)
        if value.__dict__.keys() <= known:
            return found
        more = [(key, form(each, seen)) for key, each in value.__dict__.items() if key not in known]
        return (*found, "more", *more)

    return make_more if kind.__dictoffset__ else make


_OF_MEMBERS = frozenset(("_value_", "_name_", "__objclass__", "_sort_order_", "_inverted_", "_hashable_values_"))  # fmt: skip


def _member(kind: type[Enum], name: str) -> _Make:
    """Return the form of an enum's members: the name, or a flag's bits; and attributes, if they have any."""

    def make(value: Any, seen: _Seen) -> object:
        found = ("flag", name, value.value) if flag else ("enum", name, value.name)
        if value.__dict__.keys() <= _OF_MEMBERS:
            return found
        more = {key: each for key, each in value.__dict__.items() if key not in _OF_MEMBERS}
        return (*found, form(more, seen))

    flag = issubclass(kind, Flag)
    return make
