"""What a ``match`` reads, reported by probes that its patterns ask at the moment when they are tried.

A pattern ``P`` becomes ``probe(P)``, where the probe is a class that says it is the class of everything; it
is made from `int`, and so its argument is matched with the subject itself.  It reports what ``P`` is about to
read, and no more: attributes only of an object of the pattern's class, items only of what is long enough.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.current import active
from hfsched.explore.watch.kinds import CONTAINERS
from hfsched.explore.watch.patterns import PROBES
from hfsched.explore.watch.reads import content, deep

if TYPE_CHECKING:
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["Probes"]

_TEXTS = (str, bytes, bytearray)
_MISSING = object()


class _Probing(type):
    """The type of probes."""

    spec: tuple[Any, ...]

    def __instancecheck__(cls, subject: object) -> bool:
        kind, file, line, *rest = cls.spec
        watcher = active((file, line))
        if watcher is not None:
            _READS[kind](watcher, subject, sys._getframe(1), *rest)
        return True


class Probes:
    """The probes, each an attribute that has the name of what it reports."""

    def __getattr__(self, name: str) -> type:
        probe = _Probing("probe", (int,), {"spec": ast.literal_eval(name)})
        self.__dict__[name] = probe
        return probe


def _value_of(watcher: Watcher, frame: FrameType, dotted: str) -> Any:
    """Return the value of a name with attributes, which are read."""
    name, *attributes = dotted.split(".")
    for variables in (frame.f_locals, frame.f_globals, frame.f_builtins):
        if name in variables:
            value = variables[name]
            break
    else:
        return _MISSING
    for each in attributes:
        watcher.attribute(value, each, write=False)
        value = getattr(value, each, _MISSING)
        if value is _MISSING:
            break
    return value


def _class(
    watcher: Watcher,
    subject: Any,
    frame: FrameType,
    dotted: str,
    names: tuple[str, ...],
    positional: int,
) -> None:
    kind = _value_of(watcher, frame, dotted)
    if not isinstance(kind, type):
        return
    watcher.attribute(subject, "__class__", write=False)
    if not isinstance(subject, kind):
        return
    match_args = getattr(kind, "__match_args__", ()) if positional else ()
    for name in (*match_args[:positional], *names):
        watcher.attribute(subject, name, write=False)


def _sequence(
    watcher: Watcher,
    subject: Any,
    _frame: FrameType,
    least: int,
    exact: bool,  # noqa: FBT001
    copies: bool,  # noqa: FBT001
) -> None:
    if not isinstance(subject, Sequence | deque) or isinstance(subject, _TEXTS):
        return
    if exact or least:
        for source in watcher.sources(subject):
            watcher.shape(source, write=False)
    if not isinstance(subject, CONTAINERS):
        return
    fits = len(subject) == least if exact else len(subject) >= least
    if fits and (least or copies):
        content(watcher, subject)


def _mapping(
    watcher: Watcher,
    subject: Any,
    frame: FrameType,
    keys: tuple[tuple[bool, Any], ...],
    copies: bool,  # noqa: FBT001
) -> None:
    if not isinstance(subject, Mapping):
        return
    for dotted, each in keys:
        key = _value_of(watcher, frame, each) if dotted else each
        if not isinstance(subject, dict):
            content(watcher, subject)
            return
        watcher.item(subject, key, write=False)
        if key not in subject:
            return
    if copies:
        content(watcher, subject)


def _value(watcher: Watcher, subject: Any, frame: FrameType, dotted: str) -> None:
    if dotted:
        deep(watcher, _value_of(watcher, frame, dotted))
    deep(watcher, subject)


_READS: dict[str, Any] = {
    "class": _class,
    "sequence": _sequence,
    "mapping": _mapping,
    "value": _value,
}
builtins.__dict__[PROBES] = Probes()
