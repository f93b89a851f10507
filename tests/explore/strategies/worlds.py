"""Worlds small enough to say by hand how often an interleaving must come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from hfsched.explore.execution import Outcome, execute
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import Scenario, World
from hfsched.explore.strategy import Strategy

__all__ = ["Lanes", "Spinner", "chi_square", "ends", "run", "trace_hashes"]


@dataclass
class Lanes:
    """Tasks by name, with their number of steps; the end is their order, "aab" for a, a and b.

    A task's start is a step of its own, and not in the order.  `step` is the point before each, by
    default one that touches nothing.
    """

    steps: dict[str, int]
    step: Callable[[ExploreRuntime, str], None] = lambda runtime, _: runtime.point("step", None)
    name: str = "lanes"

    def build(self, runtime: ExploreRuntime) -> World:
        order: list[str] = []

        def lane(name: str, steps: int) -> None:
            for _ in range(steps):
                self.step(runtime, name)
                order.append(name)

        for name, steps in self.steps.items():
            runtime.spawn(name, partial(lane, name, steps))
        return World(final=lambda: "".join(order))


@dataclass
class Spinner:
    """One task waits for another by looking again and again; it yields in between, or does not."""

    yields: bool
    name: str = "spinner"

    def build(self, runtime: ExploreRuntime) -> World:
        flag = runtime.cell("flag", value=False)

        def spin() -> None:
            while not flag.get():
                if self.yields:
                    runtime.checkpoint("yield")

        def work() -> None:
            for _ in range(5):
                runtime.checkpoint("work")
            flag.set(True)

        runtime.spawn("spin", spin)
        runtime.spawn("work", work)
        return World()


def run(scenario: Scenario, strategy: Strategy, executions: int) -> Iterator[Outcome]:
    """Run so many executions, or as many as there are."""
    for _ in range(executions):
        if not strategy.begin():
            return
        outcome = execute(scenario, strategy, tracing=True)
        strategy.end(outcome)
        yield outcome


def ends(scenario: Scenario, strategy: Strategy, executions: int, skip: int = 0) -> Counter[str]:
    """Count how often each final state comes, after `skip` executions to learn from."""
    for _ in run(scenario, strategy, skip):
        pass
    return Counter(str(outcome.final) for outcome in run(scenario, strategy, executions))


def chi_square(found: Counter[str], expected: dict[str, float]) -> float:
    """Return the sum over all ends of (found - expected)^2 / expected."""
    assert set(found) <= set(expected)
    return sum((found[key] - value) ** 2 / value for key, value in expected.items())


def trace_hashes(scenario: Scenario, strategy: Strategy, executions: int = 20) -> list[str]:
    """Return what the first executions look like."""
    return [str(outcome.trace_hash) for outcome in run(scenario, strategy, executions)]
