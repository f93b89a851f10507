"""Hooks for loops and for unpacking: each step reports what it reads, at every level of the target."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any

from hfsched.explore.watch.current import active, installed
from hfsched.explore.watch.history import Site
from hfsched.explore.watch.kinds import is_iterator, is_library, overrides
from hfsched.explore.watch.libraries import accessed
from hfsched.explore.watch.places import IMMUTABLE
from hfsched.explore.watch.reads import content as read_content
from hfsched.explore.watch.targets import STAR, Shape, is_nested

__all__ = [
    "async_unpacked",
    "content",
    "delegated",
    "entered",
    "iterated",
    "spread",
    "spread_kept",
    "unpacked",
]

_PLAIN = IMMUTABLE - {tuple, frozenset}
# To go through one of these has no effect.
_AGAIN = (tuple, list, dict, set, frozenset, deque)


def content(of: Any, site: Site) -> Any:
    """Report that the items of a value are read; return it."""
    if type(of) not in IMMUTABLE:
        watcher = active(site)
        if watcher is not None:
            read_content(watcher, of)
    return of


# Loops.


def iterated(of: Any, site: Site) -> Any:
    """Return what a loop over `of` runs over: each step reports that the container is read.

    Also where accesses do not count: a generator that is made there may be run where they do.
    """
    return _steps(of, None, site)


def unpacked(of: Any, shape: Shape, site: Site) -> Any:
    """Likewise, for a loop that unpacks each item."""
    return _steps(of, shape, site)


def _steps(of: Any, shape: Shape | None, site: Site) -> Any:
    watcher = installed()
    kind = type(of)
    if watcher is None or kind in _PLAIN:
        return of
    if is_library(kind) and not overrides(kind, "__iter__") and active(site) is not None:
        accessed(watcher, of, "__iter__", ())
    if shape is None and not watcher.sources(of) and not is_iterator(kind):
        return of
    return _reporting(of, shape, site)


def _reporting(of: Any, shape: Shape | None, site: Site) -> Iterator[Any]:
    nested = shape is not None and is_nested(shape)
    try:
        content(of, site)
        for each in of:
            if shape is None:
                yield each
            else:
                yield spread(each, shape, site) if nested else content(each, site)
            content(of, site)
    finally:
        watcher = installed()
        if watcher is not None:
            watcher.released(of)


def delegated(of: Any, site: Site) -> Any:
    """Return what ``yield from of`` runs: a generator is sent values, so it is that itself."""
    if hasattr(of, "send"):
        content(of, site)
        return of
    return _steps(of, None, site)


class _AsyncSteps:
    """Unpacks each item of an ``async for``."""

    def __init__(self, of: Any, shape: Shape, site: Site) -> None:
        self._of, self._shape, self._site = of, shape, site

    def __aiter__(self) -> AsyncIterator[Any]:
        self._of = aiter(self._of)
        return self

    async def __anext__(self) -> Any:
        return spread(await anext(self._of), self._shape, self._site)


def async_unpacked(of: Any, shape: Shape, site: Site) -> Any:
    """Return what ``async for`` runs over if it unpacks each item."""
    return (
        of if installed() is None or not hasattr(of, "__aiter__") else _AsyncSteps(of, shape, site)
    )


# Unpacking.


def spread(of: Any, shape: Shape, site: Site) -> Any:
    """Report that a value is unpacked; return what is to be unpacked in its place."""
    content(of, site)
    kind = type(of)
    if not is_nested(shape) or kind in _PLAIN or active(site) is None:
        return of
    if kind in _AGAIN or any(each is not None and each[0] == STAR for each in shape if each):
        return _parts(list(of), shape, site)
    if not hasattr(kind, "__iter__"):
        return of
    return _spreading(of, shape, site)


def spread_kept(of: Any, shape: Shape, site: Site) -> Any:
    """Likewise for a value that has several targets: it is returned itself."""
    content(of, site)
    watcher = active(site)
    if watcher is not None and is_nested(shape) and type(of) not in _PLAIN:
        if type(of) in _AGAIN:
            _parts(list(of), shape, site)
        else:
            watcher.no_rule(f"unpacking of {type(of).__qualname__} for several targets")
    return of


def _parts(items: list[Any], shape: Shape, site: Site) -> list[Any]:
    """Return the items, those at a nested place as they are to be unpacked."""
    places: Sequence[Any] = shape
    stars = [index for index, each in enumerate(shape) if each is not None and each[:1] == (STAR,)]
    if stars:
        (star,) = stars
        inner = shape[star][1]
        number = len(items) - len(shape) + 1
        if number < 0:
            return items  # too few: the unpacking says so
        if inner is not None:
            spread(items[star : star + number], inner, site)
        places = [*shape[:star], *[None] * number, *shape[star + 1 :]]
    if len(places) != len(items):
        return items
    return [
        each if place is None else spread(each, place, site)
        for each, place in zip(items, places, strict=True)
    ]


def _spreading(of: Any, shape: Shape, site: Site) -> Iterator[Any]:
    for index, each in enumerate(of):
        place = shape[index] if index < len(shape) else None
        yield each if place is None else spread(each, place, site)


class _Entering:
    """A context manager whose value is unpacked."""

    def __init__(self, of: Any, shape: Shape, site: Site) -> None:
        self._of, self._shape, self._site = of, shape, site

    def __enter__(self) -> Any:
        return spread(type(self._of).__enter__(self._of), self._shape, self._site)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> Any:
        return type(self._of).__exit__(self._of, kind, error, trace)


class _AsyncEntering(_Entering):
    async def __aenter__(self) -> Any:
        return spread(await type(self._of).__aenter__(self._of), self._shape, self._site)

    async def __aexit__(self, *args: Any) -> Any:
        return await type(self._of).__aexit__(self._of, *args)


def entered(of: Any, shape: Shape, site: Site) -> Any:
    """Return what stands for a context manager whose value is unpacked."""
    kind: Any = type(of)
    if installed() is None:
        return of
    if hasattr(kind, "__aenter__") and hasattr(kind, "__aexit__"):
        return _AsyncEntering(of, shape, site)
    if hasattr(kind, "__enter__") and hasattr(kind, "__exit__"):
        return _Entering(of, shape, site)
    return of
