"""What the methods of built-in objects read and write, of the owner and of what they are given."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.containers import access
from hfsched.explore.watch.kinds import BYTES, is_container, is_iterator, is_library, overrides
from hfsched.explore.watch.libraries import accessed, is_stateful
from hfsched.explore.watch.places import IMMUTABLE
from hfsched.explore.watch.reads import content, deep, fields, is_shared
from hfsched.explore.watch.rules import COMPARES, COPIES, HARMLESS, INTO, KEEPS, OF_FIELDS, READERS

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["copied", "given", "measured", "method", "packed", "read"]

Args = tuple[Any, ...]


def read(watcher: Watcher, of: Any, *, plain: bool = False) -> None:
    """Note that an object is used up, or read all the way down."""
    if type(of) not in IMMUTABLE:
        content(watcher, of)
    deep(watcher, of, plain=plain)


def method(watcher: Watcher, owner: Any, name: str, args: Args, kwargs: dict[str, Any]) -> None:
    """Note a call of a method in C."""
    values = [*args, *kwargs.values()]
    if is_container(owner):
        _of_container(watcher, owner, name, args, values)
    elif name in ("__setattr__", "__delattr__", "__getattribute__") and args:
        watcher.attribute(owner, args[0], write=name != "__getattribute__")
    elif name in ("pack_into", "unpack_from") and issubclass(type(owner), struct.Struct):
        packed(watcher, name, owner.format, args, kwargs)
    elif name in OF_FIELDS:
        for each in (owner, *args):
            deep(watcher, each)
    elif name == "encode_into" and len(args) > 1:  # of msgspec's encoders: into a bytearray
        deep(watcher, args[0])
        watcher.whole(args[1], write=True)
    elif name in ("format", "format_map") and issubclass(type(owner), str):
        _formatted(watcher, owner, values)
    elif is_iterator(type(owner)) or is_stateful(owner):
        content(watcher, owner)
        watcher.whole(owner, write=True)
        _arguments(watcher, name, values)
    elif watcher.sources(owner):
        content(watcher, owner)
    elif name in ("__reduce__", "__reduce_ex__", "__getstate__"):
        fields(watcher, owner)
    elif type(owner).__module__ in HARMLESS:
        for each in values:
            content(watcher, each)
    elif name not in ("__init__", "__new__", "__init_subclass__"):
        if not accessed(watcher, owner, name, args) and _has_state(owner):
            watcher.no_rule(f"{type(owner).__name__}.{name}")
        given(watcher, f"{type(owner).__name__}.{name}", values)


def _of_container(watcher: Watcher, owner: Any, name: str, args: Args, values: list[Any]) -> None:
    if not access(watcher, owner, name, args):
        watcher.no_rule(f"{type(owner).__name__}.{name}")
        watcher.whole(owner, write=True)
    if name in COMPARES:
        if not issubclass(type(owner), dict | set):
            deep(watcher, owner)
        for each in values:
            deep(watcher, each)
    elif name not in KEEPS:
        for each in values:
            content(watcher, each)
            if issubclass(type(owner), set):
                deep(watcher, each)


def _arguments(watcher: Watcher, name: str, values: list[Any]) -> None:
    """Note what a method of an object that may change does with its arguments."""
    for at, each in enumerate(values):
        if name in INTO and at == 0:
            watcher.whole(each, write=True)
        elif name != "send":
            content(watcher, each)


def _has_state(of: Any) -> bool:
    """Return whether an object in C may change: it is no value, and is not known to be harmless."""
    return type(of) not in IMMUTABLE and type(of).__module__ in _STATEFUL_MODULES


_STATEFUL_MODULES = ("_queue", "_random", "_ctypes", "ctypes", "_csv", "_thread", "_pickle")


def _formatted(watcher: Watcher, text: str, values: list[Any]) -> None:
    """Note what ``text.format(...)`` reads: fields and items too, if the text names some."""
    names = any("." in each or "[" in each for each in text.split("{")[1:])
    for each in values:
        read(watcher, each, plain=names)


def packed(watcher: Watcher, name: str, layout: str, args: Args, kwargs: dict[str, Any]) -> None:
    """Note that a `struct` is written into a buffer, or read from it."""
    write = name == "pack_into"
    buffer = args[0] if args else kwargs.get("buffer")
    offset = args[1] if len(args) > 1 else kwargs.get("offset", 0)
    if isinstance(buffer, (*BYTES, memoryview)) and isinstance(offset, int):
        known = not isinstance(buffer, memoryview) or buffer.itemsize == 1
        if known:
            start = offset + len(buffer) if offset < 0 else offset
            watcher.range(buffer, start, start + struct.calcsize(layout), write=write)
            return
    for source in watcher.sources(buffer):
        watcher.whole(source, write=write)


def given(watcher: Watcher, name: str, values: list[Any]) -> None:
    """Note that C code, of a method or an object, is given values."""
    shared = [each for each in values if is_shared(watcher, each)]
    last = name.rpartition(".")[2]
    if last in INTO and values:
        watcher.whole(values[0], write=True)
    elif shared and last not in READERS:
        watcher.no_rule(name)
    for each in shared:
        read(watcher, each, plain=last in COPIES or last == "format")


def measured(watcher: Watcher, of: Any) -> None:
    """Note that a length is read."""
    kind = type(of)
    if overrides(kind, "__len__"):
        return
    if is_library(kind):
        accessed(watcher, of, "__len__", ())
    for source in (of,) if is_container(of) else watcher.sources(of):
        watcher.shape(source, write=False)


def copied(watcher: Watcher, name: str, values: list[Any]) -> None:
    """Note that what is given is copied or encoded, with the fields of plain objects."""
    if name in ("copy", "replace"):
        read(watcher, values[0])
        fields(watcher, values[0])
        values = values[1:]
    for each in values:
        read(watcher, each, plain=True)
