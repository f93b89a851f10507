"""What can be explored: a scenario builds a world of tasks and says what must hold.

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

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime

__all__ = ["Scenario", "World"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class World:
    """What `Scenario.build` returns.

    `check` is called when no task can go on, and raises (AssertionError) for an end that must not
    be; `invariant` before every step; `close` frees what was built; `watch` says, in short words
    by name, what a story shows beside each step.  None of them is scheduled.
    """

    check: Callable[[], None] = _nothing
    invariant: Callable[[], None] | None = None
    close: Callable[[], None] = _nothing
    timers: bool = True
    final: Callable[[], object] = _nothing  # the end's state, hashable, for comparing searches
    watch: Callable[[], Mapping[str, str]] = dict


class Scenario(Protocol):
    """Something to explore; every call of `build` makes the same world anew."""

    @property
    def name(self) -> str:
        """What it is called, with all that matters."""

    def build(self, runtime: ExploreRuntime) -> World:
        """Spawn tasks; nothing runs before all of this has returned."""
