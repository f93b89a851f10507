"""What watched code calls: each hook reports an access to the watcher of the running execution.

Without one, and where accesses do not count, a hook only does what the plain code does.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.util import resolve_name
from types import MappingProxyType
from typing import Any

import hfsched.explore.watch.matching  # noqa: F401 - puts the probes in their place
from hfsched.explore.watch import containers
from hfsched.explore.watch.calls import after, before, keep
from hfsched.explore.watch.current import active, install, installed
from hfsched.explore.watch.frames import hide, looked_from, looks_at_frames
from hfsched.explore.watch.history import Site
from hfsched.explore.watch.iteration import (
    async_unpacked,
    content,
    delegated,
    entered,
    iterated,
    spread,
    spread_kept,
    unpacked,
)
from hfsched.explore.watch.kinds import (
    CONTAINERS,
    found_in,
    is_container,
    is_library,
    is_primitive,
    overrides,
)
from hfsched.explore.watch.libraries import accessed, backing, written
from hfsched.explore.watch.places import IMMUTABLE, class_of, dict_of, forget
from hfsched.explore.watch.reads import content as read_content
from hfsched.explore.watch.reads import deep
from hfsched.explore.watch.standins import behind
from hfsched.explore.watch.variables import (
    cell_assigned,
    cell_read,
    cell_written,
    class_read,
    global_assigned,
    global_read,
    global_written,
)
from hfsched.explore.watch.watcher import Watcher

__all__ = ["HOOKS", "install"]

# Attributes.


def attribute(of: Any, name: str, site: Site) -> Any:
    """Report that an attribute is read; return the object."""
    watcher = active(site)
    if watcher is not None:
        watcher.attribute(of, name, write=False)
        if name == "__dict__":
            watcher.same(dict_of(of), of)
    return of


def attribute_written(of: Any, name: str, site: Site) -> Any:
    """Report that an attribute is written; return the object."""
    return _written(of, name, site, "__setattr__")


def attribute_deleted(of: Any, name: str, site: Site) -> Any:
    """Report that an attribute is deleted; return the object."""
    return _written(of, name, site, "__delattr__")


def _written(of: Any, name: str, site: Site, by: str) -> Any:
    watcher = active(site)
    if watcher is not None:
        watcher.attribute(of, name, write=True, by=by)
    elif issubclass(type(of), type):
        forget(name)
    elif name == "__dict__":
        watcher = installed()
        if watcher is not None:
            watcher.swapped(of)
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
    watcher = active(site)
    if watcher is not None:
        with watcher:
            written(watcher, value)
    return value


# Items.


class _OfClass:
    """Stands for the ``__dict__`` of a class in ``of[key]``."""

    __slots__ = ("_kind", "_of", "_site")

    def __init__(self, of: Any, kind: type, site: Site) -> None:
        self._of, self._kind, self._site = of, kind, site

    def __getitem__(self, key: Any) -> Any:
        watcher = active(self._site)
        if watcher is not None:
            watcher.attribute(self._kind, key, write=False)
        return self._of[key]


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
        watcher = active(self._site)
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
    return _Items(of, site, augments=augments) if known and active(site) is not None else of


def item(of: Any, site: Site) -> Any:
    """Return what ``of[key]`` is done with."""
    of = behind(of)
    if type(of) is MappingProxyType and active(site) is not None:
        kind = class_of(of)
        if kind is not None:
            return _OfClass(of, kind, site)
    return _items(of, site, augments=False)


def augmented_item(of: Any, site: Site) -> Any:
    """Return what ``of[key] += value`` is done with."""
    return _items(behind(of), site, augments=True)


# What a value is used for.


def compared(of: Any, site: Site) -> Any:
    """Report that a value is an operand, or printed; return it."""
    kind = type(of)
    if kind not in IMMUTABLE or kind is tuple or kind is frozenset:
        watcher = active(site)
        if watcher is not None:
            with watcher:
                deep(watcher, of)
    return of


def truth(of: Any, site: Site) -> Any:
    """Report that a value is tested for truth; return it."""
    kind = type(of)
    if kind not in IMMUTABLE and not overrides(kind, "__bool__") and not overrides(kind, "__len__"):
        watcher = active(site)
        if watcher is not None:
            for source in (of,) if is_container(of) else watcher.sources(of):
                watcher.shape(source, write=False)
            if is_library(kind):
                accessed(watcher, of, "__len__", ())
    return of


def contains(key: Any, of: Any, site: Site) -> bool:
    """Report and do ``key in of``."""
    of = behind(of)
    watcher = active(site)
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


# Calls.


def call(site: Site, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Report what a call accesses, and make it."""
    if looks_at_frames(function):
        return looked_from(sys._getframe(1), function, *args, **kwargs)
    watcher = active(site)
    if watcher is not None:
        with watcher:
            before(watcher, function, args, kwargs)
    result = function(*args, **kwargs)
    watcher = installed()
    if watcher is not None:
        with watcher:
            keep(watcher, function, args, result)
        if watcher.begin(site):
            with watcher:
                after(watcher, function, result)
    return result


hide(call)


def runs_text(name: str, site: Site) -> None:
    """Report that code in a text is run, which is not watched."""
    watcher = active(site)
    if watcher is not None:
        watcher.no_rule(name)


def managed(of: Any, site: Site) -> Any:
    """Report that a ``with`` enters a primitive of `threading`, which excludes no task: all are one thread; return it."""
    if is_primitive(type(of)):
        watcher = active(site)
        if watcher is not None:
            watcher.no_rule(f"with {type(of).__name__}, of threading")
    return of


def decorated(decorator: Any, site: Site) -> Callable[[Any], Any]:
    """Return what applies a decorator: that is a call."""

    def apply(of: Any) -> Any:
        return call(site, decorator, of)

    return apply


def imported(module: str, level: int, names: tuple[str, ...], site: Site) -> None:
    """Report that ``from module import names`` has read attributes of a module."""
    watcher = active(site)
    if watcher is None:
        return
    if level:
        package = sys._getframe(1).f_globals.get("__package__") or ""
        try:
            module = resolve_name("." * level + module, package)
        except ImportError:  # a module that was made without a package, and has a loader of its own
            watcher.no_rule("a relative import")
            return
    found = sys.modules.get(module)
    if found is not None:
        for name in names:
            watcher.attribute(found, name, write=False)


HOOKS: dict[str, Callable[..., Any]] = {
    each.__name__: each
    for each in (
        attribute,
        attribute_written,
        attribute_deleted,
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
        class_read,
        content,
        compared,
        truth,
        contains,
        iterated,
        unpacked,
        delegated,
        async_unpacked,
        spread,
        spread_kept,
        entered,
        call,
        runs_text,
        managed,
        decorated,
        imported,
    )
}
