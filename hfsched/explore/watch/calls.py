"""What a call reads and writes where the function called has no watched code.

That is C code (built-in functions and methods, types, `functools.partial`), code that was made without
a source (dataclasses), and libraries.  What is not in the tables (`rules`), and is given something that
tasks may share, has no rule: the watcher lists it.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    FunctionType,
    MappingProxyType,
    MemberDescriptorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.callbacks import Args, consumption, of_call, owner_of
from hfsched.explore.watch.codes import is_explorer_file, is_watched, is_watched_file
from hfsched.explore.watch.functions import (
    field_names,
    has_own_init,
    is_known,
    is_made,
    is_named_tuple,
    prints_fields,
)
from hfsched.explore.watch.kinds import (
    CONTAINERS,
    MODULES_NUMBERS,
    is_container,
    is_ctypes,
    is_library,
    overrides,
)
from hfsched.explore.watch.libraries import accessed, backing, is_stateful, used, written
from hfsched.explore.watch.methods import copied, given, measured, method, packed, read
from hfsched.explore.watch.places import class_of, has_fields, is_exempt
from hfsched.explore.watch.reads import content, fields, is_shared
from hfsched.explore.watch.rules import (
    COPIES,
    HARMLESS,
    LAZY,
    NOTHING,
    OF_FIELDS,
    READS,
    VIEWS,
    WRITES_FIRST,
)

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["after", "before", "keep"]


def before(watcher: Watcher, function: Any, args: Args, kwargs: dict[str, Any]) -> None:
    """Note what a call accesses, just before it is made."""
    kind = type(function)
    if kind is MethodType:
        before(watcher, function.__func__, (function.__self__, *args), kwargs)
    elif issubclass(kind, functools.partial):
        before(watcher, function.func, (*function.args, *args), {**function.keywords, **kwargs})
    elif kind is FunctionType:
        _python(watcher, function, args, kwargs)
    elif issubclass(kind, BuiltinFunctionType | MethodWrapperType):
        owner = owner_of(function)
        if owner is None:
            _builtin(watcher, function.__name__, args, kwargs)
        else:
            _method(watcher, owner, function.__name__, args, kwargs)
    elif kind in (MethodDescriptorType, WrapperDescriptorType):
        if args:
            _method(watcher, args[0], function.__name__, args[1:], kwargs)
    elif issubclass(kind, type):
        _type(watcher, function, args, kwargs)
    elif not is_exempt(kind):
        _object(watcher, function, args, kwargs)


def after(watcher: Watcher, function: Any, result: Any) -> None:
    """Note that a call has written the fields of an object that it has made, if that was in C or in made code."""
    if not issubclass(type(function), type):
        return
    if has_fields(function) and not has_own_init(function):
        for each in field_names(function):
            if hasattr(result, each):
                watcher.attribute(result, each, write=True)
    watcher.made(result)


def keep(watcher: Watcher, function: Any, args: Args, result: Any) -> None:
    """Remember what a call has made: an iterator or a view of what it was given, an object's dict."""
    kind = type(function)
    if kind is MethodType:
        owner, name = function.__self__, function.__name__
        if name in VIEWS and is_library(type(owner)) and not overrides(type(owner), name):
            watcher.lazy(result, (), lambda: used(watcher, owner, write=False))
    elif issubclass(kind, type | BuiltinFunctionType):
        owner, name = None if issubclass(kind, type) else owner_of(function), function.__name__
        if name in LAZY and (owner is None or issubclass(type(owner), type)):
            watcher.lazy(
                result, _all_sources(watcher, args), consumption(watcher, before, name, args)
            )
        elif name in VIEWS and is_container(backing(owner)):
            watcher.lazy(result, (backing(owner),))
        elif name == "vars" and args:
            watcher.same(result, args[0])


def _all_sources(watcher: Watcher, args: Args) -> list[Any]:
    return [source for each in args for source in watcher.sources(each)]


