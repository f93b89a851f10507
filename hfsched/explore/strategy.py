"""The protocol of strategies, and their view of an execution; see `hfsched.explore.strategies`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hfsched.explore.digests import Knowledge
    from hfsched.explore.execution import Outcome
    from hfsched.explore.task import Task, Touched

__all__ = ["Strategy", "View"]


class View(Protocol):
    """What a strategy sees of an execution."""

    stateful: bool
    """Whether digests of states are kept; a strategy may switch them off, and `recall` on again."""
    touched: Touched
    """The accesses of the last step besides its first operation."""

    @property
    def tasks(self) -> Sequence[Task]:
        """All tasks, by index."""

    def state_key(self) -> bytes:
        """Return a 128-bit digest of the whole state."""

    def knowledge(self) -> Knowledge:
        """Return the digests of what the tasks have observed so far, for `recall`."""

    def recall(self, knowledge: Knowledge) -> None:
        """Restore digests taken in another execution of the same schedule prefix."""


class Strategy(Protocol):
    """Decides a series of executions; one object serves a whole search.

    `stateful` requests digests of states, `every_point` calls of `pick` also where only one task is
    enabled.  A strategy may switch the digests off (`View.stateful`) while it repeats a schedule that
    it has run before, and on by `View.recall`.
    """

    @property
    def name(self) -> str:
        """The strategy's name."""

    @property
    def stateful(self) -> bool:
        """See the class; read when an execution begins."""

    @property
    def every_point(self) -> bool:
        """See the class; read when an execution begins."""

    def begin(self) -> bool:
        """Prepare for the next execution; False: there is none left."""

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """Choose one of the enabled tasks; `current` is the one that ran last, None if not enabled.

        May raise `hfsched.explore.controller.Prune` to end the execution here.
        """

    def value(self, view: View, name: str, n: int) -> int:
        """Choose a number below `n`, at least 2."""

    def end(self, outcome: Outcome) -> None:
        """Take note of an execution's outcome."""
