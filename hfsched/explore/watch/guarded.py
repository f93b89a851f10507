"""What is written under a lock and not told apart by the lock's `state=`.

A stateful search compares what a lock guards by its `state=` alone.  What is written under the lock, and
accessed by several tasks, may differ between two states that are taken for one, unless `state=` tells it or it follows
from the rest.  So watched executions note what each section under a lock changes, and when the lock is let go they look
whether `state=`, or the state of what is no lock, such as modelled memory, would be another one if something else were there
(`hfsched.explore.watch.changes`).

That is decided for each object, field, item, key and byte, once in an execution: what a state does not
always show, such as an item behind a flag, counts as told if it was told once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from hfsched.explore.lock import XLock
from hfsched.explore.races import Races
from hfsched.explore.watch.changes import Before, Difference, noted
from hfsched.explore.watch.declared import DeclaredFields
from hfsched.explore.watch.kinds import CONTAINERS
from hfsched.explore.watch.places import value_of
from hfsched.explore.watchdog import StuckError
from hfsched.runtime.declared import UNCOMPARED

if TYPE_CHECKING:
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing
    from hfsched.explore.watch.history import Site, Tracked

__all__ = ["Guarded", "LockRaces", "Unread"]

Unread = tuple["Site", str, str]  # where it is written, what, and the lock's name


_spinning: set[tuple[Site, str]] = set()  # where not to try it again


class _Place(NamedTuple):
    tracked: Tracked
    key: Hashable
    what: str
    is_of_key: bool


@dataclass(slots=True)
class _Section:
    """What a task has written since it took a lock.

    `before` has for each object, by the id of its history, what it was; `digest` is that of the lock's state before something was
    written of which only that tells whether it has changed.
    """

    lock: XLock
    before: dict[int, tuple[Tracked, list[Before]]] = field(default_factory=dict)
    digest: bytes | None = None

    def join(self, inner: _Section, left: Iterable[_Place]) -> None:
        """Take over what was written while an inner lock was held, and is not told by that."""
        keys: dict[int, set[Hashable]] = {}
        for place in left:
            keys.setdefault(id(place.tracked), set()).add(place.key)
        for number, (tracked, later) in inner.before.items():
            if number not in keys:
                continue
            for each in later:
                each.keep(keys[number])
            if number in self.before:
                for each, other in zip(self.before[number][1], later, strict=True):
                    each.precede(other)
            else:
                self.before[number] = (tracked, later)


class _State:
    """What a search compares, when a lock is let go."""

    def __init__(self, look: Callable[[XLock | None], bytes | None], lock: XLock | None) -> None:
        self._look = partial(look, lock)

    @cached_property
    def _now(self) -> bytes | None:
        return self._look()

    def tells(self, difference: Difference, before: bytes | None) -> bool:
        """Return whether it would be another one with something else in a place; also if it cannot be told then."""
        where = (difference.site, difference.what)
        if self._now is None or where in _spinning:
            return True
        for variant in difference.variants:
            try:
                with variant():
                    varied = self._look()
            except Exception:  # noqa: BLE001 - of any type: it cannot be put there
                return True
            except StuckError:  # with that there, `state=` does not come back
                _spinning.add(where)
                return True
            if varied != self._now:
                return True
        return not difference.variants and before != self._now


class Guarded:
    """The writes under locks of one execution.

    `look` returns the digest of what a lock guards, and for None of the states of all things that are no locks; None: it
    cannot be told now.
    """

    def __init__(self, look: Callable[[XLock | None], bytes | None]) -> None:
        self._look = look
        # By task: the locks, the one taken last at the end.
        self._held: dict[int, list[_Section]] = {}
        self.uncompared = DeclaredFields(UNCOMPARED)
        self._declared: dict[tuple[int, str], Any] = {}  # objects with such fields, by id and name
        self._told: set[_Place] = set()
        self._left: dict[_Place, Unread] = {}

    def taken(self, task: Task, lock: XLock) -> None:
        """Note that a task has taken a lock."""
        self._held.setdefault(task.index, []).append(_Section(lock))

    def written(self, task: Task, tracked: Tracked, of: Any, key: Hashable, site: Site) -> None:
        """Note that a task is about to write an object, of which this is the history."""
        held = self._held.get(task.index)
        if not held or self.uncompared.has(of, key):
            return
        section = held[-1]
        if id(tracked) not in section.before:
            section.before[id(tracked)] = (tracked, noted(of, key))
        for each in section.before[id(tracked)][1]:
            each.note(key, site)
            if each.is_opaque and section.digest is None:
                section.digest = self._look(section.lock)

    def made(self, task: Task, tracked: Tracked) -> None:
        """Note that a task has made an object: what its constructor has written follows from what made it."""
        for section in self._held.get(task.index, ()):
            section.before.pop(id(tracked), None)

    def accessed(self, of: Any, name: str) -> None:
        """Note an access to an attribute: if it is declared, what it holds is left out too."""
        if self.uncompared.has(of, name):
            self._declared[id(of), name] = of

    def left_out(self) -> set[int]:
        """Return the ids of the containers that declared fields have, also one in another."""
        found: set[int] = set()
        left = [value_of(of, name) for (_, name), of in self._declared.items()]
        while left:
            each = left.pop()
            if issubclass(type(each), CONTAINERS) and id(each) not in found:
                found.add(id(each))
                left += dict.values(each) if issubclass(type(each), dict) else ()
        return found

    def let_go(self, task: Task, lock: XLock) -> None:
        """Look, when a task lets go of a lock, at what it has written: no other task has come between."""
        held = self._held.get(task.index, [])
        at = next((at for at, each in enumerate(held) if each.lock is lock), None)
        if at is None:
            return
        section = held.pop(at)
        if not section.before:
            return
        with lock.looking():  # what is compared may have methods of the program
            left = {
                place: _about(section.lock, place, difference)
                for place, difference in self._not_told(section)
            }
        if held:
            held[-1].join(section, left)  # the outer lock may guard it
        else:
            self._left |= left

    def _not_told(self, section: _Section) -> Iterator[tuple[_Place, Difference]]:
        states = [_State(self._look, section.lock), _State(self._look, None)]
        if section.lock.guarded is None:
            del states[0]
        left_out = self.left_out()
        for tracked, before in section.before.values():
            if tracked.id in left_out:
                continue
            for each in (each for part in before for each in part.differences()):
                place = _Place(tracked, each.key, each.what, each.is_of_key)
                if place in self._told:
                    continue
                if any(state.tells(each, section.digest) for state in states):
                    self._told.add(place)
                else:
                    yield place, each

    def unread(self) -> set[Unread]:
        """Return what is written under a lock, accessed by several tasks, and never told."""
        return {
            about
            for place, about in self._left.items()
            if place not in self._told and place.tracked.is_shared(place.key)
        }


def _about(lock: XLock, place: _Place, difference: Difference) -> Unread:
    kind = type(place.tracked.of)
    what = difference.what
    if not what:
        what = f"a {kind.__qualname__}"
    elif what == difference.key:
        what = f"{kind.__qualname__}.{what}"
    else:
        what = f"{what} of a {kind.__qualname__}"
    return difference.site, what, lock.name


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
