"""The watcher of one execution: it notes accesses, and raises `RaceError` for an unordered pair.

Accesses count only while a task of the execution runs the code under exploration: not while the world
is built or settles, nor in what the explorer calls to look at it (guards, oracles, `state=`).
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Hashable, Iterable
from functools import wraps
from types import FunctionType, GetSetDescriptorType, MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from hfsched.explore.canonical import digest
from hfsched.explore.lock import XLock
from hfsched.explore.races import RaceError
from hfsched.explore.watch.codes import is_watched
from hfsched.explore.watch.declared import DeclaredFields
from hfsched.explore.watch.guarded import Guarded, LockRaces
from hfsched.explore.watch.history import ALL, SHAPE, Access, Conflict, Extent, Site, Tracked
from hfsched.explore.watch.kinds import (
    CONTAINERS,
    found_in,
    is_container,
    is_ctypes,
    is_thread_local,
    overrides,
)
from hfsched.explore.watch.libraries import backing
from hfsched.explore.watch.merged import Merged, Written
from hfsched.explore.watch.naming import name_of, shortened
from hfsched.explore.watch.places import (
    IMMUTABLE,
    accessor,
    dict_of,
    forget,
    is_exempt,
    is_plainly_accessed,
    is_unnoticed,
    places_of,
)
from hfsched.explore.watch.standins import behind
from hfsched.explore.watch.views import region, root
from hfsched.runtime.declared import UNORDERED

if TYPE_CHECKING:
    from hfsched.explore.controller import Controller
    from hfsched.explore.task import Task
    from hfsched.explore.thing import Thing

__all__ = ["Unruled", "Watcher", "shortened"]

T = TypeVar("T")
Unruled = tuple[Site, str]  # a call of code without a rule: where, and of what


# References to an iterator that nobody else has when its loop ends, with those of the watcher.
_OF_A_LOOP = 5
_CHANGING = ("decimal", "_io", "_ssl", "_csv", "pyexpat")  # modules of types with attributes in C


class _Lazy(NamedTuple):
    """An iterator or view, the containers that it reads when it is used, and what else it does then."""

    of: Any
    sources: tuple[Any, ...]
    act: Callable[[], None] | None


class Watcher:
    """See the module's docstring.

    `race` is the first race found, also if the code under exploration caught it.  `unruled` has the
    calls whose accesses are not known.  `on_race`, if given, is told instead of raising.  `merged`, if given,
    is shown each state that a search would compare.
    """

    def __init__(
        self,
        on_race: Callable[[RaceError], None] | None = None,
        merged: Merged | None = None,
    ) -> None:
        self.controller: Controller | None = None
        self.race: RaceError | None = None
        self.unruled: set[Unruled] = set()
        self._on_race = on_race
        self._tracked: dict[int, Tracked] = {}
        self._exempt: dict[int, Any] = {}  # objects by id, kept alive
        self._lazy: dict[int, _Lazy] = {}  # iterators and views
        self._kept: list[Any] = []  # objects whose dicts are known, and these
        self._swapped: dict[int, list[Any]] = {}  # by id: an object, and the dicts that it had
        self._busy = 0
        self._serial = 0  # of the objects, in the order of their first accesses
        self.records: list[tuple[str, str]] = []  # of the scenario: what they are, the reason
        self._steps: dict[int, list[Thing]] = {}  # by task: the things that its step is on
        self._site: Site = ("", 0)
        self._task: Task | None = None
        self._moment = (-1, 0)  # of the last access to an item: the task, its time
        self._seen: set[tuple[int, Hashable, bool]] = set()  # accesses to items at that moment
        self.guarded = Guarded(self._look)
        self._unordered = DeclaredFields(UNORDERED)
        self._merged = merged
        self._written = Written(self.guarded)

    # Whether accesses count.

    def begin(self, site: Site) -> bool:
        """Return whether an access counts; the accesses noted next are at `site`."""
        controller = self.controller
        if self._busy or controller is None or controller.settling or controller.stopping:
            return False
        self._task = controller.current
        if self._task is None or self._task.act is not None:
            return False
        self._site = site
        return True

    def __enter__(self) -> Self:
        """Begin to find out what a program's next operation accesses: what that runs does not count."""
        self._busy += 1
        return self

    def __exit__(self, *error: object) -> None:
        self._busy -= 1

    def exempt(self, function: Callable[..., T]) -> Callable[..., T]:
        """Return a function whose accesses do not count; it has no point."""

        @wraps(function, assigned=(), updated=())
        def unwatched(*args: Any, **kwargs: Any) -> T:
            with self:
                return function(*args, **kwargs)

        return unwatched

    def declare(self, records: Iterable[Any], reason: str) -> None:
        """Exempt a scenario's own records."""
        for each in records:
            self._exempt[id(each)] = each
            self.records.append((name_of(each, len(self.records) + 1), reason))

    # What a lock guards.

    def races(self) -> LockRaces:
        """Return the race detector of the execution, which also tells what is written under locks."""
        return LockRaces(self.guarded, self._forget_moment)

    def _forget_moment(self) -> None:
        self._moment = (-1, 0)  # what is written now is to be noted, also once more

    def made(self, of: Any) -> None:
        """Note that the current task has made an object."""
        tracked = self._tracked.get(id(of))
        if tracked is not None:
            self.guarded.made(self._now(), tracked)
            self._forget_moment()

    def _look(self, lock: XLock | None) -> bytes | None:
        """Return the digest of what a lock guards, without one of the states of all things that are no locks; None: there is none now."""
        with self:
            try:
                return digest(self._things() if lock is None else lock.evaluated(), "")
            except Exception:  # noqa: BLE001 - of the program's: of any type
                return None

    def _things(self) -> list[object]:
        assert self.controller is not None
        things = self.controller.table.things
        return [thing.plain_key() for thing in things if not isinstance(thing, XLock)]

    def compare(self) -> None:
        """Look at what is in the present state, in which a search would look whether it is known."""
        controller = self.controller
        if self._merged is None or controller is None or not controller.stateful:
            return
        key = controller.state_key()
        if controller.unkeyed is None:
            merged = self._merged
            controller.inspect(lambda: merged.look(key, self._written, controller, self._sweep))
        self._forget_moment()

    # Steps on a scenario's own things.

    def begin_step(self, things: Iterable[Thing]) -> None:
        """Begin a step of the current task on things, or add things to it."""
        controller = self.controller
        if controller is None or controller.current is None:
            return
        begun = self._steps.setdefault(controller.current.index, [])
        for thing in things:
            controller.take_over(thing)
            begun.append(thing)

    def end_step(self) -> None:
        """End the step of the current task: it is at its next point, or at its end."""
        controller = self.controller
        if self._steps and controller is not None and controller.current is not None:
            for thing in self._steps.pop(controller.current.index, ()):
                controller.pass_on(thing)

    # Accesses; see `containers.Sink`.

    def item(self, of: Any, key: Hashable, *, write: bool) -> None:
        """Note an access to one item of an object."""
        task = self._now()
        now = (task.index, task.clock.get(task.index, 0))
        if now != self._moment:
            self._moment, self._seen = now, set()
        seen = (id(of), key, write)
        if seen in self._seen:  # at the same time by the same task: it conflicts with nothing more
            return
        self._note(of, write, key, lambda tracked, access: tracked.item(task, key, access))
        if id(of) in self._tracked:  # until it dies: no other object gets its id
            self._seen.add(seen)

    def shape(self, of: Any, *, write: bool) -> None:
        """Note an access to which items an object has; a view's are always the same."""
        if type(of) is memoryview:
            return
        self._note(of, write, SHAPE, lambda tracked, access: tracked.shape(self._now(), access))

    def whole(self, of: Any, *, write: bool) -> None:
        """Note an access to all of an object."""
        if type(of) is memoryview and region(of) is not None:
            self.range(of, 0, len(of), write=write)
            return
        if is_ctypes(type(of)):
            of = root(of)
        self._note(of, write, ALL, lambda tracked, access: tracked.whole(self._now(), access))

    def range(self, of: Any, start: int, stop: int, *, write: bool) -> None:
        """Note an access to bytes [start, stop) of an object, or to items of a view."""
        if type(of) is memoryview:
            shown = region(of, start, stop)
            if shown is None:
                self.whole(of.obj, write=write)
                return
            of, start, stop = shown
        self._note(
            of,
            write,
            Extent(start, stop),
            lambda tracked, access: tracked.range(self._now(), start, stop, access),
        )

    def attribute(self, of: Any, name: str, *, write: bool, by: str = "") -> None:
        """Note an access to an attribute, if the object's class has no code of its own for that.

        `by` is the method that does it, of a class that has one; else it is clear from `write`.
        """
        if not is_plainly_accessed(type(of)):
            of = behind(of)
            own = accessor(type(of), by or ("__setattr__" if write else "__getattribute__"))
            if own is not None and is_watched(own.__code__):
                return
        self.plain_attribute(of, name, write=write)

    def plain_attribute(self, of: Any, name: str, *, write: bool) -> None:
        """Note an access to an attribute as `object` does it."""
        if is_ctypes(type(of)) and found_in(type(of), name) is not None:
            self.whole(of, write=write)
            return
        if is_thread_local(type(of)):
            self.no_rule("threading.local, of the one thread that runs all tasks")
            return
        if write and issubclass(type(of), type):
            forget(name)
            if is_unnoticed(of, name):
                self.no_rule(f"assignment of {of.__qualname__}.{name} by a computed name")
            for each in self._readers(of, name):
                self.item(each, name, write=True)
        elif write and name == "__dict__":
            self.whole(of, write=True)
            self.swapped(of)
            return
        with self:
            places = list(places_of(of, name, write=write))
            for holder, key, _ in places:
                self.guarded.accessed(holder, key)
        if not any(holder is of and key == name for holder, key, _ in places):
            self._described(of, name, write=write)
        for holder, key, writes in places:
            if self._unordered.has(holder, key):
                self._exempt_value(holder, key)
                continue
            self.item(holder, key, write=writes)
            if self._swapped and id(holder) in self._swapped:
                self.item(dict_of(holder), key, write=writes)

    def _readers(self, kind: type, name: str) -> list[Any]:
        """Return the objects of a class that were asked for an attribute, and have none themselves."""
        return [
            each.of
            for each in list(self._tracked.values())
            if issubclass(type(each.of), kind)
            and each.has(name)
            and name not in (dict_of(each.of) or ())
        ]

    def swapped(self, of: Any) -> None:
        """Note that an object gets another dict, which others may have: its items are places too."""
        self._swapped.setdefault(id(of), [of]).append(dict_of(of))

    def _described(self, of: Any, name: str, *, write: bool) -> None:
        """Note an access to an attribute that code in C gets or sets."""
        kind = type(of)
        found = None if is_container(of) or is_exempt(kind) else found_in(kind, name)
        if isinstance(found, property):
            function = found.fset if write else found.fget
            if function is not None and not isinstance(function, FunctionType):
                self.no_rule(f"property {name}")
        elif isinstance(found, GetSetDescriptorType) and kind.__module__ in _CHANGING:
            self.item(of, name, write=write)

    def _exempt_value(self, holder: Any, name: str) -> None:
        value = getattr(holder, name, None)
        if is_container(value):
            self._exempt[id(value)] = value

    # Iterators and views.

    def lazy(self, of: Any, sources: Iterable[Any], act: Callable[[], None] | None = None) -> None:
        """Note that an iterator or view reads `sources` when it is used, and what else `act` notes."""
        found = tuple(sources)
        if found or act is not None:
            self._lazy[id(of)] = _Lazy(of, found, act)

    def released(self, of: Any) -> None:
        """Note that a loop over an iterator has ended: nobody else may have it."""
        if id(of) in self._lazy and sys.getrefcount(of) <= _OF_A_LOOP:
            del self._lazy[id(of)]
            self._died(self._find(of))

    def sources(self, of: Any) -> tuple[Any, ...]:
        """Return the containers that are read when `of` is consumed."""
        of = behind(of)
        kind = type(of)
        if issubclass(kind, CONTAINERS):
            return () if overrides(kind, "__iter__") else (of,)
        if kind is MappingProxyType:
            under = backing(of)
            return () if under is of else (under,)
        known = self._lazy.get(id(of))
        return () if known is None else known.sources

    def consumed(self, of: Any) -> None:
        """Note what else an iterator or view reads when it is used."""
        known = self._lazy.get(id(of))
        if known is not None and known.act is not None:
            known.act()

    def same(self, alias: Any, of: Any) -> None:
        """Note that `alias`, the dict of an object, has the same items."""
        if isinstance(alias, dict) and id(alias) not in self._tracked:
            self._kept += (alias, of)
            self._tracked[id(alias)] = self._find(of)

    def no_rule(self, what: str) -> None:
        """Note a call of code that may access what it is given, and has no rule."""
        self.unruled.add((self._site, what))

    # Noting.

    def _now(self) -> Task:
        assert self._task is not None
        return self._task

    def _find(self, of: Any) -> Tracked:
        tracked = self._tracked.get(id(of))
        if tracked is not None:
            return tracked
        own = dict_of(of)
        if own is not None and id(own) in self._tracked:  # another object may have the same one
            self._kept.append(of)
            tracked = self._tracked[id(of)] = self._tracked[id(own)]
            return tracked
        self._serial += 1
        tracked = Tracked(of, name_of(of, self._serial), self._died)
        self._tracked[id(of)] = tracked
        if own is not None:
            tracked.dict_id = id(own)
            self._tracked[id(own)] = tracked
        return tracked

    def _sweep(self) -> None:
        """Forget objects that only histories keep alive, and then what only those had."""
        while gone := [each for each in list(self._tracked.values()) if each.let_go()]:
            for each in gone:
                self._died(each)

    def _died(self, tracked: Tracked) -> None:
        """Forget an object: another one may get its id, or its dict's."""
        for each in (tracked.id, tracked.dict_id):
            if each is not None and self._tracked.get(each) is tracked:
                del self._tracked[each]
        self._seen = {each for each in self._seen if each[0] not in (tracked.id, tracked.dict_id)}

    def _note(
        self,
        of: Any,
        write: bool,  # noqa: FBT001
        key: Hashable,
        act: Callable[[Tracked, Access], None],
    ) -> None:
        of = of.obj if type(of) is memoryview and of.obj is not None else behind(of)
        kind = type(of)
        if kind in IMMUTABLE or is_exempt(kind) or id(of) in self._exempt:
            return
        task = self._now()
        access = Access(task.index, task.clock.get(task.index, 0), self._site, write)
        self._busy += 1
        try:
            tracked = self._find(of)
            act(tracked, access)
        except Conflict as conflict:
            error = RaceError(self._text(tracked, access, conflict))
        else:
            if write:
                self.guarded.written(task, tracked, of, key, self._site)
            if self._merged is not None:
                self._written.accessed(task, tracked, of, key, self._site if write else None)
            return
        finally:
            self._busy -= 1
        if self._on_race is not None:
            self._on_race(error)
            return
        if self.race is None:
            self.race = error
        raise error

    def _text(self, tracked: Tracked, access: Access, conflict: Conflict) -> str:
        place = conflict.place
        what = tracked.name + (place if place.startswith("[") else f".{place}")
        return (
            f"data race on {what}: {self._side(access)}, and {self._side(conflict.before)},"
            f" are not ordered"
        )

    def _side(self, access: Access) -> str:
        assert self.controller is not None
        verb = "written" if access.write else "read"
        file, line = access.site
        text = linecache.getline(file, line).strip()
        return f"{verb} by {self.controller.tasks[access.task].name} at {shortened(file)}:{line} ({text})"
