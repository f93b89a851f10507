"""Changes of dicts, sets, lists, deques and arrays."""

from __future__ import annotations

import array
import operator
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from functools import partial
from itertools import islice, permutations
from typing import Any

from hfsched.explore.watch.changes.before import (
    MISSING,
    Before,
    Difference,
    Other,
    Places,
    Was,
    equal,
    has_no_state,
    instead,
    is_plain_key,
    others_of,
)
from hfsched.explore.watch.history import ALL, SHAPE

__all__ = ["DictItems", "SequenceItems", "SetElements"]


_ORDERS = 100  # of a set's elements that are tried


class DictItems(Places):
    """The items of a dict."""

    def __init__(self, of: Any) -> None:
        super().__init__(of)
        self._kind = OrderedDict if issubclass(type(of), OrderedDict) else dict
        self._all = False  # all items that there were are in `_old`
        self._is_plain = True

    def _save(self, key: Hashable) -> None:
        self._is_plain = self._is_plain and is_plain_key(key)
        if not self._is_plain:
            return
        if key is ALL:
            if not self._all:
                values = {each: Was(value) for each, value in dict.items(self.of)}
                self._old = {**values, **self._old}
            self._all = True
        elif key is not SHAPE and key not in self._old:
            self._old[key] = Was(MISSING if self._all else dict.get(self.of, key, MISSING))

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        if not self._is_plain or not all(map(is_plain_key, dict.keys(self.of))):
            return
        values = [each.value for each in self._old.values() if each.value is not MISSING]
        # Then it is a set that has an order.
        nothing = all(each is None for each in (*values, *dict.values(self.of)))
        keys = dict.fromkeys([*self._old, *(dict.keys(self.of) if self._all else ())])
        for key in keys:
            old = self._old.get(key, Was(MISSING))
            was, now = old.value, dict.get(self.of, key, MISSING)
            if old.equals(now):
                continue
            site = self._site(key)
            if now is not MISSING and not nothing and not has_no_state(now):
                put = partial(self._kind.__setitem__, self.of, key)
                variants = [partial(instead, put, each, now) for each in others_of(was, now)]
                yield Difference(key, "an item", site, variants)
            there = self._items()
            if was is MISSING:
                other = [(Other() if each == key else each, value) for each, value in there]
            elif now is MISSING:  # it is there again, instead of another one if there is one
                other = [*there[:-1], (key, was)]
            else:
                continue
            variant = partial(instead, self._fill, other, there)
            yield Difference(key, "an item", site, [variant], is_of_key=True)

    def _items(self) -> list[tuple[Any, Any]]:
        return list(self._kind.items(self.of))

    def _fill(self, items: list[tuple[Any, Any]]) -> None:
        self._kind.clear(self.of)
        for key, value in items:
            self._kind.__setitem__(self.of, key, value)

    def keep(self, keys: set[Hashable]) -> None:
        """See `Before`."""
        if not self._all:  # else what is forgotten would seem to be new
            super().keep(keys)

    def precede(self, later: DictItems) -> None:
        """See `Before`."""
        old = self._old
        super().precede(later)
        if self._all:  # what is not in `_old` was not there
            self._old = old
        self._all |= later._all


class SetElements(Before):
    """The elements of a set."""

    def __init__(self, of: Any) -> None:
        super().__init__(of)
        self._old = set(set.__iter__(of))

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        now = list(set.__iter__(self.of))
        if not all(map(is_plain_key, now)):
            return
        for each in now:
            if each not in self._old:
                others = [other for other in now if other is not each]
                yield self._element(each, [*others, Other()])
        for each in self._old:
            if not set.__contains__(self.of, each):
                yield self._element(each, [*now[:-1], each])

    def _element(self, each: Any, others: list[Any]) -> Difference:
        return Difference(
            each,
            "an element",
            self._site(each),
            [lambda: instead(self._fill, others, self._in_order())],
        )

    def _in_order(self) -> list[Any]:
        """Return the elements in an order in which to put them back, after which they are iterated over as they are now.

        Raises ValueError if none is found.
        """
        wanted = list(set.__iter__(self.of))
        for order in islice(permutations(wanted), _ORDERS):
            if all(map(operator.is_, _made_of(order), wanted)):
                return list(order)
        raise ValueError("a set whose order depends on what it had before")

    def _fill(self, elements: Iterable[Any]) -> None:
        set.clear(self.of)
        for each in elements:
            set.add(self.of, each)


def _made_of(elements: Iterable[Any]) -> set[Any]:
    made: set[Any] = set()
    for each in elements:  # one by one: a set that is made at once may have another order
        made.add(each)
    return made


class SequenceItems(Before):
    """The items of a list, a deque or an array."""

    def __init__(self, of: Any) -> None:
        super().__init__(of)
        self._kind: Any = next(
            each for each in (list, deque, array.array) if issubclass(type(of), each)
        )
        self._old = self._now()

    def _now(self) -> list[Any]:
        return list(self._kind.__iter__(self.of))

    def differences(self) -> Iterator[Difference]:
        """See `Before`."""
        now = self._now()
        for at, each in enumerate(now):
            was = self._old[at] if at < len(self._old) else MISSING
            if equal(was, each) or has_no_state(each):
                continue
            put = partial(self._kind.__setitem__, self.of, at)
            variants = [partial(instead, put, other, each) for other in self._others(was, each)]
            yield Difference(at, "an item", self._site(at), variants)
        if len(now) < len(self._old):
            yield Difference(
                SHAPE,
                "the length",
                self._site(SHAPE),
                [partial(instead, self._fill, self._old, now)],
            )

    def _others(self, was: Any, now: Any) -> list[Any]:
        if self._kind is array.array and was is MISSING:
            return ["a" if now != "a" else "b"] if isinstance(now, str) else [type(now)(not now)]
        return others_of(was, now)

    def _fill(self, items: list[Any]) -> None:
        while len(self._now()):
            self._kind.pop(self.of)
        self._kind.extend(self.of, items)
