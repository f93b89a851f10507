"""What syntax reads and writes besides names, attributes and items: patterns, unpacking, decorators, imports.

Each function takes the runtime and whether it is correct: the correct twin writes before it announces that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import settings_of_programs
from programs_publication import announced

from hfsched.explore.runtime import ExploreRuntime

own_global: Any = 0


@dataclass(eq=False)
class Box:
    n: int = 0
    left: Any = None


class Stream:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def map(self, function: Callable[[Any], Any]) -> Stream:
        return Stream([function(each) for each in self.items])

    def filter(self, function: Callable[[Any], Any]) -> Stream:
        return Stream([each for each in self.items if function(each)])


def lambdas_on_one_line(runtime: ExploreRuntime, correct: bool) -> None:
    scale, limit = 1, 10

    def write() -> None:
        nonlocal scale
        scale = 2

    def read() -> None:
        Stream([1]).map(lambda x: x * scale).filter(lambda y: y < limit)

    announced(runtime, correct, write, read)


def pattern_in_tuple(runtime: ExploreRuntime, correct: bool) -> None:
    box = Box()

    def read() -> None:
        match ("open", box):
            case ("open", Box(n=0)):
                pass

    announced(runtime, correct, lambda: setattr(box, "n", 2), read)


def pattern_in_pattern(runtime: ExploreRuntime, correct: bool) -> None:
    box = Box(1, Box(5))

    def read() -> None:
        match box:
            case Box(1, Box(5)):
                pass

    announced(runtime, correct, lambda: setattr(box.left, "n", 2), read)


def pattern_of_dicts(runtime: ExploreRuntime, correct: bool) -> None:
    table = {"a": {"b": 1}}

    def write() -> None:
        table["a"]["b"] = 2

    def read() -> None:
        match table:
            case {"a": {"b": 1}}:
                pass

    announced(runtime, correct, write, read)


def pattern_of_length(runtime: ExploreRuntime, correct: bool) -> None:
    items = [1]

    def read() -> None:
        match {"items": items}:
            case {"items": []} | {"items": [_, _, *_]}:
                pass

    announced(runtime, correct, lambda: items.append(2), read)


def pattern_with_value(runtime: ExploreRuntime, correct: bool) -> None:
    box = Box()

    def read() -> None:
        match 5:
            case box.n:
                pass

    announced(runtime, correct, lambda: setattr(box, "n", 5), read)


def capture(runtime: ExploreRuntime, correct: bool) -> None:
    last = 0

    def write() -> None:
        nonlocal last
        match {"id": 7}:
            case {"id": last} if last < 5:
                pass

    announced(runtime, correct, write, lambda: last)


def capture_of_rest(runtime: ExploreRuntime, correct: bool) -> None:
    rest: dict[str, int] = {}

    def write() -> None:
        nonlocal rest
        match {"id": 7}:
            case {"id": _, **rest}:
                pass

    announced(runtime, correct, write, lambda: rest)


def capture_of_star(runtime: ExploreRuntime, correct: bool) -> None:
    def write() -> None:
        global own_global
        match [1, 2]:
            case [_, *own_global] as whole:
                assert whole

    announced(runtime, correct, write, lambda: own_global)


def unpacked_in_loop(runtime: ExploreRuntime, correct: bool) -> None:
    table = {"x": [1, 2]}

    def write() -> None:
        table["x"][0] = 5

    def read() -> None:
        for _key, (_low, _high) in table.items():
            pass

    announced(runtime, correct, write, read)


def unpacked_in_assignment(runtime: ExploreRuntime, correct: bool) -> None:
    pair = [1, 2]

    def write() -> None:
        pair[0] = 5

    def read() -> None:
        _, (_low, _high) = 0, pair

    announced(runtime, correct, write, read)


def unpacked_behind_star(runtime: ExploreRuntime, correct: bool) -> None:
    pair = [1, 2]

    def write() -> None:
        pair[0] = 5

    def read() -> None:
        *_, (_low, _high), _last = other = (0, 0, pair, 0)
        assert other

    announced(runtime, correct, write, read)


def unpacked_from_generator(runtime: ExploreRuntime, correct: bool) -> None:
    pair = [1, 2]

    def pairs() -> Iterator[Any]:
        yield 0
        yield (0, pair)

    def write() -> None:
        pair[0] = 5

    def read() -> None:
        _, (_, (_low, _high)) = pairs()

    announced(runtime, correct, write, read)


def unpacked_in_comprehension(runtime: ExploreRuntime, correct: bool) -> None:
    pair = [1, 2]

    def write() -> None:
        pair[0] = 5

    announced(runtime, correct, write, lambda: [low for low, _high in (pair, (1, 2))])


def unpacked_by_with(runtime: ExploreRuntime, correct: bool) -> None:
    pair = [1, 2]

    def write() -> None:
        pair[0] = 5

    def read() -> None:
        with contextlib.nullcontext((0, pair)) as (_, (_low, _high)):
            pass

    announced(runtime, correct, write, read)


def decorator(runtime: ExploreRuntime, correct: bool) -> None:
    handlers: list[Callable[[], None]] = []

    def write() -> None:
        @handlers.append
        def handler() -> None: ...

    announced(runtime, correct, write, lambda: len(handlers))


def decorator_of_class(runtime: ExploreRuntime, correct: bool) -> None:
    kinds: list[type] = []

    def write() -> None:
        @kinds.append
        class Kind: ...

    announced(runtime, correct, write, lambda: len(kinds))


def import_of_name(runtime: ExploreRuntime, correct: bool) -> None:
    def write() -> None:
        settings_of_programs.limit += 1

    def read() -> None:
        from settings_of_programs import limit  # noqa: PLC0415

        assert limit

    announced(runtime, correct, write, read)


def class_with_variable_of_function(runtime: ExploreRuntime, correct: bool) -> None:
    size = 1

    def write() -> None:
        nonlocal size
        size = 2

    def read() -> None:
        class Kind:
            width = size

        assert Kind.__name__

    announced(runtime, correct, write, read)


def class_with_variable_of_module(runtime: ExploreRuntime, correct: bool) -> None:
    def write() -> None:
        class Kind:
            global own_global  # noqa: PLW0603
            own_global = 3

        assert Kind.__name__

    def read() -> None:
        class Kind:
            width = own_global

        assert Kind.__name__

    announced(runtime, correct, write, read)


def class_that_deletes(runtime: ExploreRuntime, correct: bool) -> None:
    size = 1

    def write() -> None:
        class Kind:
            nonlocal size
            del size

        assert Kind.__name__

    def read() -> None:
        with contextlib.suppress(NameError):
            assert size

    announced(runtime, correct, write, read)


def class_around_a_method(runtime: ExploreRuntime, correct: bool) -> None:
    """The method's variable is the function's, though the class has the name too."""
    size = 1

    class Kind:
        size = 5

        def read(self) -> int:
            return size

    def write() -> None:
        nonlocal size
        size = 2

    announced(runtime, correct, write, Kind().read)


def iterator_that_two_share(runtime: ExploreRuntime, correct: bool) -> None:
    items = iter([1, 2, 3])

    def take() -> None:
        for _ in items:
            break

    announced(runtime, correct, take, take)


def generator_that_two_share(runtime: ExploreRuntime, correct: bool) -> None:
    items = (each for each in (1, 2, 3))

    def take() -> None:
        for _ in items:
            break

    def forward() -> Iterator[int]:
        yield from items

    announced(runtime, correct, take, lambda: next(forward(), 0))


def generator_made_before(runtime: ExploreRuntime, correct: bool) -> None:
    items = [1]
    doubled = (2 * each for each in items)
    announced(runtime, correct, lambda: items.append(2), lambda: list(doubled))


PROGRAMS = [
    lambdas_on_one_line,
    pattern_in_tuple,
    pattern_in_pattern,
    pattern_of_dicts,
    pattern_of_length,
    pattern_with_value,
    capture,
    capture_of_rest,
    capture_of_star,
    unpacked_in_loop,
    unpacked_in_assignment,
    unpacked_behind_star,
    unpacked_from_generator,
    unpacked_in_comprehension,
    unpacked_by_with,
    decorator,
    decorator_of_class,
    import_of_name,
    class_with_variable_of_function,
    class_with_variable_of_module,
    class_that_deletes,
    class_around_a_method,
    iterator_that_two_share,
    generator_that_two_share,
    generator_made_before,
]
