"""What a call reads and writes where the function called has no watched code.

That is C code (built-in functions and methods, types, `functools.partial`), code that was made without
a source (dataclasses), and libraries.  What is not in the tables (`rules`), and is given something that
tasks may share, has no rule: the watcher lists it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import (
    BuiltinFunctionType,
    FunctionType,
    GeneratorType,
    MethodDescriptorType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.codes import is_explorer_file, is_watched, is_watched_file
from hfsched.explore.watch.containers import CONTAINERS, access
from hfsched.explore.watch.places import has_fields, is_exempt
from hfsched.explore.watch.reads import content, deep, is_shared
from hfsched.explore.watch.rules import (
    LAZY,
    NOTHING,
    OF_FIELDS,
    READERS,
    READS,
    VIEWS,
    WRITES_FIRST,
)

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["after", "before", "keep"]

Args = tuple[Any, ...]


def before(watcher: Watcher, function: Any, args: Args, kwargs: dict[str, Any]) -> None:
    """Note what a call accesses, just before it is made."""
    if isinstance(function, MethodType):
        before(watcher, function.__func__, (function.__self__, *args), kwargs)
    elif isinstance(function, functools.partial):
        before(watcher, function.func, (*function.args, *args), {**function.keywords, **kwargs})
    elif isinstance(function, FunctionType):
        _python(watcher, function, args, kwargs)
    elif isinstance(function, BuiltinFunctionType | MethodWrapperType):
        owner = _owner(function)
        if owner is None or isinstance(owner, ModuleType):
            _builtin(watcher, function.__name__, args, kwargs)
        else:
            _method(watcher, owner, function.__name__, args, kwargs)
    elif isinstance(function, MethodDescriptorType | WrapperDescriptorType):
        if args:
            _method(watcher, args[0], function.__name__, args[1:], kwargs)
    elif isinstance(function, type):
        _type(watcher, function, args, kwargs)
    elif not is_exempt(type(function)):
        _object(watcher, function, args, kwargs)


def after(watcher: Watcher, function: Any, result: Any) -> None:
    """Note that a call has made an object, and written its fields if that was in C or in made code."""
    if isinstance(function, type):
        watcher.made(result)
    if isinstance(function, type) and has_fields(function) and not _has_own_init(function):
        for each in _field_names(function):
            if hasattr(result, each):
                watcher.attribute(result, each, write=True)


def keep(watcher: Watcher, function: Any, args: Args, result: Any) -> None:
    """Remember what a call has made: an iterator or a view of what it was given, an object's dict."""
    name = getattr(function, "__name__", "")
    if isinstance(function, type):
        if name in LAZY:
            watcher.lazy(result, _all_sources(watcher, args))
    elif isinstance(function, BuiltinFunctionType):
        owner = _owner(function)
        if name in LAZY and (owner is None or isinstance(owner, ModuleType | type)):
            watcher.lazy(result, _all_sources(watcher, args))
        elif name in VIEWS and isinstance(owner, CONTAINERS):
            watcher.lazy(result, (owner,))
        elif name == "vars" and args:
            watcher.same(result, args[0])


def _owner(function: Any) -> Any:
    """Return what a built-in method is bound to; of a function, its module."""
    return getattr(function, "__self__", None)


def _all_sources(watcher: Watcher, args: Args) -> list[Any]:
    found = [source for each in args for source in watcher.sources(each)]
    return found + [_owner(each) for each in args if _bound_to_container(each)]


def _bound_to_container(of: Any) -> bool:
    return isinstance(of, BuiltinFunctionType) and isinstance(_owner(of), CONTAINERS)


def _callbacks(watcher: Watcher, values: list[Any]) -> None:
    """Note what functions that C code is given may do: they may be called at once."""
    for each in values:
        inner = each.func if isinstance(each, functools.partial) else each
        if _bound_to_container(inner):
            name = inner.__name__
            if name.startswith("__") or name in ("get", "count", "index", "copy"):
                content(watcher, _owner(inner))
            else:
                watcher.whole(_owner(inner), write=True)


