"""What kind of object something is: asked of its type alone, never of the object's own methods."""

from __future__ import annotations

import array
import ctypes
import functools
import mmap
import random
import types
from collections import deque
from collections.abc import Callable
from enum import Enum
from types import FunctionType, MemberDescriptorType
from typing import Any, ParamSpec, TypeVar

from hfsched.explore.watch.codes import is_watched_file
from hfsched.explore.watch.places import IMMUTABLE, is_exempt

__all__ = [
    "BYTES",
    "CONTAINERS",
    "MODULES_NUMBERS",
    "found_in",
    "is_container",
    "is_ctypes",
    "is_iterator",
    "is_library",
    "is_plain",
    "is_primitive",
    "is_thread_local",
    "overrides",
]

P = ParamSpec("P")
R = TypeVar("R")

_FUNCTION: type = type(ctypes.pythonapi.PyObject_GetBuffer).__mro__[1]  # of a library in C
BYTES = (bytearray, mmap.mmap)
CONTAINERS = (list, dict, set, deque, bytearray, mmap.mmap, array.array, memoryview)
# They have a dict, and are code, or what an error says.
_CODE = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodType,
    types.ModuleType,
    functools.partial,
    staticmethod,
    classmethod,
    property,
    Enum,
    BaseException,
    ctypes.c_int.__mro__[1],  # numbers, which are given by value
    type(ctypes.pythonapi),
    _FUNCTION,
)


def _remembered(question: Callable[P, R]) -> Callable[P, R]:
    """Remember answers about types, but not for ever: a scenario may make types in each execution."""
    remembering: Any = functools.lru_cache(4096)(question)
    made: Callable[P, R] = remembering
    return made


def is_container(of: Any) -> bool:
    """Return whether an object is a container in C, or of a class made from one."""
    return issubclass(type(of), CONTAINERS)


@_remembered
def found_in(kind: type, name: str) -> Any:
    """Return what a type has by a name; None: nothing."""
    for owner in kind.__mro__:
        if name in owner.__dict__:
            return owner.__dict__[name]
    return None


@_remembered
def overrides(kind: type, name: str) -> bool:
    """Return whether a type's method is written in Python and explored: it is watched itself."""
    made = found_in(kind, name)
    return isinstance(made, FunctionType) and is_watched_file(made.__code__.co_filename)


@_remembered
def is_iterator(kind: type) -> bool:
    """Return whether using an object of a type up changes it, in code that is not watched."""
    return found_in(kind, "__next__") is not None and not overrides(kind, "__next__")


@_remembered
def is_library(kind: type) -> bool:
    """Return whether a type's items are got by code that is not watched, and can be set."""
    if issubclass(kind, (*CONTAINERS, type)) or kind in IMMUTABLE or is_exempt(kind):
        return False
    return any(
        found_in(kind, name) is not None and not overrides(kind, name)
        for name in ("__setitem__", "__delitem__", "add")
    )


@_remembered
def _has_fields(kind: type) -> bool:
    if kind in IMMUTABLE or is_exempt(kind) or issubclass(kind, (*_CODE, *CONTAINERS)):
        return False
    slots = any(
        isinstance(each, MemberDescriptorType)
        for owner in kind.__mro__
        if owner.__module__ not in ("builtins", "_operator", "functools")
        for each in owner.__dict__.values()
    )
    return kind.__dictoffset__ != 0 or slots


@_remembered
def is_ctypes(kind: type) -> bool:
    """Return whether objects of a type are memory that ctypes reads and writes."""
    return type(kind).__module__ == "_ctypes" and not issubclass(kind, _FUNCTION)


def is_plain(of: Any) -> bool:
    """Return whether an object has fields, in a dict or in slots, and is no code."""
    return _has_fields(type(of)) and of is not MODULES_NUMBERS


MODULES_NUMBERS: Any = getattr(random, "_inst", None)  # behind `random.random` and the like


@_remembered
def is_primitive(kind: type) -> bool:
    """Return whether objects of a type exclude threads; tasks are none."""
    return kind.__module__ in ("_thread", "threading")


@_remembered
def is_thread_local(kind: type) -> bool:
    """Return whether a type is `threading.local`, or made from it."""
    return any((each.__module__, each.__name__) == ("_thread", "_local") for each in kind.__mro__)
