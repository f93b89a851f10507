"""Pairs of accesses, one of them by code in C or in a library: each function makes (write, other).

The two race if they are not ordered.
"""

from __future__ import annotations

import array
import collections
import dataclasses
import functools
import io
import itertools
import operator
import random
import struct
from collections.abc import Callable

Pair = tuple[Callable[[], object], Callable[[], object]]
PAIRS: list[Callable[[], Pair]] = []


def pair(function: Callable[[], Pair]) -> Callable[[], Pair]:
    PAIRS.append(function)
    return function


class Box:
    def __init__(self, value: int = 0) -> None:
        self.value = value


def box() -> tuple[Box, Callable[[], object]]:
    """Return an object, and what writes it."""
    made = Box()

    def write() -> None:
        made.value = 2

    return made, write


# What is written.


@pair
def packed_into() -> Pair:
    buffer = bytearray(8)
    return lambda: struct.pack_into("<I", buffer, 2, 1), lambda: struct.unpack_from("<I", buffer, 4)


@pair
def packed_by_a_struct() -> Pair:
    buffer, layout = bytearray(8), struct.Struct("<I")
    return lambda: layout.pack_into(buffer, 4, 1), lambda: buffer[7]


@pair
def read_into() -> Pair:
    buffer = bytearray(4)
    return lambda: io.BytesIO(b"abcd").readinto(buffer), lambda: buffer[0]


@pair
def shuffled() -> Pair:
    deck = [1, 2, 3]
    return lambda: random.shuffle(deck), lambda: deck[1]


@pair
def full_ring() -> Pair:
    last = collections.deque([0, 1], maxlen=2)
    return lambda: last.append(2), lambda: last[0]


@pair
def reduced_in_place() -> Pair:
    found: set[int] = set()
    return lambda: functools.reduce(operator.ior, [{1}, {2}], found), lambda: 1 in found


@pair
def added_in_place() -> Pair:
    found = {1}
    exclude: Callable[..., object] = operator.ixor
    return lambda: exclude(found, {1}), lambda: len(found)


@pair
def set_by_a_callback() -> Pair:
    made, _ = box()
    return lambda: list(map(functools.partial(setattr, made, "value"), [3])), lambda: made.value


@pair
def set_by_an_operator() -> Pair:
    table = {"a": 1}
    return lambda: operator.setitem(table, "a", 2), lambda: table["a"]


@pair
def popped_by_a_callback() -> Pair:
    queues = [[1], [2]]
    return lambda: list(map(operator.methodcaller("pop"), queues)), lambda: len(queues[0])


@pair
def slot_by_its_descriptor() -> Pair:
    class Slotted:
        __slots__ = ("n",)

    made, put = Slotted(), Slotted.n.__set__  # type: ignore[attr-defined]
    made.n = 0  # type: ignore[attr-defined]
    return lambda: put(made, 1), lambda: made.n  # type: ignore[attr-defined]


# Containers that are read as arguments.


def _argument(use: Callable[[set[int]], object]) -> None:
    def made() -> Pair:
        active = {1}
        return lambda: active.add(2), lambda: use(active)

    made.__name__ = f"argument_{len(PAIRS)}"
    PAIRS.append(made)


for _method in ("difference", "intersection", "union", "symmetric_difference", "isdisjoint"):
    _argument(lambda active, name=_method: getattr({1, 2}, name)(active))  # type: ignore[misc]
_argument({1, 2}.issubset)
_argument({1, 2}.intersection_update)
_argument(lambda active: collections.Counter[int]().subtract(active))
_argument(lambda active: array.array("B").extend(active))
_argument(lambda active: collections.deque[int]().extend(active))
_argument(lambda active: ",".join(map(str, active)))


@pair
def bytes_of_an_array() -> Pair:
    buffer = bytearray(4)
    return lambda: buffer.__setitem__(0, 1), lambda: array.array("B").frombytes(buffer)


# Elements.


@pair
def elements_compared() -> Pair:
    inner = [1]
    return lambda: inner.append(2), lambda: [1] in [inner, [3]]


@pair
def fields_of_elements() -> Pair:
    @dataclasses.dataclass
    class Record:
        x: int

    record = Record(1)
    records = [record]

    def write() -> None:
        record.x = 5

    return write, lambda: records.count(Record(1))


@pair
def elements_of_elements() -> Pair:
    groups = [[1], [2]]
    return lambda: groups[0].append(5), lambda: list(itertools.chain.from_iterable(groups))


@pair
def elements_measured() -> Pair:
    queues = [[1], [2]]
    return lambda: queues[0].append(5), lambda: [each for each in map(len, queues)]  # noqa: C416


@pair
def elements_tested() -> Pair:
    queues = [[1], [2]]
    return lambda: queues[0].append(5), lambda: next(filter(None, queues))


@pair
def elements_by_attribute() -> Pair:
    made, write = box()
    return write, lambda: sorted([made, Box()], key=operator.attrgetter("value"))


@pair
def elements_by_item() -> Pair:
    rows = [[1], [2]]
    return lambda: rows[0].__setitem__(0, 3), lambda: max(rows, key=operator.itemgetter(0))
