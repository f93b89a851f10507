"""Accesses to places, and whether two of them are ordered.

An object under watch is a `Tracked`: its places are its *items* (attributes, keys, indices), its *shape*
(which items there are) and byte *ranges*; an access to the *whole* object is one to all of these.  Two
accesses of two tasks to the same place, one of them a write, race unless the vector clock of the later
one has the time of the earlier one (`hfsched.explore.races`).

A history keeps for each place its last write and each task's last read since: enough to find, in one
schedule, a race with the next access, whichever comes first (C. Flanagan and S. Freund, "FastTrack",
PLDI 2009).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from hfsched.explore.watch.naming import text_of

if TYPE_CHECKING:
    from hfsched.explore.task import Task

__all__ = ["ALL", "SHAPE", "Access", "Conflict", "Extent", "Site", "Tracked"]

Site = tuple[str, int]  # a file and a line

_OURS = 3  # references to an object: what keeps it alive, and two of who counts them


class _Whole(Enum):
    SHAPE = "which items there are"
    ALL = "everything"


SHAPE, ALL = _Whole.SHAPE, _Whole.ALL  # instead of an item's key


class Extent(NamedTuple):
    """Instead of an item's key: bytes [start, stop)."""

    start: int
    stop: int


class Access(NamedTuple):
    """An access: the task's index, its time when it was made, where, and whether it writes."""

    task: int
    time: int
    site: Site
    write: bool


class Conflict(Exception):  # noqa: N818 - the watcher makes a `RaceError` of it
    """The access `before`, of another task, is not ordered with the present one."""

    def __init__(self, before: Access, place: str) -> None:
        super().__init__(place)
        self.before = before
        self.place = place


@dataclass(slots=True)
class _Place:
    """One place's last write, and the reads since, by task; `shared` once two tasks have accessed it."""

    write: Access | None = None
    reads: dict[int, Access] = field(default_factory=dict)
    first: int | None = None  # the task of the first access
    shared: bool = False

    def conflicting(self, access: Access) -> Iterator[Access]:
        """Return what may conflict with an access: all of it, ordered or not."""
        if self.write is not None:
            yield self.write
        if access.write:
            yield from self.reads.values()

    def note(self, access: Access) -> None:
        if self.first is None:
            self.first = access.task
        elif access.task != self.first:
            self.shared = True
        if access.write:
            self.write = access
            self.reads = {}
        else:
            self.reads[access.task] = access


@dataclass(slots=True)
class _Range:
    start: int
    stop: int
    access: Access


def _reference(of: Any, died: Callable[[], None] | None = None) -> Callable[[], Any]:
    """Return what returns an object, and does not keep it alive if its type allows that."""
    try:
        return weakref.ref(of, None if died is None else lambda _: died())
    except TypeError:
        return lambda: of


class Tracked:
    """The history of one object.

    It refers to the object weakly if its type allows that, and tells `died`; it keeps another one alive, so that
    no object gets the id of one that is noted.
    """

    __slots__ = (
        "_items",
        "_of",
        "_ranges",
        "_shape",
        "_touched",
        "_weak",
        "_whole",
        "dict_id",
        "id",
        "name",
    )

    def __init__(self, of: Any, name: str, died: Callable[[Tracked], None]) -> None:
        self.id = id(of)
        self.dict_id: int | None = None  # of the object's dict, while that is its own
        self.name = name  # the same in every run
        self._of = _reference(of, lambda: died(self))
        self._weak = isinstance(self._of, weakref.ref)
        self._items: dict[Hashable, _Place] = {}
        self._shape = _Place()
        self._whole = _Place()
        self._ranges: list[_Range] = []
        self._touched: set[tuple[int, int, int]] = set()  # bytes: from, to, by which task

    @property
    def of(self) -> Any:
        """The object; None if it is no more."""
        return self._of()

    def let_go(self) -> bool:
        """Let the object die if only this keeps it alive; return whether it did."""
        of = None if self._weak else self._of()
        if of is None or sys.getrefcount(of) > _OURS:
            return False
        self._of = lambda: None
        return True

    def item(self, task: Task, key: Hashable, access: Access) -> None:
        """Note an access to one item; raises `Conflict`."""
        place = self._items.get(key)
        if place is None:
            place = self._items[key] = _Place()
        _check(task, place, access, key)
        _check(task, self._whole, access, key)
        place.note(access)

    def shape(self, task: Task, access: Access) -> None:
        """Note an access to which items there are; raises `Conflict`."""
        _check(task, self._shape, access, "len")
        _check(task, self._whole, access, "len")
        self._shape.note(access)

    def whole(self, task: Task, access: Access) -> None:
        """Note an access to everything; raises `Conflict`."""
        for key, place in self._items.items():
            _check(task, place, access, key)
        for name, place in (("len", self._shape), ("contents", self._whole)):
            _check(task, place, access, name)
        for each in self._ranges:
            _check_range(task, each, access)
        if access.write:  # it follows all of these
            places = (*self._items.values(), self._shape)
            self._whole.shared |= any(each.shared for each in places)
            self._whole.shared |= len({each.first for each in places} - {None}) > 1
            self._items, self._shape, self._ranges = {}, _Place(), []
        self._whole.note(access)

    def has(self, key: Hashable) -> bool:
        """Return whether an item has been accessed."""
        return key in self._items

    def is_shared(self, key: Hashable) -> bool:
        """Return whether several tasks have accessed an item or bytes (`Extent`); of no item: anything of the object."""
        places = [self._shape, self._whole]
        if key in (SHAPE, ALL):
            places += self._items.values()
        elif key in self._items:
            places.append(self._items[key])
        return _is_shared(places) or (isinstance(key, Extent) and self._is_touched(key))

    def _is_touched(self, extent: Extent) -> bool:
        tasks = {
            task
            for start, stop, task in self._touched
            if start < extent.stop and extent.start < stop
        }
        tasks |= {place.first for place in (self._shape, self._whole) if place.first is not None}
        return len(tasks) > 1

    def range(self, task: Task, start: int, stop: int, access: Access) -> None:
        """Note an access to bytes [start, stop); raises `Conflict`."""
        if start >= stop:
            return
        _check(task, self._whole, access, f"bytes {start:#x} to {stop - 1:#x}")
        self._touched.add((start, stop, task.index))
        kept = []
        for each in self._ranges:
            if each.start >= stop or each.stop <= start:
                kept.append(each)
                continue
            _check_range(task, each, access)
            inside = start <= each.start and each.stop <= stop
            same = access.write or (each.access.task == access.task and not each.access.write)
            if not (inside and same):
                kept.append(each)
        kept.append(_Range(start, stop, access))
        self._ranges = kept


def _is_shared(places: list[_Place]) -> bool:
    tasks = {place.first for place in places if place.first is not None}
    return len(tasks) > 1 or any(place.shared for place in places)


def _unordered(task: Task, access: Access, before: Access) -> bool:
    return (
        (access.write or before.write)
        and before.task != task.index
        and task.clock.get(before.task, 0) < before.time
    )


def _check(task: Task, place: _Place, access: Access, key: Hashable) -> None:
    for before in place.conflicting(access):
        if _unordered(task, access, before):
            raise Conflict(before, key if isinstance(key, str) else f"[{text_of(key)}]")


def _check_range(task: Task, known: _Range, access: Access) -> None:
    if _unordered(task, access, known.access):
        raise Conflict(known.access, f"bytes {known.start:#x} to {known.stop - 1:#x}")
