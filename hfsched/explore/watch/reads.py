"""What is read when an object is consumed, compared, printed or tested for truth."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.containers import CONTAINERS
from hfsched.explore.watch.places import IMMUTABLE, compares_fields, fields_of

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["content", "deep", "is_shared"]

_PLAIN = IMMUTABLE - {tuple, frozenset}


def content(watcher: Watcher, of: Any) -> None:
    """Note that all items of a container, or of what an iterator or view reads, are read."""
    for source in watcher.sources(of):
        watcher.whole(source, write=False)


def deep(watcher: Watcher, of: Any, *, keys: bool = False) -> None:
    """Note what a comparison, a hash or a text of an object reads: fields and items, all the way down.

    An object that is not compared by its fields is read by its own methods, which are watched.  With `keys` it
    is read as a state is: by its method `key` if it has one (`hfsched.explore.canonical`).
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
        for source in watcher.sources(each):
            watcher.whole(source, write=False)
            left.extend(_items(source))
        if isinstance(each, tuple | frozenset):
            left.extend(each)
        elif keys and callable(getattr(type(each), "key", None)):
            left.append(each.key())
        elif not isinstance(each, type) and compares_fields(type(each)):
            for name in fields_of(each):
                watcher.attribute(each, name, write=False)
                left.append(getattr(each, name, None))


def _items(of: Any) -> list[Any]:
    if isinstance(of, dict):
        return [*of, *of.values()]
    return list(of) if isinstance(of, list | set | deque) else []


def is_shared(watcher: Watcher, of: Any) -> bool:
    """Return whether code that is given an object can read or write what tasks share."""
    if isinstance(of, CONTAINERS) or watcher.sources(of):
        return True
    return isinstance(of, tuple) and any(is_shared(watcher, each) for each in of)
