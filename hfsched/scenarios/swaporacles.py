"""Oracles of the scenarios with swap, which look while the machine is suspended, or at a request's end."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hfsched.explore.thing import Thing
from hfsched.swap.client.enabling import Enabling
from hfsched.swap.pages.entries import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.scenarios.swapmemory import Memory

__all__ = ["CheckedEnabling", "UnderWay", "check_staged"]


class UnderWay(Thing):
    """How many tasks stage memory for an enable, and how many take a snapshot: never both."""

    def __init__(self, runtime: ExploreRuntime) -> None:
        super().__init__(runtime, "under way")
        self._counts = {"enable": 0, "snapshot": 0}

    def key(self) -> Hashable:
        """See `Thing.key`."""
        return tuple(self._counts.values())

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Count one for a ``with``, within the steps that begin and end it."""
        self._add(what, 1)
        assert not all(self._counts.values()), (
            f"{what}: an enable is under way while a snapshot holds all moves"
        )
        try:
            yield
        finally:
            self._add(what, -1)

    def _add(self, what: str, count: int) -> None:
        self.runtime.touch(self.name)
        self._counts[what] += count


class CheckedEnabling(Enabling):
    """An `Enabling` whose `stage` is checked before the machine is resumed.

    With `exact` nobody accesses pages, nor moves them: all are staged, or out.
    """

    def __init__(self, of: Enabling, memory: Memory, under_way: UnderWay, *, exact: bool) -> None:
        vars(self).update(vars(of))
        self._memory = memory
        self._under_way = under_way
        self._exact = exact

    def stage(self, deadline: int | None) -> int:
        """See `Enabling`."""
        with self._under_way.doing("enable"):
            staged = super().stage(deadline)
            check_staged(self._memory, exact=self._exact)
            return staged


def check_staged(memory: Memory, *, exact: bool) -> None:
    """Check, after an enable, that no process has a page mapped that is staged or out; and that, with `exact`, all are."""
    memory.runtime.point("is all staged", None, also=memory.pages)
    for page in memory.pages:
        if page.entry.state is State.RESIDENT:  # a fault from before may have taken it back
            left = exact and page.memory is not None  # a hole stays one
            assert not left, f"{page.name} is not staged, though Enable has succeeded"
        else:
            mapped = sorted(page.mapped - memory.dead)
            assert not mapped, f"{page.name} is staged, and {mapped[0]} has it mapped"
