"""Which place an attribute's access touches: an item of the instance, of a class, of a module; or none.

A property, and any other descriptor written in Python, touches none itself: its own code is watched.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from types import (
    BuiltinFunctionType,
    FunctionType,
    GetSetDescriptorType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

from hfsched.explore.watch.replaced import REPLACED
from hfsched.explore.watch.standins import PROXIES

__all__ = [
    "IMMUTABLE",
    "accessor",
    "class_of",
    "compares_fields",
    "dict_of",
    "fields_of",
    "forget",
    "has_fields",
    "is_exempt",
    "is_frozen",
    "is_plainly_accessed",
    "is_unnoticed",
    "places_of",
    "value_of",
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
_FIXED = (*_CODE, property, GetSetDescriptorType)


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


_kinds: dict[str, dict[type, tuple[_Kind, type | None]]] = {}


def forget(name: str) -> None:
    """Forget what attributes of a name are: a class gets another one."""
    _kinds.pop(name, None)


def _kind(kind: type, name: str) -> tuple[_Kind, type | None]:
    """Return what the attribute of a type's instances is, and the class that has it."""
    named = _kinds.get(name)
    if named is None:
        named = _kinds[name] = {}
    known = named.get(kind)
    if known is None:
        known = named[kind] = _find_kind(kind, name)
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
    if type(of) is super:
        return tuple(_of_super(of, name))
    kind, owner = _kind(type(of), name)
    if name == "__class__":
        return ((of, name, write),) if write or name in REPLACED else ()
    if issubclass(type(of), type):
        return () if is_exempt(of) else tuple(_of_class(of, name, write=write))
    found = _of_object(of, name, kind, owner, write=write)
    if "__class__" in REPLACED and type(of) not in IMMUTABLE:  # it says what the attribute is
        return ((of, "__class__", False), *found)
    return found


def _of_object(
    of: Any, name: str, kind: _Kind, owner: type | None, *, write: bool
) -> Sequence[Touched]:
    if kind is _Kind.NOTHING:
        fixed = owner is None or owner is object or name not in REPLACED
        return () if fixed else ((owner, name, False),)
    if issubclass(type(of), ModuleType):
        return ((vars(of), name, write),)
    if kind is _Kind.INSTANCE or write:
        return ((of, name, write),)
    own = name in (dict_of(of) or ())
    if kind is _Kind.CACHED:
        return ((of, name, not own),)
    if own:
        return ((of, name, False),)
    if kind is _Kind.VALUE or name in REPLACED:  # the instance has none
        return (of, name, False), (owner, name, False)
    return ()


def _of_class(of: type, name: str, *, write: bool) -> Iterator[Touched]:
    if write:
        yield of, name, True
        return
    yield from _looked_up(of.__mro__, name)
    if not any(name in owner.__dict__ for owner in of.__mro__):
        meta: type = type(of)
        yield from _looked_up(meta.__mro__, name)


def _of_super(of: Any, name: str) -> Iterator[Touched]:
    if of.__self_class__ is not None:
        mro = of.__self_class__.__mro__
        yield from _looked_up(mro[mro.index(of.__thisclass__) + 1 :], name)


def is_unnoticed(of: type, name: str) -> bool:
    """Return whether reads of a class's attribute are not noted, since nobody assigns it by its name."""
    return name not in REPLACED and any(
        isinstance(each.__dict__[name], _FIXED) for each in of.__mro__ if name in each.__dict__
    )


def _looked_up(classes: Sequence[type], name: str) -> Iterator[Touched]:
    """Return the places that are read when classes are asked for an attribute, one after the other."""
    asked: list[type] = []
    for owner in classes:
        if owner is not object and owner is not type:
            asked.append(owner)
        if name in owner.__dict__:
            if isinstance(owner.__dict__[name], _FIXED) and name not in REPLACED:
                return
            break
    for each in asked:
        yield each, name, False


def dict_of(of: Any) -> dict[str, Any] | None:
    """Return the dict of an object, whatever its class says of attributes; None if it has none."""
    try:
        found = object.__getattribute__(of, "__dict__")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None


def value_of(of: Any, name: str) -> Any:
    """Return the value of an attribute, whatever its class says of attributes; None if it has none."""
    try:
        return object.__getattribute__(of, name)
    except AttributeError:
        return None


@_remembered
def is_plainly_accessed(kind: type) -> bool:
    """Return whether a type accesses attributes as `object` does, and its objects stand for no others."""
    methods = ("__getattribute__", "__setattr__", "__delattr__")
    return kind not in PROXIES and all(accessor(kind, each) is None for each in methods)


def accessor(kind: type, name: str) -> FunctionType | None:
    """Return the method in Python by which a class itself accesses attributes, such as `__setattr__`."""
    known = _accessors.get((kind, name), _UNKNOWN)
    if known is _UNKNOWN:
        found = getattr(kind, name, None)
        known = _accessors[kind, name] = found if isinstance(found, FunctionType) else None
    return known  # type: ignore[no-any-return]


_UNKNOWN: Any = object()
_accessors: dict[tuple[type, str], Any] = {}


def class_of(namespace: MappingProxyType[str, Any]) -> type | None:
    """Return the class whose ``__dict__`` this is; None: it is of another mapping."""
    (behind,) = gc.get_referents(namespace)
    for name in ("__dict__", "__weakref__"):
        found = behind.get(name) if type(behind) is dict else None
        if isinstance(found, GetSetDescriptorType):
            return found.__objclass__
    if type(behind) is not dict or "__module__" not in behind:
        return None
    for each in gc.get_referrers(behind):
        if isinstance(each, type):
            return each
    return None


def fields_of(of: Any) -> list[str]:
    """Return the names of an object's fields: of its slots, and of its dict."""
    names = list(dict_of(of) or ())
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
