"""Which place an attribute's access touches: an item of the instance, of a class, of a module; or none.

A property, and any other descriptor written in Python, touches none itself: its own code is watched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

__all__ = [
    "IMMUTABLE",
    "compares_fields",
    "fields_of",
    "has_fields",
    "is_exempt",
    "is_frozen",
    "places_of",
]

# Never written: no place of theirs is watched.
IMMUTABLE: frozenset[type] = frozenset(
    (int, str, bytes, float, bool, complex, type(None), range, slice, type(...), frozenset, tuple)
)
_CODE = (
    FunctionType,
    BuiltinFunctionType,
    MethodType,
    MethodDescriptorType,
    WrapperDescriptorType,
    classmethod,
    staticmethod,
    type,
)


class _Kind(Enum):
    NOTHING = 0
    INSTANCE = 1  # an item of the instance: in its dict, or a slot
    CODE = 2  # a function of the class, unless the instance has its own
    VALUE = 3  # a value of the class, unless the instance has its own
    CACHED = 4  # a `functools.cached_property`


def _remembered(question: Callable[[type], bool]) -> Callable[[type], bool]:
    answers: dict[type, bool] = {}

    @functools.wraps(question)
    def remembering(kind: type) -> bool:
        if kind not in answers:
            answers[kind] = question(kind)
        return answers[kind]

    return remembering


@_remembered
def is_exempt(kind: type) -> bool:
    """Return whether objects of a type are the explorer's own, or a runtime's."""
    return any(
        f"{base.__module__}.".startswith(("hfsched.explore.", "hfsched.runtime.", "greenlet."))
        and not base.__dict__.get("_is_protocol", False)
        for base in kind.__mro__
    )


_kinds: dict[tuple[type, str], tuple[_Kind, type | None]] = {}


def _kind(kind: type, name: str) -> tuple[_Kind, type | None]:
    """Return what the attribute of a type's instances is, and the class that has it."""
    known = _kinds.get((kind, name))
    if known is None:
        known = _kinds[kind, name] = _find_kind(kind, name)
    return known


def _find_kind(kind: type, name: str) -> tuple[_Kind, type | None]:
    if kind in IMMUTABLE or is_exempt(kind):
        return _Kind.NOTHING, None
    for owner in kind.__mro__:
        if name in owner.__dict__:
            break
    else:
        return _Kind.INSTANCE, None
    found = owner.__dict__[name]
    if isinstance(found, MemberDescriptorType):
        return _Kind.INSTANCE, owner
    if isinstance(found, property | GetSetDescriptorType):
        return _Kind.NOTHING, owner
    if isinstance(found, functools.cached_property):
        return _Kind.CACHED, owner
    if isinstance(found, _CODE):
        return _Kind.CODE, owner
    if hasattr(type(found), "__set__"):
        return _Kind.NOTHING, owner
    return _Kind.VALUE, owner


Touched = tuple[Any, str, bool]  # whose item, its name, whether it is written


def places_of(of: Any, name: str, *, write: bool) -> Sequence[Touched]:
    """Return the places that an access to an attribute touches."""
    kind, owner = _kind(type(of), name)
    if kind is _Kind.NOTHING:
        return ()
    if isinstance(of, type):
        return () if is_exempt(of) else tuple(_of_class(of, name, write=write))
    if isinstance(of, ModuleType):
        return ((vars(of), name, write),)
    if kind is _Kind.INSTANCE or write:
        return ((of, name, write),)
    own = name in getattr(of, "__dict__", ())
    if kind is _Kind.CACHED:
        return ((of, name, not own),)
    if own:
        return ((of, name, False),)
    if kind is _Kind.VALUE:  # the instance has none
        return (of, name, False), (owner, name, False)
    return ()


def _of_class(of: type, name: str, *, write: bool) -> Iterator[Touched]:
    if write:
        yield of, name, True
        return
    for owner in of.__mro__:
        if name in owner.__dict__:
            if not isinstance(owner.__dict__[name], _CODE):
                yield owner, name, False
            return


def fields_of(of: Any) -> list[str]:
    """Return the names of an object's fields: of its slots, and of its dict."""
    names = list(getattr(of, "__dict__", ()))
    for owner in type(of).__mro__:
        names += [
            name
            for name, each in owner.__dict__.items()
            if isinstance(each, MemberDescriptorType) and hasattr(of, name)
        ]
    return names


@_remembered
def has_fields(kind: type) -> bool:
    """Return whether a type's constructor stores its arguments in fields, in C or in made code."""
    return hasattr(kind, "__struct_fields__") or hasattr(kind, "__dataclass_fields__")


@_remembered
def is_frozen(kind: type) -> bool:
    """Return whether the fields of a type's objects are written by the constructor alone."""
    struct: Any = getattr(kind, "__struct_config__", None)
    if struct is not None:
        return bool(struct.frozen)
    made: Any = getattr(kind, "__dataclass_params__", None)
    return made is not None and bool(made.frozen)


@_remembered
def compares_fields(kind: type) -> bool:
    """Return whether objects of a type are compared by their fields, in C or in made code."""
    if hasattr(kind, "__struct_fields__"):
        return True
    compare = getattr(kind, "__eq__", None)
    made = isinstance(compare, FunctionType) and not compare.__code__.co_filename.endswith(".py")
    return made and hasattr(kind, "__dataclass_fields__")
