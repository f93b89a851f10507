"""Canonical encodings: equal exactly for what is the same, and refused where nobody can tell."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from itertools import combinations
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.explore.canonical import NoCanonicalFormError, RefusedError, digest, encode


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


# Each differs from each: most of them are equal in Python, or have equal hashes.
DIFFERENT: list[Any] = [
    *(-1, -2, 0, 2**61 - 1, 2**61, 1, True, False, 1.0, 0.0, -0.0, 1 + 0j, "1", b"1", "", b"", None, ...),
    *(bytearray(b"1"), [], (), [1], (1,), (True,), (1.0,), ((1,),), ("1",), (b"1",), (bytearray(b"1"),)),
    *({}, set(), {1: 2}, {1: 2.0}, {True: 2}, {1: 2, 3: 4}, {3: 4, 1: 2}, {1}, frozenset({1}), {1, 2}),
    *(deque(), deque([1]), deque([1], 5), range(3), range(0, 3, 2), float("inf"), -float("inf")),
    *(Colour.RED, Colour.BLUE, Level.LOW, Bits.A, Bits.A | Bits.B, (Colour.RED,), "Colour.RED", int, str),
    *(Point(1, 2), (1, 2), [1, 2], Pair(1, 2), Other(1, 2), Pair(1, 2.0), Record(1, 2), Record(2, 1)),
    *(Keyed(1), Keyed(1.0), Keyed((1,)), OrderedDict({1: 2}), ("a", "bc"), ("ab", "c"), ("abc",)),
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
    ],
)
def test_what_is_the_same_is_encoded_the_same(one: object, two: object) -> None:
    assert encode(one, "") == encode(two, "")
    assert digest(one, "") == digest(two, "")
    assert len(digest(one, "")) == 16


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
