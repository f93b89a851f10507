"""What an object had before it was written, and what differs now."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from hfsched.errors import UserError
from hfsched.explore.canonical import encode
from hfsched.explore.watch.history import ALL
from hfsched.explore.watch.kinds import overrides
from hfsched.explore.watch.places import fields_of, is_exempt

if TYPE_CHECKING:
    from hfsched.explore.watch.history import Site

__all__ = [
    "MISSING",
    "Before",
    "Difference",
    "Opaque",
    "Other",
    "Places",
    "Variant",
    "Was",
    "equal",
    "has_no_state",
    "instead",
    "is_plain_key",
    "others_of",
]


MISSING: Any = object()
_PLAIN = (int, str, bytes, float, complex, type(None), Enum)
_BUILT_IN = (list, dict, set, deque, bytearray)


Variant = Callable[[], AbstractContextManager[None]]  # enters with something else in a place


class Difference(NamedTuple):
    """What differs: the item's key (or field's name, `SHAPE`, an `Extent`), a text, where it was written, and the variants.

    Without variants it is not known what has changed.
    """

    key: Hashable
    what: str
    site: Site
    variants: Sequence[Variant]
    is_of_key: bool = False  # of an item: that it is there, by this key, and not its value


class Other:
    """What nothing is equal to; as a key it takes the place of any other."""

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return self is other


class Was:
    """A value that was in a place; its items may change later."""

    __slots__ = ("_copy", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self._copy = type(value)(value) if type(value) in _BUILT_IN else value

    def equals(self, now: Any) -> bool:
        """Return whether a search takes what is there now for equal."""
        return self.value is now or equal(self._copy, now)


class Before(ABC):
    """What an object had before it was written, as far as it was written."""

    is_opaque = False

    def __init__(self, of: Any) -> None:
        self.of = of
        self._sites: dict[Hashable, Site] = {}
        self._last: Site = ("", 0)

    def note(self, key: Hashable, site: Site) -> None:
        """Note that something is about to be written."""
        self._sites[key] = self._last = site
        self._save(key)

    def _site(self, key: Hashable) -> Site:
        return self._sites.get(key, self._last)

    def _save(self, key: Hashable) -> None:
        """Save what is about to be written, unless all was saved when the object was first."""
        del key

    @abstractmethod
    def differences(self) -> Iterator[Difference]:
        """Return what differs now."""

    def precede(self, later: Any) -> None:
        """Join what was noted of the same object later."""
        self._sites |= later._sites
        self._last = later._last

    def keep(self, keys: set[Hashable]) -> None:
        """Forget what differs in no place of these, if that can be told apart."""
        del keys


class Places(Before):
    """What was in some places of an object, by key or name."""

    def __init__(self, of: Any) -> None:
        super().__init__(of)
        self._old: dict[Any, Was] = {}

    def keep(self, keys: set[Hashable]) -> None:
        """See `Before`."""
        self._old = {key: was for key, was in self._old.items() if key in keys}

    def precede(self, later: Any) -> None:
        """See `Before`."""
        super().precede(later)
        self._old = {**later._old, **self._old}


class Opaque(Before):
    """An object whose state is not known; it is not kept alive."""

    is_opaque = True

    def __init__(self) -> None:
        super().__init__(None)

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        yield Difference(ALL, "", self._last, [])


@contextmanager
def instead(put: Callable[[Any], object], other: Any, now: Any) -> Iterator[None]:
    """Have `put` put something else in a place, and then what is there now again."""
    try:
        put(other)
        yield
    finally:
        put(now)


def is_plain_key(key: Any) -> bool:
    """Return whether looking for a key calls no method of the program's."""
    if type(key) is tuple:
        return all(map(is_plain_key, key))
    return not overrides(type(key), "__eq__") and not overrides(type(key), "__hash__")


def has_no_state(of: Any) -> bool:
    """Return whether a state cannot have a value, or has it otherwise: an event, code, an object without fields; or a tuple of such."""
    if type(of) is tuple:
        return len(of) > 0 and all(has_no_state(each) for each in of)
    return is_exempt(type(of)) or (not fields_of(of) and not _has_form(of))


def _has_form(of: Any) -> bool:
    try:
        encode(of, "")
    except Exception as exc:  # noqa: BLE001 - of its method `key`, which may not expect what is there now
        return not isinstance(exc, UserError)
    return True


def others_of(was: Any, now: Any) -> list[Any]:
    """Return the values to put in the place of one."""
    if not issubclass(type(was), _PLAIN):  # also if there was none
        return [Other()]
    return [was] if issubclass(type(now), _PLAIN) else [Other(), was]


def equal(was: Any, now: Any) -> bool:
    """Return whether a search takes two values for equal."""
    if was is now:
        return True
    if type(was) is not type(now):
        return False
    try:
        return encode(was, "") == encode(now, "")
    except Exception:  # noqa: BLE001 - without a canonical form; of a method `key`, which may fail
        return False
