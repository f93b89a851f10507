"""Worlds small enough to count by hand; each can fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from hfsched.explore.execution import search
from hfsched.explore.replay import Finding, confirm, schedule_of
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import Scenario, World
from hfsched.explore.schedule import Recording
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.strategy import Strategy

__all__ = [
    "UPSTREAM",
    "Counter",
    "Fickle",
    "Polite",
    "Racy",
    "Rounds",
    "Spins",
    "Values",
    "failing",
    "find_failure",
]

UPSTREAM = "mailbox+upstream,receiver=echo,vcpus=1,messages=2"  # fails with one preemption


@dataclass
class Counter:
    """Tasks that add to a cell in two steps, with a lock or without."""

    locked: bool = False
    tasks: int = 2
    name: str = "counter"

    def build(self, runtime: ExploreRuntime) -> World:
        cell = runtime.cell("n", 0)
        lock = runtime.lock("lock", state=lambda: None)

        def add() -> None:
            if self.locked:
                with lock:
                    cell.set(cell.get() + 1)
            else:
                cell.set(cell.get() + 1)

        for number in range(self.tasks):
            runtime.spawn(f"add.{number}", add)

        def check() -> None:
            assert cell.get() == self.tasks, "an update was lost"

        return World(check, final=cell.get)


@dataclass
class Rounds:
    """Two tasks that write a letter each time the last one is not theirs; too many are a failure."""

    switches: int
    name: str = "rounds"

    def build(self, runtime: ExploreRuntime) -> World:
        log = runtime.cell("log", "")

        def work(letter: str) -> None:
            for _ in range(self.switches):
                last = log.get()
                log.set(last if last.endswith(letter) else last + letter)

        runtime.spawn("a", lambda: work("a"))
        runtime.spawn("b", lambda: work("b"))

        def check() -> None:
            turns = log.get()
            assert len(turns) <= self.switches, f"{len(turns)} turns"

        return World(check, final=log.get)


@dataclass
class Values:
    """A task that is given two numbers and raises for one pair of them."""

    name: str = "values"
    of: int = 300

    def build(self, runtime: ExploreRuntime) -> World:
        def work() -> None:
            if (runtime.choose("first", self.of), runtime.choose("second", 2)) == (self.of - 1, 1):
                raise KeyError("the pair")

        runtime.spawn("a", work)
        return World()


class Racy:
    """A plain value that nothing orders."""

    name = "racy"

    def build(self, runtime: ExploreRuntime) -> World:
        shared = runtime.shared("flag", value=False)

        def write() -> None:
            runtime.checkpoint("before")
            shared.value = True

        runtime.spawn("a", write)
        runtime.spawn("b", write)
        return World()


@dataclass
class Polite:
    """Each of two yields while the other's flag is up: a livelock."""

    name: str = "polite"

    def build(self, runtime: ExploreRuntime) -> World:
        flags = [runtime.cell(f"flag.{n}", value=True) for n in range(2)]

        def wait(own: int, other: int) -> None:
            while flags[other].get():
                runtime.retain_only()
                runtime.checkpoint("yield")
            flags[own].set(False)

        runtime.spawn("a", lambda: wait(0, 1))
        runtime.spawn("b", lambda: wait(1, 0))
        return World()


class Spins:
    """It counts for ever, so no state comes again: only the number of steps ends it."""

    name = "spins"

    def build(self, runtime: ExploreRuntime) -> World:
        def work() -> None:
            for number in count():
                runtime.checkpoint(str(number))

        runtime.spawn("a", work)
        return World()


@dataclass
class Fickle:
    """A scenario that is decided by something else too: how often it was built before.

    Its `change` is what is done the second time and later.
    """

    change: Callable[[ExploreRuntime], None]
    builds: count[int] = field(default_factory=count)
    name: str = "fickle"

    def build(self, runtime: ExploreRuntime) -> World:
        again = next(self.builds) > 0

        def work() -> None:
            runtime.checkpoint("one")
            runtime.checkpoint("two")
            if again:
                self.change(runtime)
            raise ValueError("it fails")

        runtime.spawn("a", work)
        return World()


def find_failure(scenario: Scenario, strategy: Strategy | None = None) -> Finding:
    """Return the first failure of a random walk, or of another strategy."""
    recording = Recording(RandomWalk(1) if strategy is None else strategy)
    result = search(scenario, recording, until=lambda sofar: sofar.executions > 10_000)
    assert result.failure is not None
    schedule = schedule_of(recording, result.failure)
    return confirm(scenario, schedule, result.failure.failure)


def failing(scenario: Scenario, preemptions: int, text: str = "") -> Finding:
    """Return a failure of a random walk with at least so many preemptions, and such a text."""
    recording = Recording(RandomWalk(1))
    for _ in range(1000):
        result = search(scenario, recording, until=lambda sofar: sofar.executions > 10_000)
        assert result.failure is not None
        if recording.preemptions >= preemptions and text in str(result.failure.failure):
            return confirm(scenario, schedule_of(recording, result.failure))
    raise AssertionError(f"no failure with {preemptions} preemptions")
