"""What decides schedules: the protocol of `hfsched.explore.strategies`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.task import Task

__all__ = ["Strategy"]


class Strategy(Protocol):
    """Decides a series of executions; one object serves a whole search.

    `stateful` asks the runtime for digests of states, `every_point` to be asked where there is but
    one task too.  A strategy may switch the digests off (`ExploreRuntime.stateful`) while it goes a
    way that it went before, and on by `ExploreRuntime.recall`.
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

    def pick(self, runtime: ExploreRuntime, current: Task | None, enabled: list[Task]) -> Task:
        """Choose among the tasks that can go; `current` is the one that went last, if it still can.

        May raise `hfsched.explore.points.Prune` to end the execution here.
        """

    def value(self, runtime: ExploreRuntime, name: str, n: int) -> int:
        """Choose a number below `n`, at least 2."""

    def end(self, outcome: Outcome) -> None:
        """Learn how the execution ended."""
