"""What decides schedules: the protocol of `hfsched.explore.strategies`."""

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
    """What the last step has accessed besides its first operation."""

    @property
    def tasks(self) -> Sequence[Task]:
        """All tasks, each at the place of its index."""

    def state_key(self) -> int:
        """Return a 64-bit digest of the whole state."""

    def knowledge(self) -> Knowledge:
        """Return all digests of what tasks have learnt so far, for `recall`."""

    def recall(self, knowledge: Knowledge) -> None:
        """Put back digests taken in another execution of the schedule so far."""


class Strategy(Protocol):
    """Decides a series of executions; one object serves a whole search.

    `stateful` asks the runtime for digests of states, `every_point` to be asked where there is but
    one task too.  A strategy may switch the digests off (`View.stateful`) while it repeats a schedule
    that it ran before, and on by `View.recall`.
    """

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def stateful(self) -> bool:
        """See the class's text; asked when an execution begins."""

    @property
    def every_point(self) -> bool:
        """See the class's text; asked when an execution begins."""

    def begin(self) -> bool:
        """Prepare for the next execution; False: there is none left."""

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """Choose among the tasks that can go; `current` is the one that went last, if it still can.

        May raise `hfsched.explore.controller.Prune` to end the execution here.
        """

    def value(self, view: View, name: str, n: int) -> int:
        """Choose a number below `n`, at least 2."""

    def end(self, outcome: Outcome) -> None:
        """Learn how the execution ended."""
