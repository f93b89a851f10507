"""Pairs of accesses, one of them by code in C or in a library: each function makes (write, other).

The two race if they are not ordered.
"""

from __future__ import annotations

import array
import collections
import configparser
import copy
import ctypes
import dataclasses
import functools
import io
import itertools
import json
import operator
import os
import pickle
import random
import struct
import types
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

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


# Objects with state of their own.


@pair
def text_in_memory() -> Pair:
    out = io.StringIO()
    return lambda: out.write("a"), out.tell


@pair
def generator_of_numbers() -> Pair:
    numbers = random.Random(7)
    return numbers.random, lambda: numbers.randrange(3)


@pair
def field_of_ctypes() -> Pair:
    class Header(ctypes.Structure):
        _fields_ = (("sequence", ctypes.c_uint32),)

    header = Header()

    def write() -> None:
        header.sequence = 1

    return write, lambda: header.sequence


@pair
def item_of_ctypes() -> Pair:
    numbers = (ctypes.c_int * 2)()
    return lambda: numbers.__setitem__(0, 1), lambda: numbers[0]


@pair
def generator() -> Pair:
    def count() -> Iterator[int]:
        yield from range(9)

    ids = count()
    return lambda: next(ids), lambda: sum(ids)


@pair
def iterator() -> Pair:
    numbers = iter([1, 2, 3])

    def loop() -> None:
        for _ in numbers:
            break

    return loop, loop


@pair
def generator_made_before() -> Pair:
    numbers = [1]
    made = (each for each in numbers)
    return lambda: numbers.append(2), lambda: list(made)


@pair
def zipped_iterator() -> Pair:
    numbers = iter([1, 2, 3, 4])
    return lambda: list(zip(numbers, numbers, strict=False)), lambda: next(numbers, None)


# Containers of the standard library that are written in Python.


def _mapping(make: Callable[[], MutableMapping[Any, Any]]) -> None:
    for name, use in (
        ("get", lambda of: of["a"]),
        ("in", lambda of: "b" in of),
        ("len", len),
        ("items", lambda of: list(of.items())),
        ("iteration", lambda of: [each for each in of]),  # noqa: C416
        ("truth", lambda of: 1 if of else 2),
    ):

        def made(use: Callable[[Any], object] = use) -> Pair:
            table = make()

            def write() -> None:
                table["b"] = _SECOND

            return write, lambda: use(table)

        made.__name__ = f"{type(make()).__name__}_{name}"
        PAIRS.append(made)


_FIRST, _SECOND = Box(), Box()
_mapping(lambda: collections.UserDict(a="1"))
_mapping(lambda: collections.ChainMap({"a": "1"}))
_mapping(lambda: weakref.WeakValueDictionary({"a": _FIRST}))


@pair
def dict_in_a_chain() -> Pair:
    table = {"a": 1}
    chain = collections.ChainMap({}, table)
    return lambda: table.update(a=2), lambda: chain["a"]


@pair
def chain_over_a_dict() -> Pair:
    table = {"a": 1}
    chain = collections.ChainMap(table)
    return lambda: chain.__setitem__("a", 2), lambda: table["a"]


@pair
def weak_keys() -> Pair:
    sizes: weakref.WeakKeyDictionary[Box, int] = weakref.WeakKeyDictionary()

    def write() -> None:
        sizes[_FIRST] = 1

    return write, lambda: sizes.get(_SECOND)


@pair
def weak_set() -> Pair:
    boxes: weakref.WeakSet[Box] = weakref.WeakSet()
    return lambda: boxes.add(_FIRST), lambda: len(boxes)


@pair
def environment() -> Pair:
    def write() -> None:
        os.environ["HFSCHED_TEST"] = "0"

    return write, lambda: os.environ.get("HFSCHED_TEST")


@pair
def configuration() -> Pair:
    parser = configparser.ConfigParser()
    parser.read_dict({"s": {"n": "0"}})
    return lambda: parser.set("s", "n", "1"), lambda: parser.get("s", "n")


@pair
def view_of_a_dict() -> Pair:
    table = {"a": 1}
    view = types.MappingProxyType(table)
    return lambda: table.update(a=2), lambda: view["a"]


@pair
def view_of_a_dict_by_method() -> Pair:
    table = {"a": 1}
    view = types.MappingProxyType(table)
    return lambda: table.__setitem__("b", 2), lambda: "b" in view or view.get("b")


# Fields of plain objects.


def _fields(name: str, use: Callable[[Box], object]) -> None:
    def made() -> Pair:
        of, write = box()
        return write, lambda: use(of)

    made.__name__ = f"fields_{name}"
    PAIRS.append(made)


_fields("attrgetter", operator.attrgetter("value"))
_fields("copy", copy.copy)
_fields("deepcopy", lambda of: copy.deepcopy([of]))
_fields("pickle", pickle.dumps)
_fields("format", lambda of: f"{of.value}")
_fields("json", lambda of: json.dumps({"k": of}, default=lambda each: each.__dict__))
_fields("proxy", lambda of: weakref.proxy(of).value)


@dataclasses.dataclass(eq=False)
class Unequal:
    n: int = 0
    m: int = 0


def _record(name: str, use: Callable[[Any], object], make: Callable[[], Any] = Unequal) -> None:
    def made() -> Pair:
        record = make()

        def write() -> None:
            record.n = 2

        return write, lambda: use(record)

    made.__name__ = f"record_{name}"
    PAIRS.append(made)


_record("asdict", dataclasses.asdict)
_record("replace", lambda of: dataclasses.replace(of, m=1))
_record("repr", repr)
_record(
    "namespace", lambda of: of == types.SimpleNamespace(n=2), lambda: types.SimpleNamespace(n=1)
)
