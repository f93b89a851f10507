"""Objects of libraries, and of types in C that are no containers: what using them reads and writes.

Their code is not watched, so each counts as a whole, together with the containers that it holds.
"""

from __future__ import annotations

import gc
import io
import random
import zlib
from collections import ChainMap
from collections.abc import Callable
from types import GeneratorType, MappingProxyType
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.containers import access
from hfsched.explore.watch.kinds import (
    CONTAINERS,
    MODULES_NUMBERS,
    is_container,
    is_library,
    is_plain,
    overrides,
)
from hfsched.explore.watch.places import fields_of
from hfsched.explore.watch.rules import CHANGES, LOOKS

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["accessed", "backing", "is_stateful", "used", "written"]

# Whatever is called of them may change them.
_STATEFUL = (
    GeneratorType,
    io.IOBase,
    random.Random,
    type(zlib.compressobj()),
    type(zlib.decompressobj()),
)
_DEPTH = 3  # of the objects and containers that are read behind a library's object


def backing(of: Any) -> Any:
    """Return the container that an object only shows; of another object, itself."""
    if type(of) is MappingProxyType:
        found = gc.get_referents(of)
        if len(found) == 1 and is_container(found[0]):
            return found[0]
    return of


def is_stateful(of: Any) -> bool:
    """Return whether whatever is called of an object may change it, and nothing else."""
    kind = type(of)
    if of is MODULES_NUMBERS:  # any task may draw from it at any time
        return False
    return issubclass(kind, _STATEFUL) or kind.__module__ in ("_hashlib", "_blake2", "_md5")


def accessed(watcher: Watcher, of: Any, method: str, args: tuple[Any, ...]) -> bool:
    """Note what a method reads or writes of a library's object; False: it has no rule."""
    under = backing(of)
    if under is not of:
        return access(watcher, under, method, args)
    if method in LOOKS:
        used(watcher, of, write=False)
    elif method in CHANGES:
        used(watcher, of, write=True)
    else:
        return False
    return True


def used(watcher: Watcher, of: Any, *, write: bool) -> None:
    """Note an access to all of a library's object, and to the containers that it holds."""
    watcher.whole(of, write=write)
    if not is_plain(of):
        return
    if write and issubclass(type(of), ChainMap):
        watcher.whole(of.maps[0], write=True)
        return
    _held(watcher, of, _DEPTH, lambda each: watcher.whole(each, write=write))


def written(watcher: Watcher, of: Any) -> None:
    """Note that an operator such as ``+=`` writes a container, of whichever kind."""
    kind = type(of)
    if any(overrides(kind, name) for name in _IN_PLACE):
        return
    if is_library(kind):
        used(watcher, of, write=True)
    for source in watcher.sources(of):
        watcher.whole(source, write=True)


_IN_PLACE = [f"__{name}__" for name in ("iadd", "iand", "imul", "ior", "isub", "ixor")]


def _held(watcher: Watcher, of: Any, depth: int, note: Callable[[Any], None]) -> None:
    """Note containers that an object has in its fields, and in containers there."""
    for name in fields_of(of):
        each = getattr(of, name, None)
        if issubclass(type(each), CONTAINERS):
            note(each)
            for inner in each if isinstance(each, list) else ():
                if issubclass(type(inner), CONTAINERS):
                    note(inner)
        elif depth and is_plain(each) and type(each).__module__ == type(of).__module__:
            _held(watcher, each, depth - 1, note)
