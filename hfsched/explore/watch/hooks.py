"""What watched code calls: each hook reports an access to the watcher of the running execution.

Without one, and where accesses do not count, a hook only does what the plain code does.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from hfsched.explore.watch import containers
from hfsched.explore.watch.calls import after, before, keep
from hfsched.explore.watch.history import Site
from hfsched.explore.watch.kinds import (
    CONTAINERS,
    found_in,
    is_container,
    is_iterator,
    is_library,
    overrides,
)
from hfsched.explore.watch.libraries import accessed, backing, written
from hfsched.explore.watch.places import IMMUTABLE, fields_of
from hfsched.explore.watch.reads import content as read_content
from hfsched.explore.watch.reads import deep
from hfsched.explore.watch.watcher import Watcher

__all__ = ["HOOKS", "install"]

_watcher: Watcher | None = None


def install(watcher: Watcher | None) -> None:
    """Report to this watcher; None: to none."""
    global _watcher  # noqa: PLW0603 - watched code is the process's
    _watcher = watcher


def _active(site: Site) -> Watcher | None:
    watcher = _watcher
    return watcher if watcher is not None and watcher.begin(site) else None


# Attributes.


def attribute(of: Any, name: str, site: Site) -> Any:
    """Report that an attribute is read; return the object."""
    watcher = _active(site)
    if watcher is not None:
        watcher.attribute(of, name, write=False)
        if name == "__dict__":
            watcher.same(of.__dict__, of)
    return of


def attribute_written(of: Any, name: str, site: Site) -> Any:
    """Report that an attribute is written or deleted; return the object."""
    watcher = _active(site)
    if watcher is not None:
        watcher.attribute(of, name, write=True)
    return of


class _AugmentedAttribute:
    """Forwards the two accesses of ``of.name += value``, and reports each where it happens."""

    __slots__ = ("_of", "_site")

    def __init__(self, of: Any, site: Site) -> None:
        object.__setattr__(self, "_of", of)
        object.__setattr__(self, "_site", site)

    def __getattribute__(self, name: str) -> Any:
        of, site = _slots_of(self)
        return augmented(getattr(attribute(of, name, site), name), site)

    def __setattr__(self, name: str, value: Any) -> None:
        of, site = _slots_of(self)
        setattr(attribute_written(of, name, site), name, value)


def _slots_of(proxy: _AugmentedAttribute) -> tuple[Any, Site]:
    read = object.__getattribute__
    return read(proxy, "_of"), read(proxy, "_site")


def augmented_attribute(of: Any, site: Site) -> Any:
    """Return what stands for an object in ``of.name += value``."""
    return _AugmentedAttribute(of, site)


def augmented(value: Any, site: Site) -> Any:
    """Report that an operator such as ``+=`` is applied to a value, which it may write; return it."""
    if type(value) in IMMUTABLE:
        return value
    watcher = _active(site)
    if watcher is not None:
        with watcher:
            written(watcher, value)
    return value


# Items.


class _Items:
    """Stands for a container in ``of[key]``: reports the access, and does it."""

    __slots__ = ("_augmented", "_of", "_site")

    def __init__(self, of: Any, site: Site, *, augments: bool) -> None:
        self._of, self._site, self._augmented = of, site, augments

    def __getitem__(self, key: Any) -> Any:
        key = self._before("__getitem__", key)
        found = self._of[key]
        return augmented(found, self._site) if self._augmented else found

    def __setitem__(self, key: Any, value: Any) -> None:
        key = self._before("__setitem__", key, value)
        self._of[key] = value

    def __delitem__(self, key: Any) -> None:
        key = self._before("__delitem__", key)
        del self._of[key]

    def _before(self, method: str, key: Any, *value: Any) -> Any:
        """Report an access; return the key to do it with."""
        watcher = _active(self._site)
        if watcher is None or overrides(type(self._of), method):  # that method is watched itself
            return key
        with watcher:
            return self._report(watcher, method, key, *value)

    def _report(self, watcher: Watcher, method: str, key: Any, *value: Any) -> Any:
        if is_container(self._of):
            if not isinstance(self._of, dict | set):
                key = containers.index_of(key)
            if method == "__getitem__" and isinstance(self._of, defaultdict):
                self._makes(watcher, key)
            if isinstance(key, slice) and value:
                read_content(watcher, value[0])
            containers.access(watcher, self._of, method, (key, *value))
        else:
            accessed(watcher, self._of, method, (key, *value))
        return key

    def _makes(self, watcher: Watcher, key: Any) -> None:
        """Report what a `defaultdict`'s factory does, if it is called."""
        if self._of.default_factory is not None and not containers.has(self._of, key):
            before(watcher, self._of.default_factory, (), {})


def _items(of: Any, site: Site, *, augments: bool) -> Any:
    kind = type(of)
    known = issubclass(kind, CONTAINERS) or is_library(kind) or backing(of) is not of
    return _Items(of, site, augments=augments) if known and _active(site) is not None else of


def item(of: Any, site: Site) -> Any:
    """Return what ``of[key]`` is done with."""
    return _items(of, site, augments=False)


def augmented_item(of: Any, site: Site) -> Any:
    """Return what ``of[key] += value`` is done with."""
    return _items(of, site, augments=True)


# Variables.


def cell_read(variable: Any, value: Any, site: Site) -> Any:
    """Report that a variable of a closure is read; return its value."""
    watcher = _active(site)
    if watcher is not None:
        watcher.item(variable.__closure__[0], _name(variable), write=False)
    return value


def cell_written(variable: Any, site: Site) -> None:
    """Report that a variable of a closure is written."""
    watcher = _active(site)
    if watcher is not None:
        watcher.item(variable.__closure__[0], _name(variable), write=True)


