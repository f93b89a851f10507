"""What the methods of built-in containers read and write.

A container's places are its items, by key or index, and its shape: which items there are.
`access` reports the accesses of a method call to a `Sink`; one that has no rule returns False.  Nothing
here calls a method that the user's class of a container has of its own.
"""

from __future__ import annotations

import array
import operator
from collections import defaultdict, deque
from collections.abc import Hashable, Sized
from typing import Any, Protocol

from hfsched.explore.watch.kinds import BYTES, found_in

__all__ = ["Sink", "access", "contains", "delete", "get", "has", "index_of", "length", "put"]

_MOST = 1000  # of a slice's items that are reported one by one


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
    "__xor__ buffer_info capitalize center copy count decode difference endswith "
    "expandtabs find hex index intersection isalnum isalpha isascii isdigit isdisjoint "
    "islower isspace issubset issuperset istitle isupper items join ljust lower lstrip "
    "partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip "
    "split splitlines startswith strip swapcase symmetric_difference title tobytes tofile tolist "
    "tounicode translate union upper values zfill "
)
_READ_SHAPE = _words("__bool__ __len__ __sizeof__ keys size tell ")
_WRITE_ALL = _words(
    "__iadd__ __iand__ __imul__ __ior__ __isub__ __ixor__ appendleft byteswap clear "
    "difference_update extend extendleft frombytes fromfile fromlist fromunicode "
    "insert intersection_update move move_to_end popitem popleft read read_byte "
    "readline remove resize reverse rotate seek sort subtract "
    "symmetric_difference_update update write write_byte "
)
_NOTHING = _words(
    "__class__ __hash__ __init__ __new__ cast close flush fromkeys madvise release toreadonly "
)


def access(sink: Sink, of: Any, method: str, args: tuple[Any, ...]) -> bool:
    """Report what a method call on a container accesses; False: it has no rule."""
    if method in _READ_ALL:
        sink.whole(of, write=False)
    elif method in _READ_SHAPE:
        sink.shape(of, write=False)
    elif method in _WRITE_ALL:
        sink.whole(of, write=True)
    elif method == "append":
        _append(sink, of)
    elif method == "__contains__" and args:
        contains(sink, of, args[0])
    elif method == "get" and args and isinstance(of, dict):
        sink.item(of, args[0], write=False) if _is_key(args[0]) else None
    elif method == "__getitem__" and args:
        get(sink, of, args[0])
    elif method == "__setitem__" and args:
        put(sink, of, args[0], *args[1:2])
    elif method == "__delitem__" and args:
        delete(sink, of, args[0])
    elif method == "setdefault" and args:
        if has(of, args[0]):
            sink.item(of, args[0], write=False)
        else:
            put(sink, of, args[0])
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


def length(of: Any) -> int:
    """Return a container's length, as its type in C has it."""
    for kind in type(of).__mro__:
        made = kind.__dict__.get("__len__")
        if type(made) is type(list.__len__):
            return int(made(of))
    return 0


def has(of: Any, key: Any) -> bool:
    """Return whether a dict or set has a key; one that cannot be a key it has not."""
    if isinstance(of, dict):
        return _is_key(key) and dict.__contains__(of, key)
    return _is_key(_of_set(key)) and set.__contains__(of, key)


def _is_key(key: Any) -> bool:
    """Return whether something can be a key; the program's own error comes if it is used as one."""
    try:
        hash(key)
    except TypeError:
        return False
    return True


def _of_set(key: Any) -> Any:
    """Return what a set looks for: of a set, the frozen one that is equal."""
    return frozenset(key) if isinstance(key, set) else key


def index_of(key: Any) -> Any:
    """Return an index as an int, if it is one: its `__index__` is called once."""
    kind = type(key)
    if kind is int or kind is slice or found_in(kind, "__index__") is None:
        return key
    return operator.index(key)


def _append(sink: Sink, of: Any) -> None:
    if isinstance(of, deque) and of.maxlen is not None and length(of) >= of.maxlen:
        sink.whole(of, write=True)  # every item gets another index
        return
    sink.shape(of, write=True)
    size = length(of)
    if isinstance(of, BYTES):
        sink.range(of, size, size + 1, write=True)
    else:
        sink.item(of, size, write=True)


