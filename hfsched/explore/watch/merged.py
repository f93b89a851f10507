"""Plain state that differs between states which a search takes for one.

A search that compares states goes on from one of several with the same digest.  What tasks have observed is in it, and
what things hold, and what locks guard (`state=`); plain state that they order otherwise, by a channel or a cell, is
not.  It need not be, as long as it follows from the rest; but if it depends on which of two tasks came first, it may not.

Watched executions merge nothing.  So they show, at each point where a search would compare states, what tasks have written in places that
several have accessed (`Written`), and keep it by the state's digest (`Merged`): if the digest comes
again with something else there, the place is named.

The values are compared as far as they cannot change; of what can, the class and its fields that cannot.  What
it has that several tasks access, has a place of its own.  Two executions have no names for objects in common, so all
objects of a class are compared together, and not when there are more of them in one.
"""

from __future__ import annotations

import marshal
from collections import deque
from collections.abc import Hashable, Iterable, Mapping
from types import BuiltinFunctionType, CellType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from hfsched.explore.forms import FORMAT, fixed_form
from hfsched.explore.thing import Thing
from hfsched.explore.watch.history import ALL, SHAPE, Extent
from hfsched.explore.watch.kinds import CONTAINERS
from hfsched.explore.watch.naming import text_of
from hfsched.explore.watch.places import fields_of, value_of

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.task import Task
    from hfsched.explore.watch.guarded import Guarded
    from hfsched.explore.watch.history import Site, Tracked

__all__ = ["Differs", "Merged", "Written"]

Differs = tuple["Site", str]  # where it was written last, and what
_Group = tuple[str, str]  # of places: the class, and the field, item or bytes
_Values = Mapping[_Group, tuple[bytes, ...]]

_BLOCK = 64  # bytes of memory that are one place
_STATES = 200_000  # that are kept,
_DIFFERENT = 20_000  # and of what is in them
_ABSENT = b"absent"
_CODE = (FunctionType, BuiltinFunctionType, ModuleType)


class _Place:
    """A place that several tasks (`users`) have accessed; `site` is where it was written last, by one of `writers`."""

    __slots__ = ("group", "key", "site", "tracked", "users", "value", "writers")

    def __init__(self, tracked: Tracked, key: Hashable, first: int, site: Site | None) -> None:
        self.tracked = tracked
        self.key = key
        self.users = {first}
        self.writers = set() if site is None else {first}
        self.site = site
        kind = type(tracked.of)
        self.group = (kind.__qualname__, _named(kind, key))
        self.value = _ABSENT


