"""Likewise, for objects with state in C, containers of libraries, and the fields of plain objects."""

from __future__ import annotations

import collections
import configparser
import copy
import ctypes
import dataclasses
import io
import json
import operator
import os
import pickle
import random
import re
import string
import struct
import types
import weakref
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

from programs_calls import Box, Pair, box

PAIRS: list[Callable[[], Pair]] = []


def pair(function: Callable[[], Pair]) -> Callable[[], Pair]:
    PAIRS.append(function)
    return function


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
_fields("formatter", lambda of: string.Formatter().format("{0.value}", of))
_fields("reduce", lambda of: of.__reduce_ex__(2))
_fields("sort", lambda of: [of, Box()].sort(key=operator.attrgetter("value")))
_fields("filter", lambda of: list(filter(operator.attrgetter("value"), [of])))
_fields("dict", lambda of: vars(of).copy())
_fields("getattr", lambda of: list(map(getattr, [of], ["value"])))
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


def _container(
    name: str, make: Callable[[], Any], write: Callable[[Any], object], use: Callable[[Any], object]
) -> None:
    def made() -> Pair:
        of = make()
        return lambda: write(of), lambda: use(of)

    made.__name__ = f"container_{name}"
    PAIRS.append(made)


def _shown(use: Callable[[Any], object], name: str) -> None:
    _container(
        f"shown_{name}",
        lambda: (table := {"a": 1}, types.MappingProxyType(table)),
        lambda of: of[0].update(b=1),
        lambda of: use(of[1]),
    )


_shown(len, "len")
_shown(dict, "dict")
_shown(lambda of: {**of}, "unpacking")
_shown(lambda of: of == {}, "comparison")
_shown(lambda of: 1 if of else 2, "truth")
_shown(lambda of: [each for each in of], "iteration")  # noqa: C416
_shown(lambda of: list(of.items()), "items")


def _user_list(name: str, use: Callable[[Any], object]) -> None:
    _container(f"user_list_{name}", collections.UserList, lambda of: of.append(1), use)


_user_list("sum", lambda of: of + [1])  # noqa: RUF005
_user_list("comparison", lambda of: of == [1])
_user_list("text", lambda of: f"{of}")
_user_list("list", list)
_user_list("in", lambda of: 1 in of)
_user_list("addition", lambda of: operator.iadd(of, [2]))  # type: ignore[no-untyped-call]
_container("weak_set", weakref.WeakSet, lambda of: of.add(_FIRST), list)


class Own(collections.UserDict[str, int]):
    """A user's class: its inherited methods are the library's."""


class Mapping(MutableMapping[str, int]):
    """Its methods are watched, those that it inherits call them."""

    def __init__(self) -> None:
        self.table: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self.table[key]

    def __setitem__(self, key: str, value: int) -> None:
        self.table[key] = value

    def __delitem__(self, key: str) -> None:
        del self.table[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


for _kind in (Own, Mapping):
    _container(f"{_kind.__name__}_get", _kind, lambda of: of.update(a=1), lambda of: of.get("a"))
    _container(f"{_kind.__name__}_in", _kind, lambda of: of.update(a=1), lambda of: "a" in of)
    _container(f"{_kind.__name__}_pop", _kind, lambda of: of.pop("a", 1), lambda of: of.update(a=1))

_USES: dict[str, Callable[[Any], object]] = {
    "search": lambda of: re.search(b"a", of),
    "compiled": re.compile(b"a").findall,
    "file": io.BytesIO,
    "number": lambda of: int.from_bytes(of, "little"),
    "unpacked": lambda of: list(struct.iter_unpack("B", of)),
}
for _name, _use in _USES.items():
    _container(f"bytes_{_name}", lambda: bytearray(b"abab"), lambda of: of.__setitem__(0, 1), _use)

_container(
    "default_factory",
    lambda: [1, 2],
    lambda of: collections.defaultdict[str, int](of.pop)["a"],
    lambda of: of[0],
)
_container(
    "filled_by_a_generator",
    list[int],
    lambda of: list(map(of.append, (each for each in [1]))),
    len,
)
_container("emptied_by_a_sentinel", lambda: [1, 2], lambda of: list(iter(of.pop, 1)), len)