def contains(sink: Sink, of: Any, key: Any) -> None:
    """Report ``key in of``."""
    if isinstance(of, dict | set):
        key = _of_set(key) if isinstance(of, set) else key
        if _is_key(key):
            sink.item(of, key, write=False)
    else:
        sink.whole(of, write=False)


def get(sink: Sink, of: Any, key: Any) -> None:
    """Report ``of[key]``."""
    if isinstance(of, dict):
        if not _is_key(key):
            return
        # A `defaultdict` makes the item; another `__missing__` is code that is watched, or makes none.
        makes = isinstance(of, defaultdict) and of.default_factory is not None and not has(of, key)
        sink.item(of, key, write=makes)
        if makes:
            sink.shape(of, write=True)
    elif not isinstance(of, set):
        _sequence(sink, of, key, write=False)


def put(sink: Sink, of: Any, key: Any, value: Any = None) -> None:
    """Report ``of[key] = value``, and ``of.add(key)`` of a set."""
    if isinstance(of, dict | set):
        if not _is_key(key):
            return
        sink.item(of, key, write=True)
        if not has(of, key):
            sink.shape(of, write=True)
    elif isinstance(key, slice) and isinstance(of, list) and not _keeps_length(of, key, value):
        sink.whole(of, write=True)
    else:
        _sequence(sink, of, key, write=True)


def _keeps_length(of: list[Any], key: slice, value: Any) -> bool:
    """Return whether items of a list are replaced by as many."""
    known = type(value) in (list, tuple, str, bytes, bytearray, range)
    if not known or not _is_whole(key):
        return False
    value_of: Sized = value
    return len(range(*key.indices(length(of)))) == len(value_of)


def delete(sink: Sink, of: Any, key: Any) -> None:
    """Report ``del of[key]``, and ``of.discard(key)`` of a set."""
    if isinstance(of, dict | set):
        key = _of_set(key) if isinstance(of, set) else key
        if not _is_key(key):
            return
        present = has(of, key)
        sink.item(of, key, write=present)
        if present:
            sink.shape(of, write=True)
    else:
        sink.whole(of, write=True)


def _is_whole(key: slice) -> bool:
    """Return whether a slice's parts are whole numbers."""
    return all(each is None or type(each) is int for each in (key.start, key.stop, key.step))


def _sequence(sink: Sink, of: Any, key: Any, *, write: bool) -> None:
    """Report an access by index or slice; an index that is none is the program's own error."""
    key = index_of(key)
    size = length(of)
    if isinstance(key, slice):
        if not _is_whole(key) or key.step == 0:
            sink.whole(of, write=write)
        else:
            _slice(sink, of, key, size, write=write)
    elif isinstance(key, int):
        at = key + size if key < 0 else key
        if isinstance(of, BYTES):
            if isinstance(of, bytearray) and not 0 <= key < size:
                sink.shape(of, write=False)
            sink.range(of, at, at + 1, write=write)
        elif isinstance(of, memoryview):
            sink.range(of, at, at + 1, write=write)
        else:
            if at != key or not 0 <= at < size:
                sink.shape(of, write=False)
            sink.item(of, at, write=write)
    elif isinstance(of, memoryview):
        sink.whole(of, write=write)


def _slice(sink: Sink, of: Any, key: slice, size: int, *, write: bool) -> None:
    places = range(*key.indices(size))
    if isinstance(of, (*BYTES, memoryview)):
        if places:
            sink.range(of, min(places[0], places[-1]), max(places[0], places[-1]) + 1, write=write)
        elif not isinstance(of, memoryview):
            sink.shape(of, write=False)
        return
    if len(places) > _MOST or isinstance(of, array.array):
        sink.whole(of, write=write)
        return
    start, stop = key.start, key.stop
    if stop is None or not 0 <= stop <= size or (start is not None and not 0 <= start <= size):
        sink.shape(of, write=False)  # which items these are depends on the length
    for each in places:
        sink.item(of, each, write=write)
