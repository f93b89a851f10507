"""What is read when an object is consumed, compared, printed or tested for truth."""

from __future__ import annotations

from collections import deque
from collections.abc import ItemsView, KeysView, ValuesView
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.kinds import (
    CONTAINERS,
    is_container,
    is_iterator,
    is_library,
    is_plain,
    overrides,
)
from hfsched.explore.watch.libraries import used
from hfsched.explore.watch.places import IMMUTABLE, compares_fields, fields_of, is_frozen

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["content", "deep", "elements", "fields", "is_shared", "using"]

_PLAIN = IMMUTABLE - {tuple, frozenset}
_ITERATED = (tuple, frozenset, range, str, bytes, KeysView, ValuesView, ItemsView)


def content(watcher: Watcher, of: Any) -> None:
    """Note that a container's items are read, or that an iterator or view is used up."""
    if type(of) in IMMUTABLE:
        return
    using(watcher, of)
    if is_library(type(of)) and not overrides(type(of), "__iter__"):
        used(watcher, of, write=False)
    for source in watcher.sources(of):
        watcher.whole(source, write=False)
    watcher.consumed(of)


def using(watcher: Watcher, of: Any) -> None:
    """Note that an iterator, if it is one, is advanced, which changes it."""
    if is_iterator(type(of)):
        watcher.whole(of, write=True)


def fields(watcher: Watcher, of: Any) -> list[Any]:
    """Note that all fields of an object are read; return their values."""
    names = fields_of(of)
    for name in names:
        watcher.attribute(of, name, write=False)
    return [getattr(of, name, None) for name in names]


def deep(watcher: Watcher, of: Any, *, plain: bool = False) -> None:
    """Note what a comparison, a hash or a text of an object reads: fields and items, all the way down.

    An object that is not compared by its fields is read by its own methods, which are watched.  With `plain` the fields
    of every object are read, as a copy reads them.
    """
    if type(of) in _PLAIN:
        return
    seen: dict[int, Any] = {}
    left = deque([of])
    while left:
        each = left.popleft()
        if type(each) in _PLAIN or id(each) in seen:
            continue
        seen[id(each)] = each
        if is_library(type(each)):
            used(watcher, each, write=False)
        for source in watcher.sources(each):
            watcher.whole(source, write=False)
            left.extend(_items(source))
        if issubclass(type(each), tuple | frozenset):
            left.extend(each)
        elif not issubclass(type(each), type) and _reads_fields(type(each), each, plain=plain):
            left.extend(fields(watcher, each))


def _reads_fields(kind: type, of: Any, *, plain: bool) -> bool:
    return issubclass(kind, SimpleNamespace) or compares_fields(kind) or (plain and is_plain(of))


def _items(of: Any) -> list[Any]:
    if issubclass(type(of), dict):
        return [*dict.keys(of), *dict.values(of)]
    if issubclass(type(of), list):
        return list(list.__iter__(of))
    if issubclass(type(of), set):
        return list(set.__iter__(of))
    return list(deque.__iter__(of)) if issubclass(type(of), deque) else []


def elements(of: Any) -> list[Any] | None:
    """Return what iterating over an object gives; None if finding out would use it up, or run its methods."""
    kind = type(of)
    if issubclass(kind, (*CONTAINERS, *_ITERATED)) and not overrides(kind, "__iter__"):
        if issubclass(kind, memoryview) and of.ndim != 1:
            return None
        return list(of)
    return None


def is_shared(watcher: Watcher, of: Any, depth: int = 3) -> bool:
    """Return whether code that is given an object can read or write what tasks share."""
    kind = type(of)
    if is_container(of) or watcher.sources(of):
        return True
    if issubclass(kind, tuple | frozenset):
        return any(is_shared(watcher, each, depth) for each in of)
    if not is_plain(of):
        return is_iterator(kind)
    if not is_frozen(kind):
        return True
    return depth == 0 or any(
        is_shared(watcher, getattr(of, name, None), depth - 1) for name in fields_of(of)
    )