def _builtin(watcher: Watcher, name: str, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a built-in function."""
    values = [*args, *kwargs.values()]
    if name in ("getattr", "hasattr", "setattr", "delattr") and len(args) > 1:
        by = f"__{name}__" if name in ("setattr", "delattr") else ""
        watcher.attribute(args[0], args[1], write=bool(by), by=by)
    elif name in ("isinstance", "type") and args:
        watcher.attribute(args[0], "__class__", write=False)
    elif name == "len" and args:
        measured(watcher, args[0])
    elif name == "next" and args:
        content(watcher, args[0])
    elif name in LAZY:
        for each in values:
            for source in watcher.sources(each):
                watcher.whole(source, write=False)
        return  # the functions are called when the result is used
    elif name in _PACKING and len(args) > 1:
        packed(watcher, name, args[0], args[1:], kwargs)
    elif name in WRITES_FIRST and args:
        for source in watcher.sources(args[0]):
            watcher.whole(source, write=True)
        for each in values:
            read(watcher, each)
    elif name in COPIES and args:
        copied(watcher, name, values)
    elif name in READS or name.startswith("openssl_"):
        for each in values:
            read(watcher, each)
            if name in ("repr", "str", "print", "format", "ascii") and prints_fields(type(each)):
                fields(watcher, each)
    elif args and (name in _IN_PLACE or name in _OF_ITEMS):
        _operator(watcher, name, args)
    elif name not in NOTHING and any(
        is_shared(watcher, each) or is_ctypes(type(each)) for each in values
    ):
        watcher.no_rule(name)
        for each in values:
            read(watcher, each)
    of_call(watcher, before, name, args, kwargs)


_PACKING = ("pack_into", "unpack_from")
_IN_PLACE = frozenset(
    each for each in dir(operator) if each.startswith("i") and hasattr(operator, f"__{each}__")
)
_IN_PLACE -= {"index", "inv", "invert"}
_OF_ITEMS = ("getitem", "setitem", "delitem", "contains")


def _operator(watcher: Watcher, name: str, args: Args) -> None:
    """Note a call of a function of `operator` that writes, or is for an item."""
    if name in _OF_ITEMS:
        _method(watcher, args[0], f"__{name}__", args[1:], {})
        return
    written(watcher, args[0])
    for each in args[1:]:
        read(watcher, each)


def _method(watcher: Watcher, owner: Any, name: str, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a method in C."""
    if (
        name in ("__setattr__", "__delattr__", "__getattribute__")
        and args
        and not is_container(owner)
    ):
        watcher.plain_attribute(owner, args[0], write=name != "__getattribute__")
    elif type(owner) is MemberDescriptorType:  # of a slot
        if args and args[0] is not None and name in ("__get__", "__set__", "__delete__"):
            watcher.plain_attribute(args[0], owner.__name__, write=name != "__get__")
    elif type(owner) is MappingProxyType and class_of(owner) is not None:
        one = name in ("get", "__getitem__", "__contains__") and args
        for each in args[:1] if one else owner:
            watcher.attribute(class_of(owner), each, write=False)
    elif issubclass(type(owner), type) and not name.startswith("__"):  # such as `dict.fromkeys`
        _builtin(watcher, name, args, kwargs)
    else:
        method(watcher, owner, name, args, kwargs)
    of_call(
        watcher, before, name, args if issubclass(type(owner), type) else (owner, *args), kwargs
    )


def _type(watcher: Watcher, kind: type, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a type: in C it may read what it is given; a class in Python is watched itself."""
    if kind.__module__ in (
        "builtins",
        "collections",
        "itertools",
        "functools",
        "array",
        "_struct",
        "operator",
    ):
        _builtin(watcher, kind.__name__, args, kwargs)
    elif issubclass(kind, CONTAINERS) or kind.__module__ == "_io":
        for each in (*args, *kwargs.values()):
            content(watcher, each)
    elif not (has_fields(kind) or issubclass(kind, BaseException) or has_own_init(kind)):
        keeps = kind.__new__ is object.__new__ or is_named_tuple(kind)
        if keeps or is_exempt(kind) or kind.__module__ in HARMLESS:
            return
        given(watcher, kind.__qualname__, [*args, *kwargs.values()])
        of_call(watcher, before, kind.__qualname__, args, kwargs)


def _python(watcher: Watcher, function: FunctionType, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a function in Python that has no watched code."""
    file = function.__code__.co_filename
    if is_watched(function.__code__) or is_explorer_file(file) or hasattr(function, "__wrapped__"):
        return
    name = function.__name__
    if is_watched_file(file):
        watcher.no_rule(f"{name} (its source is not found)")
        return
    values = [*args, *kwargs.values()]
    bound = bool(args) and getattr(type(args[0]), name, None) is function
    if bound and is_container(args[0]):
        _method(watcher, args[0], name, args[1:], kwargs)
    elif is_made(file):
        _made(watcher, function, args, values)
    elif bound and accessed(watcher, args[0], name, args[1:]):
        for each in values[1:]:
            content(watcher, each)
    elif bound and (is_stateful(args[0]) or args[0] is MODULES_NUMBERS):
        if name in WRITES_FIRST:
            _builtin(watcher, name, args[1:], kwargs)
        for each in args[1:]:
            content(watcher, each)
        if is_stateful(args[0]):
            _method(watcher, args[0], name, args[1:], kwargs)
    elif function.__module__.partition(".")[0] in HARMLESS:
        for each in values:
            (read if function.__module__ in ("logging", "re") else content)(watcher, each)
        of_call(watcher, before, name, args, kwargs)
    elif not bound and is_known(function):
        _builtin(watcher, name, args, kwargs)
    else:
        given(watcher, f"{function.__module__}.{function.__qualname__}", values)
        of_call(watcher, before, name, args, kwargs)


def _made(watcher: Watcher, function: FunctionType, args: Args, values: list[Any]) -> None:
    """Note a call of code that was made without a source: a dataclass's method, or what `exec` made."""
    if function.__name__ in OF_FIELDS:
        for each in values:
            read(watcher, each)
            if type(each).__dict__.get(function.__name__) is function:
                fields(watcher, each)
    elif function.__name__ == "__init__" and args and has_fields(type(args[0])):
        for field in field_names(type(args[0])):
            watcher.attribute(args[0], field, write=True)
    elif any(is_shared(watcher, each) for each in values):
        watcher.no_rule(function.__name__)


def _object(watcher: Watcher, of: Any, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of an object: its `__call__`, if that is written in Python, is watched itself."""
    call: Callable[..., Any] | None = getattr(type(of), "__call__", None)  # noqa: B004
    if isinstance(call, FunctionType):
        _python(watcher, call, (of, *args), kwargs)
    elif issubclass(type(of), operator.attrgetter | operator.itemgetter | operator.methodcaller):
        _getter(watcher, of, args)
    elif hasattr(of, "__wrapped__"):  # such as a cache in front of a function
        for each in args:
            read(watcher, each)
    else:
        given(watcher, type(of).__qualname__, [*args, *kwargs.values()])
        of_call(watcher, before, type(of).__qualname__, args, kwargs)


def _getter(watcher: Watcher, of: Any, args: Args) -> None:
    """Note what an `attrgetter`, `itemgetter` or `methodcaller` does."""
    made, names = of.__reduce__()[:2]
    if not args:
        return
    if issubclass(type(of), operator.itemgetter):
        for key in names:
            _method(watcher, args[0], "__getitem__", (key,), {})
    elif issubclass(type(of), operator.attrgetter):
        for path in names:
            each = args[0]
            for name in path.split("."):
                watcher.attribute(each, name, write=False)
                each = getattr(each, name, None)
    else:
        name, *rest = made.args if issubclass(type(made), functools.partial) else names
        if issubclass(type(made), functools.partial):
            rest = list(names)
        before(watcher, getattr(args[0], name, None), tuple(rest), {})
