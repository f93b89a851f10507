"""Scenarios: a scenario builds a world of tasks and states what must hold.

::

    class Counter:
        name = "counter"

        def build(self, runtime):
            cell = runtime.cell("n", 0)

            def add():
                cell.set(cell.get() + 1)       # two steps: an update can be lost

            for name in ("a", "b"):
                runtime.spawn(name, add)

            def check():
                assert cell.get() == 2, "an update was lost"

            return World(check)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hfsched.errors import UserError

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["Scenario", "World", "built"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class World:
    """The result of `Scenario.build`.

    `check` is called when no task is enabled, and raises (AssertionError) for an illegal final state;
    `invariant` before every step, unless it `remembers` nothing: then not again where an execution repeats
    another's beginning.  What it remembers is compared only if it is a thing's.  `close` frees the world's resources; `watch` returns short texts by
    name, which a story shows beside each step.  None of them is scheduled.  Without `timers` no
    deadline passes.
    """

    check: Callable[[], None] = _nothing
    invariant: Callable[[], None] | None = None
    remembers: bool = True
    close: Callable[[], None] = _nothing
    timers: bool = True
    idle: bool = False  # without a `check`: it is a legal end that every task waits
    final: Callable[[], object] = _nothing  # the final state, hashable, for comparing searches
    watch: Callable[[], Mapping[str, str]] = dict

    @property
    def has_check(self) -> bool:
        """Whether the scenario says which ends are legal."""
        return self.check is not _nothing


def built(scenario: Scenario, runtime: ExploreRuntime) -> World:
    """Return the world that a scenario builds; raises UserError for what is none."""
    world: object = scenario.build(runtime)
    if not isinstance(world, World):
        raise UserError(
            f"scenario {scenario.name}: it returns {type(world).__name__}, not a World"
            " (hfsched.explore.World)"
        )
    return world


class Scenario(Protocol):
    """Something to explore; every call of `build` creates the same world.

    A scenario may have a method `small`, which returns the scenario in a size that a race pass can run
    in every interleaving, without a cache of states (`hfsched.explore.watch.racepass`).
    """

    @property
    def name(self) -> str:
        """The canonical spec: the name with all parameters that matter."""

    def build(self, runtime: ExploreRuntime) -> World:
        """Spawn tasks; none runs before this has returned."""
