"""Canonical encodings: equal exactly for what is the same, and refused where nobody can tell."""

from __future__ import annotations

import array
import functools
import subprocess
import sys
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag
from itertools import combinations
from types import SimpleNamespace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.explore.canonical import NoCanonicalFormError, RefusedError, digest, encode
from hfsched.runtime.declared import uncompared


class Colour(Enum):
    RED = 1
    BLUE = 2


class Level(IntEnum):
    LOW = 1


class Bits(IntFlag):
    A = 1
    B = 2


class Point(NamedTuple):
    x: int
    y: int


@dataclass(frozen=True)
class Pair:
    x: object
    y: object


@dataclass(frozen=True)
class Other:
    x: object
    y: object


class Record(msgspec.Struct):
    x: object
    y: object


class Keyed:
    def __init__(self, state: object) -> None:
        self._state = state

    def key(self) -> object:
        return self._state


class Fresh:
    def key(self) -> object:
        return ([], [])


@dataclass
class Port:
    number: int = 0
    spare: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    x: int = 0


@dataclass(eq=False)
class Batch(list[int]):
    kind: str = ""


@dataclass(frozen=True, eq=False)
class Mark:
    """Equals nothing but itself."""

    x: int = 0


@dataclass
class Failure(Exception):
    code: int = 0


@uncompared(hits="a counter for reports")
@dataclass
class Reported:
    x: int = 0


class Tagged(list[int]):
    __slots__ = ("__hidden", "tag")

    def hide(self, value: int) -> Tagged:
        self.__hidden = value
        return self

    @property
    def hidden(self) -> int:
        return self.__hidden


