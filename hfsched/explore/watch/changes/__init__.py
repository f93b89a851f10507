"""What a task has changed while it held a lock, and what could be there instead.

Before a task writes an object for the first time, what it writes is noted (`noted`).  When the lock is let go, what
differs is a `Difference`: a field, an item, a key, the length, some bytes.  Each has *variants*: for a moment the
object has something else in that place, and the rest stays.  A function that returns the same with every
variant does not tell what is there.

What is put there is what was there before, if both are plain values; otherwise something that is equal to nothing
and has no methods.  No method of the program's own is called for that: containers are changed by the methods of their
types in C, and fields as `object` does it.
"""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Hashable
from typing import Any

from hfsched.explore.watch.changes.before import Before, Difference, Opaque, is_plain_key
from hfsched.explore.watch.changes.fields import Fields
from hfsched.explore.watch.changes.items import DictItems, SequenceItems, SetElements
from hfsched.explore.watch.changes.memory import Bytes, Memory
from hfsched.explore.watch.history import ALL
from hfsched.explore.watch.kinds import BYTES, CONTAINERS, is_ctypes, is_iterator
from hfsched.explore.watch.libraries import is_stateful
from hfsched.explore.watch.places import dict_of, fields_of

__all__ = ["Before", "Difference", "noted"]


def noted(of: Any, key: Hashable) -> list[Before]:
    """Return what is to be told of each write of an object from now on, of which `key` is the first."""
    if issubclass(type(of), CONTAINERS) or is_ctypes(type(of)):
        content = _content(of, key)
        plain = dict_of(of) is None and type(of) in CONTAINERS
        return [content] if plain or is_ctypes(type(of)) else [content, Fields(of)]
    if key is ALL and (is_iterator(type(of)) or is_stateful(of) or not fields_of(of)):
        return [Opaque()]
    return [Fields(of)]


def _content(of: Any, key: Hashable) -> Before:
    if issubclass(type(of), dict | set):
        keys = dict.keys(of) if issubclass(type(of), dict) else set.__iter__(of)
        if not all(map(is_plain_key, (*keys, key))):
            return Opaque()
        return DictItems(of) if issubclass(type(of), dict) else SetElements(of)
    if issubclass(type(of), BYTES):
        return Bytes(of)
    if issubclass(type(of), list | deque | array.array):
        return SequenceItems(of)
    return Memory(of) if is_ctypes(type(of)) else Opaque()
