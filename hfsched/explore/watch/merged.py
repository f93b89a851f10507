"""Plain state that differs between states which a search takes for one.

A search that compares states goes on from one of several with the same digest.  What tasks have observed is in it, and
what things hold, and what locks guard (`state=`); plain state that they order otherwise, by a channel or a cell, is
not.  It need not be, as long as it follows from the rest; but if it depends on which of two tasks came first, it may not.

Watched executions merge nothing.  So they show, at each point where a search would compare states, what tasks have written in places that
several have accessed (`Written`), and keep it by the state's digest (`Merged`): if the digest comes
again with something else there, the place is named.

The values are compared as far as they cannot change; of what can, the class and its fields that cannot.  What
it has that several tasks access, has a place of its own.  Two executions have no names for objects in common but those that
these have themselves, so all objects of a class, and of a name, are compared together, and not when there are more of them in one.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hfsched.explore.watch.history import ALL, SHAPE, Extent
from hfsched.explore.watch.kinds import CONTAINERS
from hfsched.explore.watch.naming import text_of
from hfsched.explore.watch.places import value_of
from hfsched.explore.watch.shown import shown

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.task import Task
    from hfsched.explore.watch.guarded import Guarded
    from hfsched.explore.watch.history import Site, Tracked

__all__ = ["Differs", "Merged", "Written"]

Differs = tuple["Site", str]  # where it was written last, and what
_Group = tuple[str, str]  # of places: the class, and the field, item or bytes
_Values = Mapping[_Group, tuple[bytes, ...]]

_BLOCK = 64  # bytes of memory that are one place;
_LARGE = 4096  # of accesses to more than so many, so many
_STATES = 200_000  # that are kept,
_DIFFERENT = 20_000  # and of what is in them


class _Place:
    """A place that several tasks (`users`) have accessed; `site` is where it was written last, by one of `writers`."""

    __slots__ = ("group", "key", "site", "tracked", "users", "value", "writers")

    def __init__(self, tracked: Tracked, key: Hashable, first: int, site: Site | None) -> None:
        self.tracked = tracked
        self.key = key
        self.users = {first}
        self.writers = set() if site is None else {first}
        self.site = site
        self.group = (_called(tracked.of), _named(type(tracked.of), key))
        self.value = b""


class Written:
    """What tasks have written that several have accessed, in one execution."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        # By place: the one task that has accessed it, and where that has written it.
        self._alone: dict[tuple[Tracked, Hashable], tuple[int, Site | None]] = {}
        self._places: dict[tuple[Tracked, Hashable], _Place] = {}
        self._changed: set[_Place] = set()
        self._live: set[_Place] = set()  # what is shown of these may change without a write there
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
            place = self._places.pop(where)
            self._changed.discard(place)
            self._live.discard(place)
        if self._changed or dead or self._live or self._forgotten is not controller.forgotten:
            self._forgotten = controller.forgotten
            for place in (*self._changed, *self._live):
                place.value, live = shown(place.tracked.of, place.key)
                (self._live.add if live else self._live.discard)(place)
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
        state; then only places that several have written, and none of containers, which are many and nameless.
        """
        if self._forgotten:
            return len(place.writers) > 1 and not issubclass(type(place.tracked.of), CONTAINERS)
        return place.site is not None

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

    def look(
        self, key: bytes, written: Written, controller: Controller, sweep: Callable[[], None]
    ) -> None:
        """Note what is in a state, and whether it differs from what was there before.

        `sweep` lets go of objects that nobody else has: what is in them differs without harm.
        """
        values = written.now(controller)
        known = self._seen.get(key)
        if known is None:
            if len(self._seen) < _STATES:
                number = self._number(values)
                if number is not None:
                    self._seen[key] = number
            return
        before = self._kinds[known]
        if _differing(before, values):
            sweep()
            values = written.now(controller)
        for group in _differing(before, values):
            self.found.add((written.site_of(group), ".".join(group)))

    def _number(self, values: _Values) -> int | None:
        whole = frozenset(values.items())
        number = self._numbers.get(whole)
        if number is None and len(self._kinds) < _DIFFERENT:
            number = self._numbers[whole] = len(self._kinds)
            self._kinds.append(values)
        return number


def _differing(before: _Values, values: _Values) -> list[_Group]:
    """Return the groups whose values are others, of as many places."""
    if before is values:
        return []
    both = before.keys() & values.keys()
    return [
        group
        for group in both
        if before[group] != values[group] and len(before[group]) == len(values[group])
    ]


def _is_dead(place: _Place, controller: Controller) -> bool:
    """Return whether all who have accessed a place are of processes that have died: it is gone with them."""
    groups = [controller.tasks[index].group for index in place.users]
    return all(group is not None and group.dead for group in groups)


def _parts(key: Hashable) -> Iterable[Hashable]:
    """Return the places of an access: bytes are divided into blocks."""
    if not isinstance(key, Extent):
        return (key,)
    size = _BLOCK if key.stop - key.start <= _LARGE else _LARGE
    return [Extent(at, at + size) for at in range(key.start // size * size, key.stop, size)]


def _called(of: Any) -> str:
    """Return what the objects are called that are compared together: by the class, and by a name if they have one."""
    name = None if issubclass(type(of), CONTAINERS) else value_of(of, "name")
    kind = type(of).__qualname__
    return f"{kind} {name}" if type(name) is str else kind


def _named(kind: type, key: Hashable) -> str:
    """Return the text for a place of an object."""
    if isinstance(key, Extent):
        return f"bytes {key.start:#x} to {key.stop - 1:#x}"
    if key is SHAPE:
        return "len"
    if key is ALL:
        return "contents"
    return key if isinstance(key, str) and not issubclass(kind, CONTAINERS) else f"[{text_of(key)}]"
