"""A passing execution run twice: a difference is a decision that is made outside the runtime.

Random numbers, the time, addresses and the order of a set of strings are such; a search that repeats the
beginnings of its executions would cover something else than it says.  What is compared is every operation,
every value that a task has observed, and the things' states at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from hfsched.explore.canonical import RefusedError, encode
from hfsched.explore.controller import Prune
from hfsched.explore.schedule import Prefix

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task

__all__ = ["Again", "Witness", "difference"]


class Witness:
    """What one execution has done.

    `steps` and `values` are those of a `Prefix`, `lines` its trace; `observed` is, for each value that a
    task has observed, {the number of the line of its operation, its place, its encoding}; `ends` has the things' states.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.values: list[int] = []
        self.lines: list[str] = []
        self.observed: list[tuple[int, str, object]] = []
        self.ends: list[tuple[str, object]] = []

    def note_value(self, task: Task, value: object, place: str) -> None:
        """Record a value that a task has observed."""
        where = f"{task.name}: {place}" if place else task.describe()
        self.observed.append((max(0, len(self.lines) - 1), where, encoded(value)))

    def note_end(self, runtime: ExploreRuntime) -> None:
        """Record the things' states, before the execution is closed."""
        things = runtime.controller.table.things
        self.ends = [(thing.place, encoded(thing.whole())) for thing in things]


def encoded(value: object) -> object:
    """Return a value's encoding, or the name of its type if it has none."""
    try:
        return encode(value, "")
    except RefusedError:
        return type(value).__qualname__


class Again:
    """The strategy that repeats what a witness has seen."""

    name = "again"
    every_point = True

    def __init__(self, seen: Witness, *, stateful: bool) -> None:
        self.stateful = stateful  # as the one that it repeats
        self._prefix = Prefix(seen.steps, seen.values, (), 0, 0)

    def begin(self) -> bool:
        """See `Strategy`."""
        return True

    def take_prefix(self) -> Prefix:
        """Return the whole execution."""
        return self._prefix

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:  # noqa: ARG002
        """End the execution where the other one was pruned."""
        raise Prune

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        """See `Strategy`."""
        return 0

    def end(self, outcome: object) -> None:
        """See `Strategy`."""


def difference(one: Witness, two: Witness) -> str | None:
    """Return where two executions of the same choices first differ; None if nowhere."""
    at, what = _first(one.lines, two.lines)
    seen, _ = _first(one.observed, two.observed)
    if seen is not None:
        first = (one.observed if seen < len(one.observed) else two.observed)[seen]
        if at is None or first[0] < at:
            return f"two runs of the same schedule differ: step {first[0]} observes another value, {first[1]}"
    if at is not None:
        return f"two runs of the same schedule differ: step {at} was first {what}"
    end, _ = _first(one.ends, two.ends)
    if end is not None:
        place = (one.ends if end < len(one.ends) else two.ends)[end][0]
        return f"two runs of the same schedule differ: at the end {place} has another state"
    return None


def _first(one: Sequence[object], two: Sequence[object]) -> tuple[int | None, str | None]:
    for number, (first, second) in enumerate(zip_longest(one, two)):
        if first != second:
            ways = ("the end" if way is None else repr(way) for way in (first, second))
            return number, " then ".join(ways)
    return None, None