class Written:
    """What tasks have written that several have accessed, in one execution."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        # By place: the one task that has accessed it, and where that has written it.
        self._alone: dict[tuple[Tracked, Hashable], tuple[int, Site | None]] = {}
        self._places: dict[tuple[Tracked, Hashable], _Place] = {}
        self._changed: set[_Place] = set()
        self._shown: _Values = {}
        self._forgotten = False

    def accessed(
        self, task: Task, tracked: Tracked, of: Any, key: Hashable, written: Site | None
    ) -> None:
        """Note that a task accesses an object, of which this is the history; `written` is where, of a write."""
        if self._guarded.uncompared.has(of, key):
            return
        for part in _parts(key):
            where = (tracked, part)
            place = self._places.get(where)
            if place is None:
                first, site = self._alone.get(where, (task.index, None))
                if first == task.index:
                    self._alone[where] = (first, written or site)
                    continue
                place = self._places[where] = _Place(tracked, part, first, site)
                self._changed.add(place)
            place.users.add(task.index)
            if written is not None:
                place.site = written
                place.writers.add(task.index)
                self._changed.add(place)

    def now(self, controller: Controller) -> _Values:
        """Return what is in all these places now, by group; the caller has no points."""
        dead = [
            where
            for where, place in self._places.items()
            if place.tracked.of is None or _is_dead(place, controller)
        ]
        for where in dead:
            self._changed.discard(self._places.pop(where))
        if self._changed or dead or self._forgotten is not controller.forgotten:
            self._forgotten = controller.forgotten
            for place in self._changed:
                place.value = _value(place.tracked.of, place.key)
            self._changed.clear()
            found: dict[_Group, list[bytes]] = {}
            left_out = self._guarded.left_out()
            for place in self._places.values():
                if self._counts(place) and place.tracked.id not in left_out:
                    found.setdefault(place.group, []).append(place.value)
            self._shown = {group: tuple(sorted(each)) for group, each in found.items()}
        return self._shown

    def _counts(self, place: _Place) -> bool:
        """Return whether a place is compared.

        Where tasks have forgotten what they observed, which of a class's objects were accessed may differ in the same
        state; then only places that several have written.
        """
        return len(place.writers) > 1 or (place.site is not None and not self._forgotten)

    def site_of(self, group: _Group) -> Site:
        """Return where a place of a group was written last."""
        sites = [place.site for place in self._places.values() if place.group == group]
        return next(site for site in sites if site is not None)


class Merged:
    """What watched executions have seen, by the digests of states; `found` is what differs."""

    def __init__(self) -> None:
        self.found: set[Differs] = set()
        self._seen: dict[bytes, int] = {}  # a state's digest -> the number of what it has
        self._kinds: list[_Values] = []
        self._numbers: dict[frozenset[tuple[_Group, tuple[bytes, ...]]], int] = {}

    def look(self, key: bytes, written: Written, controller: Controller) -> None:
        """Note what is in a state, and whether it differs from what was there before."""
        values = written.now(controller)
        known = self._seen.get(key)
        if known is None:
            if len(self._seen) < _STATES:
                number = self._number(values)
                if number is not None:
                    self._seen[key] = number
            return
        before = self._kinds[known]
        if before is values:
            return
        for group in before.keys() & values.keys():
            one, other = before[group], values[group]
            if one != other and len(one) == len(other):
                self.found.add((written.site_of(group), ".".join(group)))

    def _number(self, values: _Values) -> int | None:
        whole = frozenset(values.items())
        number = self._numbers.get(whole)
        if number is None and len(self._kinds) < _DIFFERENT:
            number = self._numbers[whole] = len(self._kinds)
            self._kinds.append(values)
        return number


def _is_dead(place: _Place, controller: Controller) -> bool:
    """Return whether all who have accessed a place are of processes that have died: it is gone with them."""
    groups = [controller.tasks[index].group for index in place.users]
    return all(group is not None and group.dead for group in groups)


def _parts(key: Hashable) -> Iterable[Hashable]:
    """Return the places of an access: bytes are divided into blocks."""
    if not isinstance(key, Extent):
        return (key,)
    return [Extent(at, at + _BLOCK) for at in range(key.start // _BLOCK * _BLOCK, key.stop, _BLOCK)]


def _named(kind: type, key: Hashable) -> str:
    """Return the text for a place of an object."""
    if isinstance(key, Extent):
        return f"bytes {key.start:#x} to {key.stop - 1:#x}"
    if key is SHAPE:
        return "len"
    if key is ALL:
        return "contents"
    return key if isinstance(key, str) and not issubclass(kind, CONTAINERS) else f"[{text_of(key)}]"


def _value(of: Any, key: Hashable) -> bytes:
    """Return what is in a place of an object, in bytes."""
    try:
        return _found(of, key)
    except Exception:  # noqa: BLE001 - it may have no such item, or cannot be read now
        return _ABSENT


def _found(of: Any, key: Hashable) -> bytes:
    kind = type(of)
    if isinstance(key, Extent):
        with memoryview(of) as view, view.cast("B") as data:
            return bytes(data[key.start : key.stop])
    if kind is CellType:
        return _shown(of.cell_contents)
    if not issubclass(kind, CONTAINERS):
        return _fields(of) if key in (ALL, SHAPE) else _shown(value_of(of, str(key)))
    if issubclass(kind, dict):
        return _of_dict(of, key)
    if issubclass(kind, set):
        return marshal.dumps(sorted(map(_shown, set.__iter__(of))), FORMAT)
    if not issubclass(kind, list | deque):
        return bytes(of)
    base: Any = list if issubclass(kind, list) else deque
    if key is SHAPE or key is ALL:
        return marshal.dumps([_shown(each) for each in base.__iter__(of)], FORMAT)
    return _shown(base.__getitem__(of, key))


def _of_dict(of: dict[Any, Any], key: Hashable) -> bytes:
    if key is SHAPE:
        return marshal.dumps(sorted(map(_shown, dict.__iter__(of))), FORMAT)
    if key is ALL:
        pairs = [(_shown(each), _shown(value)) for each, value in dict.items(of)]
        return marshal.dumps(sorted(pairs), FORMAT)
    return _shown(dict.__getitem__(of, key))


def _shown(value: Any) -> bytes:
    """Return a value in bytes; of what can change, what tells it from others."""
    fixed = fixed_form(value)
    if fixed is not None:
        return fixed
    kind = type(value)
    if issubclass(kind, Thing):
        return marshal.dumps((kind.__qualname__, value.name), FORMAT)
    if kind is MethodType:
        return marshal.dumps((value.__func__.__qualname__, _shown(value.__self__)), FORMAT)
    if kind in _CODE:
        return marshal.dumps(
            (kind.__qualname__, value.__name__, getattr(value, "__qualname__", ""))
        )
    return _fields(value)


def _fields(of: Any) -> bytes:
    """Return an object's class, and its fields that cannot change."""
    kind = type(of)
    fields = [] if issubclass(kind, CONTAINERS) else fields_of(of)
    values = [(name, fixed_form(value_of(of, name))) for name in sorted({*fields})]
    return marshal.dumps((kind.__qualname__, values), FORMAT)
