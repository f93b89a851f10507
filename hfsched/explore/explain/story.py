"""A story, and its recording: the execution is repeated with a recorder.

::

    story = record_story(scenario, RandomWalk(17))
    print(draw(story, width=100))
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from hfsched.explore.controller import StepsExceededError
from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import Outcome, execute
from hfsched.explore.explain.long import shortened
from hfsched.explore.explain.no_return import Replayed, point_of_no_return
from hfsched.explore.explain.recorder import Recorder, Row
from hfsched.explore.races import RaceError, Races
from hfsched.explore.replay import failure_text
from hfsched.explore.scenario import built

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.scenario import Scenario, World
    from hfsched.explore.strategy import Strategy
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["Arrow", "RecordedScenario", "Step", "Story", "record_story"]

NO_RETURN = "from here on every schedule fails"
FAILED_HERE = "this schedule fails here, and every schedule fails"


@dataclass(frozen=True, slots=True)
class Arrow:
    """A call or message from one lane to another, described by `label`."""

    source: str
    target: str
    label: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a story.

    `lane` is the actor, empty for a step of the whole execution; `text` describes the step, empty if
    it is an `arrow`.  `state` has the value of each of the story's columns after the step, and
    `changed` names those that the step has changed.  `preemption`, if not empty, names the task that
    runs from here and the task that it preempts.  `marked`, if not empty, marks the point of failure.
    """

    index: int
    lane: str
    text: str
    arrow: Arrow | None = None
    state: Mapping[str, str] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    preemption: str = ""
    marked: str = ""

    @property
    def description(self) -> str:
        """The text of the step or of its arrow."""
        return self.arrow.label if self.arrow is not None else self.text


@dataclass(frozen=True, slots=True)
class Story:
    """The visible steps of one execution.

    `steps` are numbered from 1, without hidden ones; a very long story is abbreviated.  `points` is
    the number of all points, `preemptions` the number of switches away from an enabled task.
    `failure` is the failure's text, None without one; `detail` is the traceback of an exception other
    than a failed check of the scenario.
    """

    title: str
    lanes: tuple[str, ...]
    columns: tuple[str, ...]
    steps: tuple[Step, ...]
    failure: str | None
    detail: str = ""
    token: str = ""
    points: int = 0
    preemptions: int = 0


class RecordedScenario:
    """A scenario with a recorder attached to its executions."""

    def __init__(self, scenario: Scenario, recorder: Recorder) -> None:
        self.name = scenario.name
        self._scenario = scenario
        self._recorder = recorder

    def build(self, runtime: ExploreRuntime) -> World:
        """See `Scenario.build`."""
        self._recorder.attach(runtime)
        world = built(self._scenario, runtime)
        self._recorder.note_built(world)
        if world.invariant is not None:
            world = replace(world, invariant=self._recorder.watch_invariant(world.invariant))
        return world


def record_story(
    scenario: Scenario,
    strategy: Strategy,
    *,
    token: str = "",
    races: Callable[[], Races] | None = None,
    watcher: Watcher | None = None,
) -> Story:
    """Run `scenario` as `strategy` decides, and return its story.

    For a failing execution more are run, to find the step after which every schedule fails.  `token`
    is only quoted; `races` and `watcher` enable race detection as in `execute`.
    """
    strategy.begin()
    recorder, outcome = _record(scenario, strategy, None, races, watcher)
    no_return = None
    # A failure that is detected during the execution, not at its end, has no point of no return.
    if outcome.failure is not None and not isinstance(outcome.failure, LivelockError | RaceError):
        no_return = point_of_no_return(scenario, recorder.decisions)
        if no_return is not None:
            # Repeated, since that step must not be hidden.
            recorder, outcome = _record(scenario, Replayed(recorder.decisions), no_return)
    return _story(scenario.name, recorder, outcome, no_return, token)


def _record(
    scenario: Scenario,
    strategy: Strategy,
    no_return: int | None,
    races: Callable[[], Races] | None = None,
    watcher: Watcher | None = None,
) -> tuple[Recorder, Outcome]:
    recorder = Recorder(strategy, no_return)
    recorded = RecordedScenario(scenario, recorder)
    return recorder, execute(recorded, recorder, look=recorder.finish, races=races, watcher=watcher)


def _story(
    title: str, recorder: Recorder, outcome: Outcome, no_return: int | None, token: str
) -> Story:
    failure, detail = None, ""
    if outcome.failure is not None:
        failure = failure_text(outcome.failure)
        if not isinstance(outcome.failure, AssertionError | RaceError | StepsExceededError):
            detail = "".join(traceback.format_exception(outcome.failure))
    marked = _marked(recorder.rows, outcome, no_return)
    columns = _columns(recorder.rows)
    lanes = recorder.lanes()
    steps = []
    before: Mapping[str, str] = {}
    for index, row in enumerate(recorder.rows, 1):
        state = {name: row.state.get(name, "") for name in columns}
        lane = recorder.name_of(row.lane)
        arrow = None
        if row.to is not None:
            arrow = Arrow(lane, recorder.name_of(row.to), row.text)
        steps.append(
            Step(
                index,
                lane,
                "" if arrow is not None else row.text,
                arrow,
                state,
                tuple(name for name in columns if index > 1 and state[name] != before[name]),
                _preemption(recorder, row),
                marked.get(index - 1, ""),
            )
        )
        before = state
    return Story(
        title,
        lanes,
        columns,
        tuple(shortened(steps)),
        failure,
        detail,
        token,
        len(recorder.decisions),
        recorder.preemptions,
    )


def _preemption(recorder: Recorder, row: Row) -> str:
    if row.preempted is None:
        return ""
    now, before = map(recorder.name_of, row.preempted)
    return f"preemption: {now} runs instead of {before}"


def _marked(rows: list[Row], outcome: Outcome, no_return: int | None) -> dict[int, str]:
    """Return the texts of the marked rows, by index."""
    if outcome.failure is None or not rows:
        return {}
    if no_return is not None:
        for place, row in enumerate(rows):
            if row.point == no_return and not row.asleep:
                return {place: NO_RETURN}
    return {len(rows) - 1: FAILED_HERE}


def _columns(rows: list[Row]) -> tuple[str, ...]:
    """Return the names of the values that change, in order of appearance."""
    seen: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.state.items():
            seen.setdefault(name, set()).add(value)
    return tuple(name for name, values in seen.items() if len(values) > 1)