class Reversed(list[int]):
    """Shows other items than it has."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


class Shouted(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "!"


class Name(str):  # noqa: SLOT000
    """May have attributes."""


class Recent(OrderedDict[int, int]):
    def items(self) -> Any:
        return ()


class Speed(Enum):
    FAST = 1


def having(of: Any, **attributes: object) -> Any:
    """Return an object with more attributes."""
    for name, value in attributes.items():
        setattr(of, name, value)
    return of


def twice(of: object) -> tuple[object, object]:
    return (of, of)


def moved(of: OrderedDict[int, int]) -> OrderedDict[int, int]:
    of.move_to_end(1)
    return of


def batch(*items: int) -> Batch:
    made = Batch("x")
    made.extend(items)
    return made


# Each differs from each: most of them are equal in Python, or have equal hashes.
DIFFERENT: list[Any] = [
    *(-1, -2, 0, 2**61 - 1, 2**61, 1, True, False, 1.0, 0.0, -0.0, 1 + 0j, "1", b"1", "", b"", None, ...),
    *(bytearray(b"1"), [], (), [1], (1,), (True,), (1.0,), ((1,),), ("1",), (b"1",), (bytearray(b"1"),)),
    *({}, set(), {1: 2}, {1: 2.0}, {True: 2}, {1: 2, 3: 4}, {3: 4, 1: 2}, {1}, frozenset({1}), {1, 2}),
    *(deque(), deque([1]), deque([1], 5), range(3), range(0, 3, 2), float("inf"), -float("inf")),
    *(Colour.RED, Colour.BLUE, Level.LOW, Bits.A, Bits.A | Bits.B, (Colour.RED,), "Colour.RED", int, str),
    *(Point(1, 2), (1, 2), [1, 2], Pair(1, 2), Other(1, 2), Pair(1, 2.0), Record(1, 2), Record(2, 1)),
    *(Keyed(1), Keyed(1.0), Keyed((1,)), OrderedDict({1: 2}), ("a", "bc"), ("ab", "c"), ("abc",)),
    *(twice([]), ([], []), twice({}), ({}, {}), twice({1}), ({1}, {1}), twice(bytearray()), (bytearray(),) * 3),
    *((a := [1], b := [1], a), (a, b, b), [[1], twice(a)], [a, (a, [1])], twice((a,)), {1: a, 2: a}, {1: a, 2: [1]}),
    *(twice(Port(1)), (Port(1), Port(1)), Port(1, a), twice(Mark()), (Mark(), Mark()), twice(Keyed(1))),
    *((Keyed(1), Keyed(1)), (Pair(a, a), 1), (Pair(a, [1]), 1), (twice(deque()), 1), ((deque(), deque()), 1)),
    *(twice(Name("a")), (Name("a"), Name("a")), having(Name("a"), x=1), having(Name("a"), x=2)),
    *(having(Port(), more=0), having(Port(), more=1), having(Port(), other=0), having(Port(7, [1]), number=8)),
    *(batch(), batch(1), batch(2), having(batch(), more=1), Slotted(0), Slotted(1), Slotted.__new__(Slotted), Reported(1)),
    *(Tagged(), having(Tagged(), tag=0), having(Tagged(), tag=1), Tagged().hide(0), Tagged().hide(1), Tagged([1])),
    *(defaultdict(list), defaultdict(int), defaultdict(int, {1: 2}), defaultdict(None), Counter(), Counter("a")),
    *(Reversed(), Reversed([1]), Reversed([2]), Shouted("a"), Shouted("b"), Recent({1: 2}), Recent({1: 3})),
    *(OrderedDict({1: 2, 3: 4}), moved(OrderedDict({1: 2, 3: 4})), Failure(1), having(Failure(1), args=(2,))),
    *((deque([1], 5), 1), (deque([1]), 1), deque([1], 6), NameError, type(None), Colour, {1: a, 2: (a,)}),
    *(b"\x01\x00s\x00", ("s\x00\x00\x00\x00",), [b""], [bytearray()], 10**40, -(10**40), (0, -0.0), (0, 0.0)),
]  # fmt: skip


def test_what_behaves_differently_is_encoded_differently() -> None:
    for one, two in combinations(DIFFERENT, 2):
        assert encode(one, "") != encode(two, ""), (one, two)
        assert digest(one, "") != digest(two, ""), (one, two)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({1, 2, "a", (3, 4)}, {(3, 4), "a", 2, 1}),
        (frozenset("abcdef"), frozenset("fedcba")),
        (("ab" + "c" * 3, 5), (["abccc", "abccc"][1], 5)),
        ({"x": [1, {2: 3}]}, {"x": [1, {2: 3}]}),
        (Pair([1], {2}), Pair([1], {2})),
        (Keyed([1]), Keyed([1])),
        ((300, 300), (300, int("300"))),
        (twice((1, "ab")), ((1, "ab"), (int("1"), "".join("ab")))),
        (twice(frozenset((1, 2))), (frozenset((1, 2)), frozenset((2, 1)))),
        (twice(Pair(1, 2)), (Pair(1, 2), Pair(1, 2))),
        (twice(Point(1, 2)), (Point(1, 2), Point(1, 2))),
        (twice(Colour.RED), (Colour.RED, Colour["RED"])),
        (twice(range(2)), (range(2), range(2))),
        (twice(1.5), (1.5, float("1.5"))),
        (twice([Keyed([1]), [2]]), twice([Keyed([1]), [2]])),
        ({Mark(1), Mark(2), Mark(3)}, {Mark(3), Mark(2), Mark(1)}),
        ({Mark(1), Mark(1)}, {Mark(1), Mark(1)}),
        (({(c := Mark(1)), Mark(2)}, c), ({Mark(2), (d := Mark(1))}, d)),
        (having(Reported(1), hits=1), having(Reported(1), hits=2)),
    ],
)
def test_what_is_the_same_is_encoded_the_same(one: object, two: object) -> None:
    assert encode(one, "") == encode(two, "")
    assert digest(one, "") == digest(two, "")
    assert len(digest(one, "")) == 16


def test_a_part_that_is_made_for_the_encoding_alone_is_taken_for_no_other() -> None:
    """Though it may get the place in memory of one that was there before."""
    rows = [Fresh() for _ in range(100)]
    assert b"ref" not in encode(rows, "")


def test_a_member_of_a_set_is_the_same_as_what_it_is_elsewhere() -> None:
    one, two = Mark(1), Mark(2)
    assert encode(({one, two}, one), "") != encode(({one, two}, two), "")
    assert encode(({one, two}, one), "") != encode(({one, two}, Mark(1)), "")


def test_attributes_of_an_enum_s_member_count() -> None:
    before = encode(Speed.FAST, "")
    try:
        having(Speed.FAST, taken=1)
        assert encode(Speed.FAST, "") != before
    finally:
        del vars(Speed.FAST)["taken"]


def test_encodings_are_the_same_in_every_process() -> None:
    """Whatever the seed of hashes is."""
    code = (
        "from hfsched.explore.canonical import digest\n"
        "print(digest(({'a', 'b', 'c', 'd'}, 'x', {'k': frozenset('uvw')}), '').hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1


class Itself:
    """Equals nothing but itself."""


def _local() -> Any:
    @dataclass(frozen=True)
    class Local:
        x: int = 0

    return Local


def _local_object() -> object:
    return _local()()


def _local_member() -> Any:
    class Local(Enum):
        A = 1

    return Local.A


Renamed = type("Mark", (), {"key": lambda _self: 1})  # as another one is called


class Queue(deque[int]):
    pass


@dataclass
class Words(array.array):  # type: ignore[type-arg]
    x: int = 0


def _equal_members() -> object:
    one, two = Mark(), Mark()
    return ({one, two}, one)


def _equal_members_after() -> object:
    one, two = Mark(), Mark()
    return (one, {one, two})


class Method:
    def act(self) -> None: ...


def _cycle() -> object:
    items: list[object] = []
    items.append(items)
    return items


def _deep() -> object:
    items: list[object] = []
    for _ in range(100_000):
        items = [items]
    return items


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Itself, "a Itself"),
        (lambda: (1, [Itself()]), "a Itself"),
        (lambda: Pair(1, Itself()), "a Itself"),
        (object, "a object"),
        (lambda: lambda: None, "a function"),
        (lambda: float("nan"), "a float that is NaN"),
        (lambda: (1, {"x": float("nan")}), "a float that is NaN"),
        (lambda: complex(0.0, float("nan")), "a float that is NaN"),
        (lambda: {float("nan")}, "a float that is NaN"),
        (lambda: memoryview(b"1"), "a memoryview"),
        (lambda: (1, memoryview(b"1")), "a memoryview"),
        (lambda: iter([1]), "a list_iterator"),
        (lambda: (1, array.array("b", b"1")), "a array"),
        (lambda: Words.__new__(Words, "b", b"1"), "a Words, which is partly written in C,"),
        (Queue, "a Queue"),
        (SimpleNamespace, "a SimpleNamespace"),
        (UserDict, "a UserDict"),
        (ChainMap, "a ChainMap"),
        (lambda: functools.partial(int), "a partial"),
        (lambda: Method().act, "a method"),
        (lambda: ValueError(1), "a ValueError"),
        (lambda: (each for each in ""), "a generator"),
        (lambda: defaultdict(lambda: 0), "a function"),
        (lambda: having(Port(), act=print), "a builtin_function_or_method"),
        (_local, "the class _local.<locals>.Local (it is not what its module has"),
        (_local_object, "a _local.<locals>.Local (its class is not what its module has"),
        (_local_member, "a _local_member.<locals>.Local (its class is not"),
        (Renamed, "a Mark (its class is not what its module has"),
        (_equal_members, "a set with equal members, and a Mark in one of them,"),
        (_equal_members_after, "a set with equal members, parts of which occur elsewhere,"),
        (_cycle, "a list that is nested too deeply"),
        (_deep, "a list that is nested too deeply"),
    ],
)
def test_what_has_no_canonical_form_is_refused_by_name(
    make: Callable[[], object], why: str
) -> None:
    with pytest.raises(NoCanonicalFormError) as refused:
        digest(make(), "cell of jobs")
    text = str(refused.value)
    assert text.startswith(f"cell of jobs: {why}")
    assert "\n" not in text
    assert isinstance(refused.value, RefusedError)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


def exact(value: Any) -> object:
    """Return what tells plain values apart, of Python's own: a text."""
    return f"{type(value).__name__} {value!r}"


@given(PLAIN, PLAIN)
def test_encodings_are_equal_exactly_for_equal_values(one: Any, two: Any) -> None:
    assert (encode(one, "") == encode(two, "")) == (exact(one) == exact(two))


@given(PLAIN)
def test_the_way_to_an_encoding_changes_nothing(value: Any) -> None:
    """What is beside a value may send it the slower way."""
    assert encode((value, 1), "") == encode((value, 1), "")
    assert encode((value, Colour.RED), "") != encode((value, Colour.BLUE), "")
    assert encode((value, Colour.RED), "") == encode((value, Colour.RED), "")