def _builtin(watcher: Watcher, name: str, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a built-in function."""
    values = [*args, *kwargs.values()]
    if name in ("getattr", "hasattr", "setattr", "delattr") and len(args) > 1:
        watcher.attribute(args[0], args[1], write=name in ("setattr", "delattr"))
    elif name == "len" and args:
        for source in watcher.sources(args[0]):
            watcher.shape(source, write=False)
    elif name == "next" and args:
        content(watcher, args[0])
        if not isinstance(args[0], GeneratorType):
            watcher.whole(args[0], write=True)
    elif name in LAZY:
        for each in values:
            content(watcher, each)
    elif name in WRITES_FIRST and args:
        for source in watcher.sources(args[0]):
            watcher.whole(source, write=True)
        for each in values[1:]:
            deep(watcher, each)
    elif name in READS:
        for each in values:
            deep(watcher, each)
    elif name not in NOTHING and any(is_shared(watcher, each) for each in values):
        watcher.no_rule(name)
        for each in values:
            deep(watcher, each)
    _callbacks(watcher, values)


def _method(watcher: Watcher, owner: Any, name: str, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a method in C."""
    if isinstance(owner, CONTAINERS):
        if not access(watcher, owner, name, args):
            watcher.no_rule(f"{type(owner).__name__}.{name}")
            watcher.whole(owner, write=True)
        for each in (*args, *kwargs.values()):
            if name in ("extend", "update", "extendleft", "__iadd__", "union") or "_" in name:
                content(watcher, each)
    elif name in ("__setattr__", "__delattr__", "__getattribute__") and args:
        watcher.attribute(owner, args[0], write=name != "__getattribute__")
    elif name in OF_FIELDS:
        deep(watcher, owner)
        for each in args:
            deep(watcher, each)
    elif name == "encode_into" and len(args) > 1:  # of msgspec's encoders: into a bytearray
        deep(watcher, args[0])
        watcher.whole(args[1], write=True)
    elif name == "__next__":
        content(watcher, owner)
        watcher.whole(owner, write=True)
    elif watcher.sources(owner):
        content(watcher, owner)
    elif isinstance(owner, type):  # a constructor, such as `dict.fromkeys`
        _builtin(watcher, name, args, kwargs)
    elif name not in ("__init__", "__new__", "__init_subclass__"):
        _given(watcher, f"{type(owner).__name__}.{name}", [*args, *kwargs.values()])


def _given(watcher: Watcher, name: str, values: list[Any]) -> None:
    """Note that C code, of a method or an object, is given values."""
    shared = [each for each in values if is_shared(watcher, each)]
    if shared and name.rpartition(".")[2] not in READERS:
        watcher.no_rule(name)
    for each in shared:
        deep(watcher, each)
    _callbacks(watcher, values)


def _type(watcher: Watcher, kind: type, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a type: in C it may read what it is given; a class in Python is watched itself."""
    if kind.__module__ in ("builtins", "collections", "itertools", "functools", "array", "_struct"):
        _builtin(watcher, kind.__name__, args, kwargs)
    elif issubclass(kind, CONTAINERS):
        for each in (*args, *kwargs.values()):
            content(watcher, each)
    elif not (has_fields(kind) or issubclass(kind, BaseException) or _has_own_init(kind)):
        if kind.__new__ is object.__new__ or is_exempt(kind):
            return
        _given(watcher, kind.__qualname__, [*args, *kwargs.values()])


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
    if args and isinstance(args[0], CONTAINERS) and hasattr(type(args[0]), name):
        _method(watcher, args[0], name, args[1:], kwargs)
    elif not file.endswith(".py"):  # made: a method of a dataclass
        if name in OF_FIELDS:
            for each in values:
                deep(watcher, each)
        elif name == "__init__" and args:
            for field in _field_names(type(args[0])):
                watcher.attribute(args[0], field, write=True)
        elif any(is_shared(watcher, each) for each in values):
            watcher.no_rule(name)
    elif name in READS or name in WRITES_FIRST or name in NOTHING:
        _builtin(watcher, name, args, kwargs)
    else:
        _given(watcher, f"{function.__module__}.{function.__qualname__}", values)


def _object(watcher: Watcher, of: Any, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of an object: its `__call__`, if that is written in Python, is watched itself."""
    call: Callable[..., Any] | None = getattr(type(of), "__call__", None)  # noqa: B004
    if isinstance(call, FunctionType):
        _python(watcher, call, (of, *args), kwargs)
    elif hasattr(of, "__wrapped__"):  # such as a cache in front of a function
        for each in args:
            deep(watcher, each)
    elif type(of).__name__ in READS:  # `operator.itemgetter` and the like
        _builtin(watcher, type(of).__name__, args, kwargs)
    else:
        _given(watcher, type(of).__qualname__, [*args, *kwargs.values()])


def _has_own_init(kind: type) -> bool:
    """Return whether a class has an `__init__` or `__new__` with a source."""
    for name in ("__init__", "__new__"):
        made = getattr(kind, name, None)
        if isinstance(made, FunctionType) and made.__code__.co_filename.endswith(".py"):
            return True
    return False


def _field_names(kind: type) -> list[str]:
    return [*getattr(kind, "__struct_fields__", ()), *getattr(kind, "__dataclass_fields__", ())]
