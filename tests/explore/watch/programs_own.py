"""Programs whose state is the task's own: each asserts that the watcher changes nothing of what they do."""

from __future__ import annotations

import contextlib
import enum
import functools
import heapq
import io
import itertools
import json
import operator
import random
import re
import types
from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import pytest

PROGRAMS: list[Callable[[], None]] = []


def program(function: Callable[[], None]) -> Callable[[], None]:
    PROGRAMS.append(function)
    return function


@dataclass
class Record:
    n: int = 0
    items: list[int] = field(default_factory=list)


class Pair(NamedTuple):
    left: Record
    right: list[int]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Kind(type):
    """A class whose classes are containers."""

    def __len__(cls) -> int:
        return 3

    def __contains__(cls, key: object) -> bool:
        return key == 5

    def __iter__(cls) -> Iterator[int]:
        return iter((1, 2))

    def __getitem__(cls, key: int) -> int:
        return key


class Made(metaclass=Kind):
    pass


class Zero(dict[str, int]):
    def __getitem__(self, key: str) -> int:
        return self.get(key, 0)

    def __len__(self) -> int:
        return 7

    def __iter__(self) -> Iterator[str]:
        return iter("xyz")

    def __contains__(self, key: object) -> bool:
        return True


class Ring(list[int]):
    def __getitem__(self, at: Any) -> Any:
        return list.__getitem__(self, at % len(self))

    def __iter__(self) -> Iterator[int]:
        for at in range(len(self)):
            yield self[at]


class Angry:
    def __hash__(self) -> int:
        raise ValueError("no hash")


@program
def library_containers() -> None:
    table: defaultdict[str, list[int]] = defaultdict(list)
    table["a"].append(1)
    table["b"] += [2]
    assert dict(table) == {"a": [1], "b": [2]}
    counts = Counter("abca")
    counts["q"] += 1
    counts -= Counter("b")
    assert counts.most_common(1) == [("a", 2)]
    order = OrderedDict(x=1, y=2)
    order.move_to_end("x")
    assert list(order) == ["y", "x"]
    ring = deque([1, 2], maxlen=2)
    ring.append(3)
    ring.rotate(1)
    assert [*ring] == [3, 2]
    own: Any = UserDict(a=1)
    own |= {"c": 3}
    del own["a"]
    assert list(own.items()) == [("c", 3)]
    chain: ChainMap[str, int] = ChainMap({}, {"a": 1})
    chain["b"] = 2
    assert dict(chain) == {"a": 1, "b": 2}
    view = types.MappingProxyType({"a": 1})
    assert (view["a"], len(view), view | {}) == (1, 1, {"a": 1})


@program
def own_methods() -> None:
    assert Colour.RED in Colour
    assert Colour["RED"] is Colour.RED
    assert (len(Made), 5 in Made, 6 in Made, list(Made), Made[4]) == (3, True, False, [1, 2], 4)
    zero = Zero()
    assert (zero["a"], len(zero), list(zero), "k" in zero) == (0, 7, ["x", "y", "z"], True)
    ring = Ring([1, 2, 3])
    assert (ring[4], list(ring), 2 in ring) == (2, [1, 2, 3], True)


@program
def buffers_and_slices() -> None:
    own = bytearray(b"abc")
    own[0:1] = b"zz"
    own += b"1"
    del own[0]
    with memoryview(own) as view:
        assert view[1:][0] == own[1]
    own.clear()
    numbers = [1, 2, 3]
    numbers[1:1] = [9]
    numbers[::2] = [0, 0]
    numbers *= 2
    numbers += (each for each in [4])
    del numbers[0:2]
    assert numbers == [0, 3, 0, 9, 0, 3, 4]
    nested = [[1], [2]]
    nested[0] += [5]
    nested[-1].append(3)
    assert nested == [[1, 5], [2, 3]]


@program
def iterators() -> None:
    numbers = iter([1, 2, 3])
    assert (next(numbers), list(numbers), next(numbers, None)) == (1, [2, 3], None)
    _, *rest = (each for each in [1, 2, 3])
    assert rest == [2, 3]
    made = (each for each in [1, 2])
    for _ in made:
        break
    assert list(made) == [2]
    pairs = iter([1, 2, 3, 4])
    assert list(zip(pairs, pairs, strict=True)) == [(1, 2), (3, 4)]
    groups = {key: [*each] for key, each in itertools.groupby([1, 1, 2])}
    assert groups == {1: [1, 1], 2: [2]}

    ended = []

    def inner() -> Any:
        try:
            got = yield 1
            yield got
        finally:
            ended.append("inner")

    def outer() -> Any:
        return (yield from inner())

    first = outer()
    next(first)
    assert first.send(6) == 6
    with contextlib.suppress(KeyError):
        first.throw(KeyError)
    second = outer()
    next(second)
    second.close()
    assert ended == ["inner", "inner"]


@program
def callbacks() -> None:
    assert functools.reduce(operator.add, [[1], [2]], []) == [1, 2]
    records = sorted([Record(2), Record(1)], key=operator.attrgetter("n"))
    assert records[0].n == 1
    assert list(map(operator.itemgetter(1), {"a": 5}.items())) == [5]
    assert sum(map(len, [[1], [2, 3]])) == 3
    assert ",".join(map(str, range(3))) == "0,1,2"
    assert list(itertools.chain.from_iterable(filter(None, [[1], [], [2]]))) == [1, 2]
    assert list(itertools.accumulate([1, 2, 3], operator.add)) == [1, 3, 6]
    assert functools.partial(max, key=operator.neg)([1, 2]) == 1
    heap = [3, 1]
    heapq.heapify(heap)
    with contextlib.ExitStack() as stack:
        stack.callback(heap.clear)
        assert heapq.heappop(heap) == 1
    assert heap == []
    assert re.sub("a", lambda _: "b", "aa") == "bb"


@program
def texts_and_copies() -> None:
    assert "{0.n} {1[0]}".format(Record(3), [4]) == "3 4"  # noqa: UP030, UP032
    assert f"{Record(1)!r:>5}" == "Record(n=1, items=[])"
    assert json.loads(json.dumps({"a": [1]}, default=str)) == {"a": [1]}
    assert Pair(Record(1), [2]).right == [2]
    assert replace(Record(1), n=2) == Record(2)
    assert asdict(Record(1)) == {"n": 1, "items": []}
    out = io.StringIO()
    print("a", file=out)
    assert out.getvalue() == "a\n"
    deck = [1, 2, 3]
    random.Random(3).shuffle(deck)
    assert sorted(deck) == [1, 2, 3]


@program
def own_errors() -> None:
    wrong: list[tuple[Any, Any, type[Exception]]] = [
        ({}, Angry(), ValueError),
        ({}, [], TypeError),
        ([1], None, TypeError),
        ([1], 0.5, TypeError),
        ({1}, 0, TypeError),
        (memoryview(b"ab"), 9, IndexError),
        (bytearray(b"ab"), 2, IndexError),
        (None, 0, TypeError),
        (5, 0, TypeError),
    ]
    for of, key, error in wrong:
        with pytest.raises(error):
            of[key]
    assert [1, 2][True] == 2
