"""What is written under a lock and not read by the lock's `state=`.

A stateful search compares what a lock guards by its `state=` alone.  A field that is written under the
lock, that several tasks access, and that `state=` does not read may differ between two states that are
taken for one, unless it follows from the rest.  So watched executions note what is written between taking
a lock and letting go of it, and have `state=` evaluated then, to see what it reads.

What is decided is decided for a place in the source: a line whose write was once read counts as read, so an
object that `state=` does not reach any more, because it was taken out of a table, is not named.  Nor is what an
object's maker writes into it before the lock is let go, a frozen object's fields, and what holds a thing (a lock, an
event), which is compared for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hfsched.explore.lock import XLock
from hfsched.explore.races import Races
from hfsched.explore.watch.declared import DeclaredFields
from hfsched.explore.watch.history import reference
from hfsched.explore.watch.kinds import CONTAINERS
from hfsched.explore.watch.places import is_exempt, is_frozen, value_of
from hfsched.runtime.declared import UNCOMPARED

if TYPE_CHECKING:
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing
    from hfsched.explore.watch.history import Site, Tracked

__all__ = ["ALL", "SHAPE", "Guarded", "LockRaces", "Reads", "Unread"]

SHAPE, ALL = object(), object()  # instead of a key: which items there are, and everything

Unread = tuple["Site", str, str]  # where it is written, what, and the lock's name


class Reads:
    """What a function reads: items, and which items there are, by the object's id."""

    def __init__(self) -> None:
        self._found: set[tuple[int, Hashable]] = set()

    def add(self, of: int, key: Hashable) -> None:
        """Note a read of an item, of `SHAPE`, or of `ALL`, of the object that has this id."""
        self._found.add((of, key))

    def covers(self, of: int, key: Hashable) -> bool:
        """Return whether what was written is read."""
        keys = {key, ALL} if key is not ALL else {SHAPE, ALL}
        return any((of, each) in self._found for each in keys)


class _Write(NamedTuple):
    tracked: Tracked
    key: Hashable
    site: Site


@dataclass(slots=True)
class _Held:
    lock: XLock
    writes: list[_Write] = field(default_factory=list)
    made: list[Callable[[], Any]] = field(default_factory=list)  # objects, since it was taken


class Guarded:
    """The writes under locks of one execution; `evaluate` returns what a function reads."""

    def __init__(self, evaluate: Callable[[Callable[[], object]], Reads]) -> None:
        self._evaluate = evaluate
        self._held: dict[int, list[_Held]] = {}  # by task: the locks, the one taken last at the end
        self.uncompared = DeclaredFields(UNCOMPARED)
        self._containers: dict[int, Any] = {}  # that such fields have had, by id
        self._unread: dict[tuple[Unread, int, Hashable], _Write] = {}
        self.read: set[Unread] = set()

    def taken(self, task: Task, lock: XLock) -> None:
        """Note that a task has taken a lock."""
        self._held.setdefault(task.index, []).append(_Held(lock))

    def written(self, task: Task, tracked: Tracked, key: Hashable, site: Site) -> None:
        """Note a write of a task."""
        held = self._held.get(task.index)
        if held:
            held[-1].writes.append(_Write(tracked, key, site))

    def made(self, task: Task, of: Any) -> None:
        """Note that a task has made an object."""
        held = self._held.get(task.index)
        if held:
            held[-1].made.append(reference(of))

    def accessed(self, of: Any, name: str) -> None:
        """Note an access to an attribute: if it is declared, what it holds is left out too."""
        if self.uncompared.has(of, name):
            self._leave_out(getattr(of, name, None))

    def _leave_out(self, value: Any) -> None:
        if isinstance(value, CONTAINERS):
            self._containers[id(value)] = value
            for each in value.values() if isinstance(value, dict) else ():
                self._leave_out(each)

    def let_go(self, task: Task, lock: XLock) -> None:
        """Look, when a task lets go of a lock, at what it has written: no other task has come between."""
        held = self._held.get(task.index, [])
        at = next((at for at, each in enumerate(held) if each.lock is lock), None)
        if at is None:
            return
        section = held.pop(at)
        left = list(self._not_read(section)) if section.writes else []
        if held:
            held[-1].writes += left  # the outer lock may guard it
            held[-1].made += section.made
            return
        for write in left:
            self._unread[_about(lock, write), id(write.tracked), write.key] = write

    def _not_read(self, section: _Held) -> Iterator[_Write]:
        lock, state = section.lock, section.lock.guarded
        reads = Reads() if state is None else self._evaluate(state)
        made = {id(each()) for each in section.made}
        for write in section.writes:
            of = write.tracked.of  # None: it is no more, and nothing can depend on it
            if of is None or id(of) in made or self._needs_none(of, write.key):
                continue
            if reads.covers(write.tracked.id, write.key):
                self.read.add(_about(lock, write))
            else:
                yield write

    def _needs_none(self, of: Any, key: Hashable) -> bool:
        """Return whether what was written needs no comparison."""
        if id(of) in self._containers or is_frozen(type(of)) or self.uncompared.has(of, key):
            return True
        return isinstance(key, str) and is_exempt(type(value_of(of, key)))

    def unread(self) -> set[Unread]:
        """Return what is written under a lock, accessed by several tasks, and not read."""
        return {
            about
            for (about, _, key), write in self._unread.items()
            if write.tracked.is_shared(None if key in (SHAPE, ALL) else key)
        }


def _about(lock: XLock, write: _Write) -> Unread:
    kind = type(write.tracked.of)
    if isinstance(write.key, str) and not issubclass(kind, CONTAINERS):
        what = f"{kind.__qualname__}.{write.key}"
    elif write.key is ALL:
        what = f"a {kind.__qualname__}"
    else:
        what = f"{'the length' if write.key is SHAPE else 'an item'} of a {kind.__qualname__}"
    return write.site, what, lock.name


class LockRaces(Races):
    """A race detector that also tells a `Guarded` which locks a task holds."""

    def __init__(self, guarded: Guarded, took: Callable[[], None]) -> None:
        super().__init__()
        self._guarded = guarded
        self._took = took

    def acquire(self, thing: Thing) -> None:
        """See `Races.acquire`."""
        super().acquire(thing)
        task = self._current()
        if task is not None and isinstance(thing, XLock):
            self._guarded.taken(task, thing)
            self._took()

    def release(self, thing: Thing) -> None:
        """See `Races.release`."""
        task = self._current()
        if task is not None and isinstance(thing, XLock):
            self._guarded.let_go(task, thing)
        super().release(thing)
