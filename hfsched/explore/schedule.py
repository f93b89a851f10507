"""Schedules: the decisions of one execution, so that it can be repeated.

A decision is made wherever there is a choice: among several enabled tasks, or of a number
(`Runtime.choose`).  The default is the task that ran last if it is enabled, else the first in the
order of the view's list; of numbers, 0.  A schedule lists only the deviations from the default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hfsched.explore.cycles import Cycles

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.strategy import Strategy, View
    from hfsched.explore.task import Task

__all__ = [
    "MismatchError",
    "NondeterminismError",
    "Prefix",
    "Recording",
    "Replay",
    "Schedule",
    "prefix_of",
]


class NondeterminismError(Exception):
    """Two runs of the same schedule differ: a decision is made outside the runtime."""


def prefix_of(strategy: Strategy) -> Prefix | None:
    """Return how the next execution begins, of a strategy that has `take_prefix`; it is then followed."""
    take: Callable[[], Prefix | None] | None = getattr(strategy, "take_prefix", None)
    return None if take is None else take()


class MismatchError(Exception):
    """A schedule that this scenario, or this code, cannot follow."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """`deviations` are {number of the decision, task's index or value}, in order.

    `stateful`, `cycles`, `races` and `watched` are the checks besides the scenario's own oracles:
    guarded state that changes without its lock, fair cycles, data races in shared values and, with
    functions' watched code, in plain state.
    """

    deviations: tuple[tuple[int, int], ...] = ()
    stateful: bool = False
    cycles: bool = False
    races: bool = False
    watched: bool = False

    def without(self, start: int, stop: int) -> Schedule:
        """Return the schedule without the deviations `start` to `stop` (exclusive) of the list."""
        return replace(self, deviations=self.deviations[:start] + self.deviations[stop:])


@dataclass(frozen=True, slots=True)
class Prefix:
    """The beginning of an execution, which repeats the previous one of its search, and is followed as such.

    `steps` are the tasks that run, step by step, `values` the numbers chosen on the way (`Runtime.choose`).
    `deviations` are as in `Schedule`; `decisions` and `preemptions` count.
    """

    steps: Sequence[int]
    values: Sequence[int]
    deviations: Sequence[tuple[int, int]]
    decisions: int
    preemptions: int


class Recording:
    """Decides as `inner` does, and records the last execution's deviations and preemptions.

    A preemption is a switch away from a task that is still enabled; a number other than 0 counts as
    one.
    """

    def __init__(self, inner: Strategy) -> None:
        self.inner = inner
        self.deviations: list[tuple[int, int]] = []
        self.decisions = 0
        self.preemptions = 0

    @property
    def name(self) -> str:
        """See `Strategy`."""
        return self.inner.name

    @property
    def stateful(self) -> bool:
        """See `Strategy`."""
        return self.inner.stateful

    @property
    def every_point(self) -> bool:
        """See `Strategy`."""
        return self.inner.every_point

    def begin(self) -> bool:
        """See `Strategy`."""
        self.deviations = []
        self.decisions = 0
        self.preemptions = 0
        return self.inner.begin()

    def take_prefix(self) -> Prefix | None:
        """Return what the strategy would repeat, if it says so, and record it."""
        prefix = prefix_of(self.inner)
        if prefix is not None:
            self.deviations = list(prefix.deviations)
            self.decisions = prefix.decisions
            self.preemptions = prefix.preemptions
        return prefix

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """See `Strategy`."""
        chosen = self.inner.pick(view, current, enabled)
        if len(enabled) > 1:
            if chosen is not (current or enabled[0]):
                self.deviations.append((self.decisions, chosen.index))
                if current is not None:
                    self.preemptions += 1
            self.decisions += 1
        return chosen

    def value(self, view: View, name: str, n: int) -> int:
        """See `Strategy`."""
        chosen = self.inner.value(view, name, n)
        if chosen:
            self.deviations.append((self.decisions, chosen))
            self.preemptions += 1
        self.decisions += 1
        return chosen

    def end(self, outcome: Outcome) -> None:
        """See `Strategy`."""
        self.inner.end(outcome)

    def schedule(
        self, *, stateful: bool, cycles: bool = False, races: bool = False, watched: bool = False
    ) -> Schedule:
        """Return the last execution's schedule."""
        return Schedule(tuple(self.deviations), stateful, cycles, races, watched)


class Replay:
    """Decides one execution by a schedule.

    Where the schedule does not apply, the execution ends (`strict`), or the default is taken.
    `mismatch` describes the first such place: check it, since the code under test may catch
    `MismatchError`.
    """

    name = "replay"

    def __init__(self, schedule: Schedule, *, strict: bool = True) -> None:
        self.stateful = schedule.stateful or schedule.cycles
        self.every_point = schedule.cycles
        self.mismatch: str | None = None
        self.decisions = 0
        self._schedule = schedule
        self._strict = strict
        self._at = dict(schedule.deviations)
        self._cycles = Cycles() if schedule.cycles else None
        self._begun = False

    def begin(self) -> bool:
        """See `Strategy`: there is one execution."""
        again, self._begun = self._begun, True
        return not again

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """See `Strategy`."""
        if self._cycles is not None:
            self._cycles.check(view, enabled)
        chosen = enabled[0]
        if len(enabled) > 1:
            chosen = self._chosen(view, current, enabled)
            self.decisions += 1
        if self._cycles is not None:
            self._cycles.note_ran(chosen)
        return chosen

    def _chosen(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        wanted = self._at.get(self.decisions)
        if wanted is not None:
            for task in enabled:
                if task.index == wanted:
                    return task
            known = wanted < len(view.tasks)
            name = f"{view.tasks[wanted].name} is not enabled" if known else "there is none"
            self._mismatch(f"decision {self.decisions} is for task {wanted}, but {name}")
        return current or enabled[0]

    def value(self, view: View, name: str, n: int) -> int:  # noqa: ARG002
        """See `Strategy`."""
        wanted = self._at.get(self.decisions, 0)
        if wanted >= n:
            self._mismatch(f"decision {self.decisions} is {wanted}, but {name} is below {n}")
            wanted = 0
        self.decisions += 1
        return wanted

    def _mismatch(self, text: str) -> None:
        if self.mismatch is None:
            self.mismatch = text
        if self._strict:
            raise MismatchError(text)

    def end(self, outcome: Outcome) -> None:
        """See `Strategy`; a deviation that was not reached is a mismatch too."""
        left = sum(at >= self.decisions for at, _ in self._schedule.deviations)
        if left and self.mismatch is None:
            self.mismatch = (
                f"the execution ends after {outcome.steps} steps and {self.decisions} decisions, "
                f"with {left} of {len(self._schedule.deviations)} deviations not reached"
            )
