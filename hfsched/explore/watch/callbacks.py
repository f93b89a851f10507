"""What functions do that C code is given and calls: `key=` of `sorted`, the function of `map`, and so on.

Those written in Python are watched themselves.  Of those in C what they do to each element is noted; where the
elements or the function are not known, the call is listed.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    FunctionType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.codes import is_explorer_file, is_watched
from hfsched.explore.watch.kinds import is_container
from hfsched.explore.watch.places import has_fields
from hfsched.explore.watch.reads import content, elements
from hfsched.explore.watch.rules import COPIES, LAZY, NOTHING, SIMPLE

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["Args", "consumption", "of_call", "owner_of"]

Args = tuple[Any, ...]
Before = Callable[["Watcher", Any, Args, dict[str, Any]], None]
_IN_C = (
    BuiltinFunctionType,
    MethodDescriptorType,
    MethodWrapperType,
    WrapperDescriptorType,
    operator.attrgetter,
    operator.itemgetter,
    operator.methodcaller,
)
_FIRST = ("map", "starmap", "reduce", "filter", "filterfalse", "takewhile", "dropwhile")
_KEYED = (
    "sorted",
    "min",
    "max",
    "groupby",
    "nlargest",
    "nsmallest",
    "sort",
    "accumulate",
    "bisect",
    "bisect_left",
    "bisect_right",
)


def owner_of(function: Any) -> Any:
    """Return what a built-in method is bound to; None of a function, whose is its module."""
    owner = getattr(function, "__self__", None)
    return None if issubclass(type(owner), ModuleType) else owner


def _is_unwatched(of: Any) -> bool:
    """Return whether an object is a function that is not watched itself, nor harmless."""
    if issubclass(type(of), functools.partial):
        return _is_unwatched(of.func)
    if issubclass(type(of), MethodType):
        return _is_unwatched(of.__func__)
    if issubclass(type(of), FunctionType):
        file = of.__code__.co_filename
        return not (is_watched(of.__code__) or is_explorer_file(file))
    if issubclass(type(of), type):
        plain = of.__name__ in SIMPLE or issubclass(of, BaseException)
        return of.__module__ == "builtins" and not plain
    return issubclass(type(of), _IN_C) and not _is_harmless(of)


def _is_harmless(of: Any) -> bool:
    name = getattr(of, "__name__", "")
    owner = owner_of(of)
    if issubclass(type(of), BuiltinFunctionType) and (
        owner is None or issubclass(type(owner), str | bytes)
    ):
        return name in SIMPLE or owner is not None
    return isinstance(getattr(of, "__objclass__", None), type) and of.__objclass__ in (str, bytes)


def of_call(
    watcher: Watcher, before: Before, name: str, args: Args, kwargs: dict[str, Any]
) -> None:
    """Note what the functions do that a call of C code is given."""
    if name in NOTHING or name == "defaultdict":
        return
    for each in (*args, *kwargs.values()):
        if not _is_unwatched(each) or (each is str and name in COPIES):  # which reads all
            continue
        calls = _calls(name, each, args)
        if calls is None:
            _unknown(watcher, name, each)
            continue
        for values in calls:
            before(watcher, each, values, {})


def _unknown(watcher: Watcher, name: str, function: Any) -> None:
    """Note that a function is called with what is not known."""
    inner = function
    while issubclass(type(inner), functools.partial):
        inner = inner.func
    owner = owner_of(inner)
    if issubclass(type(inner), BuiltinFunctionType) and is_container(owner):
        called = inner.__name__
        looks = called.startswith("__") and called not in ("__setitem__", "__delitem__")
        if looks or called in ("get", "count", "index", "copy"):
            content(watcher, owner)
        else:
            watcher.whole(owner, write=True)
    elif not (issubclass(type(inner), type) and has_fields(inner)):
        called = getattr(inner, "__name__", type(inner).__name__)
        watcher.no_rule(f"{name} with {called}")


def _calls(name: str, function: Any, args: Args) -> list[Args] | None:
    """Return with what C code calls a function that it is given; None: not known."""
    if name in _FIRST and args and args[0] is function:
        given = [elements(each) for each in args[1:]]
        known = [each for each in given if each is not None]
        if name == "reduce" and given and given[0] is not None:
            first = list(args[2:3]) or given[0][:1]
            rest = given[0] if len(args) > 2 else given[0][1:]
            return [(first[0], each) for each in rest]
        if len(known) != len(given):
            return None
        if name == "map":
            return list(zip(*known, strict=False))
        if name == "starmap":
            return [tuple(each) for each in known[0] if issubclass(type(each), tuple)]
        return [(each,) for each in known[0]]
    if name in _KEYED and args:
        given = (
            [list(args)]
            if name in ("min", "max") and len(args) > 1
            else [elements(args[-1 if name.startswith("n") else 0])]
        )
        if given[0] is None:
            return None
        if name == "accumulate":
            return [(given[0][0], each) for each in given[0][1:]]
        return [(each,) for each in given[0]]
    return None


def consumption(
    watcher: Watcher, before: Before, name: str, args: Args
) -> Callable[[], None] | None:
    """Return what notes, beside the sources, what a lazy result reads when it is used."""
    if name not in LAZY:
        return None

    def act() -> None:
        for each in args:
            content(watcher, each)
            if name in ("chain", "from_iterable", "filter"):
                for inner in elements(each) or ():
                    if name == "filter" and args[0] is None:
                        for source in watcher.sources(inner):
                            watcher.shape(source, write=False)
                    elif name == "from_iterable":
                        content(watcher, inner)
        of_call(watcher, before, name, args, {})

    return act