def cell_assigned(variable: Any, value: Any, site: Site) -> Any:
    """Report that a variable of a closure is written; return the value."""
    cell_written(variable, site)
    return value


def _name(variable: Any) -> str:
    name: str = variable.__code__.co_freevars[0]
    return name


def global_read(name: str, value: Any, site: Site) -> Any:
    """Report that a variable of the module is read, if it is one; return its value."""
    watcher = _active(site)
    if watcher is not None:
        variables = sys._getframe(1).f_globals
        if name in variables:
            watcher.item(variables, name, write=False)
    return value


def global_written(name: str, site: Site) -> None:
    """Report that a variable of the module is written."""
    watcher = _active(site)
    if watcher is not None:
        watcher.item(sys._getframe(1).f_globals, name, write=True)


def global_assigned(name: str, value: Any, site: Site) -> Any:
    """Report that a variable of the module is written; return the value."""
    watcher = _active(site)
    if watcher is not None:
        watcher.item(sys._getframe(1).f_globals, name, write=True)
    return value


# What a value is used for.


def content(of: Any, site: Site) -> Any:
    """Report that the items of a value are read; return it."""
    if type(of) not in IMMUTABLE:
        watcher = _active(site)
        if watcher is not None:
            read_content(watcher, of)
    return of


def compared(of: Any, site: Site) -> Any:
    """Report that a value is an operand, or printed; return it."""
    kind = type(of)
    if kind not in IMMUTABLE or kind is tuple or kind is frozenset:
        watcher = _active(site)
        if watcher is not None:
            with watcher:
                deep(watcher, of)
    return of


def truth(of: Any, site: Site) -> Any:
    """Report that a value is tested for truth; return it."""
    kind = type(of)
    if kind not in IMMUTABLE and not overrides(kind, "__bool__") and not overrides(kind, "__len__"):
        watcher = _active(site)
        if watcher is not None:
            for source in (of,) if is_container(of) else watcher.sources(of):
                watcher.shape(source, write=False)
            if is_library(kind):
                accessed(watcher, of, "__len__", ())
    return of


def contains(key: Any, of: Any, site: Site) -> bool:
    """Report and do ``key in of``."""
    watcher = _active(site)
    kind = type(of)
    if watcher is None or overrides(kind, "__contains__"):
        return key in of
    if found_in(kind, "__contains__") is None and overrides(kind, "__iter__"):
        return key in of
    with watcher:
        if issubclass(kind, CONTAINERS):
            containers.contains(watcher, of, key)
        elif is_library(kind) or backing(of) is not of:
            accessed(watcher, of, "__contains__", (key,))
        else:
            read_content(watcher, of)
        deep(watcher, key)
        if not issubclass(kind, dict | set):  # the elements are compared
            deep(watcher, of)
    return key in of


def matched(of: Any, names: tuple[str, ...], site: Site) -> Any:
    """Report that patterns of ``match`` read attributes ("*": all) and items of a value; return it."""
    watcher = _active(site)
    if watcher is not None and type(of) not in IMMUTABLE:
        read_content(watcher, of)
        for name in fields_of(of) if "*" in names else names:
            watcher.attribute(of, name, write=False)
    return of


# Iteration.


def iterated(of: Any, site: Site) -> Any:
    """Return what a loop over `of` runs over: each step reports that the container is read."""
    return _steps(of, site, unpacks=False)


def unpacked(of: Any, site: Site) -> Any:
    """Likewise, for a loop that unpacks each item."""
    return _steps(of, site, unpacks=True)


def _steps(of: Any, site: Site, *, unpacks: bool) -> Any:
    if type(of) in IMMUTABLE or _watcher is None:
        return of
    if is_iterator(type(of)):
        return _Advancing(of, site, unpacks=unpacks)
    if is_library(type(of)) and not overrides(type(of), "__iter__"):
        watcher = _active(site)
        if watcher is not None:
            accessed(watcher, of, "__iter__", ())
        return of
    return _reporting(of, site, unpacks=unpacks) if _watcher.sources(of) else of


class _Advancing:
    """Stands for an iterator that is used up: reports each step as a write of it, and does it."""

    __slots__ = ("_of", "_site", "_unpacks")

    def __init__(self, of: Any, site: Site, *, unpacks: bool) -> None:
        self._of, self._site, self._unpacks = of, site, unpacks

    def __iter__(self) -> _Advancing:
        return self

    def __next__(self) -> Any:
        content(self._of, self._site)
        found = next(self._of)
        return content(found, self._site) if self._unpacks else found

    def __getattr__(self, name: str) -> Any:  # ``yield from`` sends, throws and closes
        content(self._of, self._site)
        return getattr(self._of, name)


def _reporting(of: Any, site: Site, *, unpacks: bool) -> Iterator[Any]:
    content(of, site)
    for each in of:
        if unpacks:
            content(each, site)
        yield each
        content(of, site)


# Calls.


def call(site: Site, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Report what a call accesses, and make it."""
    watcher = _active(site)
    if watcher is not None:
        with watcher:
            before(watcher, function, args, kwargs)
    result = function(*args, **kwargs)
    if _watcher is not None:
        with _watcher:
            keep(_watcher, function, args, result)
        if _watcher.begin(site):
            with _watcher:
                after(_watcher, function, result)
    return result


HOOKS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        attribute,
        attribute_written,
        augmented_attribute,
        augmented,
        item,
        augmented_item,
        cell_read,
        cell_written,
        cell_assigned,
        global_read,
        global_written,
        global_assigned,
        content,
        compared,
        truth,
        contains,
        matched,
        iterated,
        unpacked,
        call,
    )
}
