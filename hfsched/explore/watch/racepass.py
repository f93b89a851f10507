"""The race pass: watched executions of a scenario, and what they cover.

Vector clocks belong to histories, and a cache of states merges histories: so the pass has none.  It runs
every interleaving of a small size of the scenario (its method `small` returns that; without one, it
is the scenario itself), as far as a limit allows, and random walks of the scenario as given.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from hfsched.explore.controller import StepsExceededError
from hfsched.explore.execution import execute
from hfsched.explore.schedule import Recording
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.explore.watch.control import watched_codes
from hfsched.explore.watch.guarded import Unread
from hfsched.explore.watch.merged import Differs, Merged
from hfsched.explore.watch.watcher import Unruled, Watcher, shortened
from hfsched.runtime.declared import UNORDERED
from hfsched.text import count

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome
    from hfsched.explore.scenario import Scenario
    from hfsched.explore.strategy import Strategy, View
    from hfsched.explore.task import Task

__all__ = ["EXECUTIONS", "WALKS", "RaceFailure", "RacePass", "race_pass", "small_size"]

EXECUTIONS = 500  # of the small size
WALKS = 50


@dataclass(frozen=True, slots=True)
class RaceFailure:
    """A failing watched execution: of which scenario, and how it was decided."""

    scenario: Scenario
    recording: Recording
    outcome: Outcome


@dataclass(slots=True)
class RacePass:
    """What a race pass has covered.

    `small` is the name of the small size, `executions` how many schedules of it were run, `covered`
    whether those are all.  `unruled` are the calls whose accesses are not known; `unread` is what was
    written under a lock and not told by its `state=`, `merged` has what differs between states that a search takes
    for one, `left_out` the fields that are declared to be left out of states.  `records` is the number of a scenario's records that
    are exempt.
    """

    small: str
    executions: int = 0
    covered: bool = False
    walks: int = 0
    unruled: set[Unruled] = field(default_factory=set)
    unread: set[Unread] = field(default_factory=set)
    merged: set[Differs] = field(default_factory=set)
    left_out: set[tuple[type, Hashable]] = field(default_factory=set)
    records: int = 0
    failure: RaceFailure | None = None

    @property
    def text(self) -> str:
        """What was covered, in one line."""
        how = "every interleaving" if self.covered else "not every interleaving"
        text = f"no data race in plain state: {self.small} ({count(self.executions, 'schedule')}, {how})"
        if self.walks:
            text += f", {count(self.walks, 'random walk')}"
        return text

    @property
    def exemptions(self) -> str:
        """What is meant to be unordered, in one line; empty if nothing is."""
        parts = [count(len(UNORDERED), "field")] if UNORDERED else []
        parts += [f"{count(self.records, 'record')} of the scenario"] if self.records else []
        texts = [f"declared to be unordered: {', '.join(parts)}"] if parts else []
        if self.left_out:
            fields = count(len(self.left_out), "field")
            texts.append(f"declared to be left out of states: {fields}")
        return "; ".join(texts)

    @property
    def doubts(self) -> list[str]:
        """What keeps a search from being complete, in lines: calls, and what is written and not compared."""
        lines = []
        if self.unruled:
            lines.append("these calls may access shared state, and have no rule:")
            lines += [f"    {line}" for line in self.unruled_lines]
        if self.unread:
            lines.append("this is written under a lock whose state= does not tell it:")
            lines += [f"    {line}" for line in self.unread_lines]
        if self.merged:
            lines.append(
                "this differs between states that are taken for one, for no state= tells it:"
            )
            lines += [f"    {line}" for line in self.merged_lines]
        return lines

    @property
    def unread_lines(self) -> list[str]:
        """What `state=` does not tell, each as file, line, what and the lock's name."""
        return [
            f"{shortened(file)}:{line}: {what}, under {lock}"
            for (file, line), what, lock in sorted(self.unread)
        ]

    @property
    def merged_lines(self) -> list[str]:
        """What differs between states that are taken for one, each as file, line and what."""
        return [f"{shortened(file)}:{line}: {what}" for (file, line), what in sorted(self.merged)]

    @property
    def unruled_lines(self) -> list[str]:
        """The calls without a rule, each as file, line and name."""
        return [f"{shortened(file)}:{line}: {what}" for (file, line), what in sorted(self.unruled)]


def small_size(scenario: Scenario) -> Scenario:
    """Return the size of a scenario whose every interleaving the race pass runs."""
    chooses: Any = getattr(scenario, "small", None)
    small: Scenario = scenario if chooses is None else chooses()
    return small


def race_pass(
    scenario: Scenario,
    seed: int = 0,
    *,
    bound: int | None = None,
    executions: int = EXECUTIONS,
    walks: int = WALKS,
    merging: bool = False,
    over: Callable[[], bool] = lambda: False,
) -> RacePass:
    """Run the race pass until something fails, the limits are reached, or `over` returns True after the first ones.

    For a search that compares states (`merging`) it also finds what differs between those that are taken for one.

    With a `bound` no schedule has more preemptions than that, and there are no random walks.
    """
    small = small_size(scenario)
    result = RacePass(small.name)
    most = walks if bound is None else 0
    with watched_codes():
        walks_of, all_of = RandomWalk(seed), Exhaustive(bound, cache=False, stateful=merging)
        walking = _run(scenario, walks_of, most, over, result, merging=merging)
        covering = _run(small, all_of, executions, over, result, merging=merging)
        for walk, covered in zip_longest(walking, covering):  # in turn: both get on in a short time
            result.walks += walk is True
            result.executions += covered is True
            result.covered |= covered is False
    return result


class _Comparing(Recording):
    """Has the watcher look at each state that a search would compare."""

    stateful = True
    watcher: Watcher  # of the present execution

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """See `Strategy`."""
        if len(enabled) > 1:
            self.watcher.compare()
        return super().pick(view, current, enabled)


def _run(
    scenario: Scenario,
    strategy: Strategy,
    limit: int,
    over: Callable[[], bool],
    result: RacePass,
    *,
    merging: bool,
) -> Iterator[bool]:
    """Run watched executions, True for each; False at the end if the strategy has no schedule left.

    An execution that exceeds the step limit is no failure here: whether it is a livelock depends on
    states.
    """
    merged = Merged() if merging else None
    recording = Recording(strategy) if merged is None else _Comparing(strategy)
    for number in range(limit):
        if (number and over()) or result.failure is not None:
            return
        if not recording.begin():
            yield False
            return
        watcher = Watcher(merged=merged)
        if isinstance(recording, _Comparing):
            recording.watcher = watcher
        outcome = execute(scenario, recording, watcher=watcher)
        recording.end(outcome)
        result.unruled |= watcher.unruled
        result.left_out |= watcher.guarded.uncompared.found
        result.unread |= watcher.guarded.unread()
        if merged is not None:
            result.merged |= merged.found
        result.records = max(result.records, len(watcher.records))
        if outcome.failure is not None and not isinstance(outcome.failure, StepsExceededError):
            result.failure = RaceFailure(scenario, recording, outcome)
        yield True
