"""What the methods of built-in containers read and write.

A container's places are its items, by key or index, and its shape: which items there are.
`access` reports the accesses of a method call to a `Sink`; one that has no rule returns False.
"""

from __future__ import annotations

import array
import mmap
from collections import deque
from collections.abc import Hashable
from typing import Any, Protocol

__all__ = ["BYTES", "CONTAINERS", "Sink", "access", "contains", "delete", "get", "put"]

BYTES = (bytearray, mmap.mmap)
CONTAINERS = (list, dict, set, deque, bytearray, mmap.mmap, array.array, memoryview)


class Sink(Protocol):
    """Where accesses are reported."""

    def item(self, of: Any, key: Hashable, *, write: bool) -> None:
        """Report an access to one item."""

    def shape(self, of: Any, *, write: bool) -> None:
        """Report an access to which items there are."""

    def whole(self, of: Any, *, write: bool) -> None:
        """Report an access to everything."""

    def range(self, of: Any, start: int, stop: int, *, write: bool) -> None:
        """Report an access to bytes [start, stop)."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Method names, of lists, deques, dicts, sets, bytearrays, arrays and mappings of memory together: where
# two types have a method of the same name, it does the same.
_READ_ALL = _words(
    "elements most_common total "
    "__add__ __and__ __copy__ __deepcopy__ __eq__ __ge__ __gt__ __iter__ __le__ __lt__ "
    "__mul__ __ne__ __or__ __reduce__ __reduce_ex__ __repr__ __reversed__ __str__ __sub__ "
    "__xor__ buffer_info capitalize cast center copy count decode difference endswith "
    "expandtabs find hex index intersection isalnum isalpha isascii isdigit isdisjoint "
    "islower isspace issubset issuperset istitle isupper items join ljust lower lstrip "
    "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip "
    "split splitlines startswith strip swapcase symmetric_difference title tobytes tolist "
    "toreadonly tounicode translate union upper values zfill "
)
_READ_SHAPE = _words("__bool__ __len__ __sizeof__ keys size tell ")
_WRITE_ALL = _words(
    "__iadd__ __iand__ __imul__ __ior__ __isub__ __ixor__ appendleft byteswap clear "
    "difference_update extend extendleft frombytes fromfile fromlist fromunicode "
    "insert intersection_update move move_to_end popitem popleft read read_byte "
    "readline release remove resize reverse rotate seek sort subtract "
    "symmetric_difference_update update write write_byte "
)
_NOTHING = _words("__class__ __hash__ __init__ __new__ close flush fromkeys madvise ")


def access(sink: Sink, of: Any, method: str, args: tuple[Any, ...]) -> bool:
    """Report what a method call on a container accesses; False: it has no rule."""
    if method in _READ_ALL:
        sink.whole(of, write=False)
    elif method in _READ_SHAPE:
        sink.shape(of, write=False)
    elif method in _WRITE_ALL:
        sink.whole(of, write=True)
    elif method == "append":
        sink.shape(of, write=True)
        sink.item(of, len(of), write=True)
    elif method in ("__getitem__", "get", "__contains__") and args:
        if method == "__contains__":
            contains(sink, of, args[0])
        else:
            get(sink, of, args[0])
    elif method == "__setitem__" and args:
        put(sink, of, args[0])
    elif method == "__delitem__" and args:
        delete(sink, of, args[0])
    elif method == "setdefault" and args:
        (get if args[0] in of else put)(sink, of, args[0])
    elif method == "add" and args:
        put(sink, of, args[0])
    elif method == "discard" and args:
        delete(sink, of, args[0])
    elif method == "pop":
        if isinstance(of, dict) and args:
            delete(sink, of, args[0])
        else:
            sink.whole(of, write=True)
    else:
        return method in _NOTHING
    return True


def contains(sink: Sink, of: Any, key: Any) -> None:
    """Report ``key in of``."""
    if isinstance(of, dict | set):
        sink.item(of, key, write=False)
    else:
        sink.whole(of, write=False)


def get(sink: Sink, of: Any, key: Any) -> None:
    """Report ``of[key]``."""
    if isinstance(of, dict):
        # A `defaultdict`, or another with `__missing__`, makes the item.
        makes = key not in of and hasattr(type(of), "__missing__")
        sink.item(of, key, write=makes)
        if makes:
            sink.shape(of, write=True)
    else:
        _sequence(sink, of, key, write=False)


def put(sink: Sink, of: Any, key: Any) -> None:
    """Report ``of[key] = value``, and ``of.add(key)`` of a set."""
    if isinstance(of, dict | set):
        sink.item(of, key, write=True)
        if key not in of:
            sink.shape(of, write=True)
    else:
        _sequence(sink, of, key, write=True)


def delete(sink: Sink, of: Any, key: Any) -> None:
    """Report ``del of[key]``, and ``of.discard(key)`` of a set."""
    if isinstance(of, dict | set):
        present = key in of
        sink.item(of, key, write=present)
        if present:
            sink.shape(of, write=True)
    else:
        sink.whole(of, write=True)


def _sequence(sink: Sink, of: Any, key: Any, *, write: bool) -> None:
    """Report an access by index or slice."""
    size = len(of)
    if isinstance(of, BYTES):
        start, stop, _ = key.indices(size) if isinstance(key, slice) else (key, key + 1, 1)
        if not isinstance(key, slice) and key < 0:
            start, stop = key + size, key + size + 1
        sink.range(of, start, stop, write=write)
        return
    if isinstance(of, memoryview) or isinstance(key, slice):
        sink.whole(of, write=write)
    else:
        index = key.__index__()
        if index < 0 or index >= size:
            sink.shape(of, write=False)
            index += size if index < 0 else 0
        sink.item(of, index, write=write)
