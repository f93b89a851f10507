"""One execution of a scenario under a strategy, and a whole search of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.explore.digests import trace_hash
from hfsched.explore.runtime import ExploreRuntime

if TYPE_CHECKING:
    from hfsched.explore.races import Races
    from hfsched.explore.scenario import Scenario
    from hfsched.explore.strategy import Strategy
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["Outcome", "Result", "execute", "search"]


@dataclass(slots=True)
class Outcome:
    """How an execution ended.

    `failure` is None without one; `pruned` is set if the strategy ended it.  `final` is the final
    state as returned by `World.final`, None if the execution did not end by itself.  `watched` is set
    if functions had their watched code.
    """

    steps: int
    pruned: bool = False
    failure: BaseException | None = None
    task: str | None = None
    final: object = None
    trace: list[str] | None = None
    trace_hash: str | None = None
    watched: bool = False


@dataclass(slots=True)
class Result:
    """The result of a search; `complete` if the strategy has no schedule left."""

    executions: int = 0
    steps: int = 0
    complete: bool = False
    failure: Outcome | None = None


def execute(
    scenario: Scenario,
    strategy: Strategy,
    *,
    tracing: bool = False,
    races: Callable[[], Races] | None = None,
    forgetting: bool = True,
    joining: bool = True,
    look: Callable[[ExploreRuntime], None] = lambda _runtime: None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Run one schedule, decided by `strategy`, from beginning to end.

    `look` is called at the end, before the execution is closed.  With a `watcher` functions have their
    watched code.
    """
    if watcher is not None:
        from hfsched.explore.watch.control import reporting_to  # noqa: PLC0415 - seldom used

        with reporting_to(watcher):
            return _execute(scenario, strategy, tracing, races, forgetting, joining, look, watcher)
    return _execute(scenario, strategy, tracing, races, forgetting, joining, look, None)


def _execute(
    scenario: Scenario,
    strategy: Strategy,
    tracing: bool,  # noqa: FBT001 - these are `execute`'s
    races: Callable[[], Races] | None,
    forgetting: bool,  # noqa: FBT001
    joining: bool,  # noqa: FBT001
    look: Callable[[ExploreRuntime], None],
    watcher: Watcher | None,
) -> Outcome:
    runtime = ExploreRuntime(
        strategy,
        tracing=tracing,
        races=None if races is None else races(),
        forgetting=forgetting,
        joining=joining,
        watcher=watcher,
    )
    try:
        world = scenario.build(runtime)
    except BaseException:
        runtime.controller.close()
        raise
    if not world.timers:
        runtime.stop_clock()
    controller = runtime.controller
    controller.invariant = world.invariant
    try:
        controller.explore()
        outcome = Outcome(controller.steps, pruned=controller.pruned, watched=watcher is not None)
        failure = controller.failure
        if watcher is not None and watcher.race is not None:
            failure = watcher.race  # also if the code under exploration has caught it
        if isinstance(failure, KeyboardInterrupt | SystemExit):
            raise failure  # an interrupt by the user is no finding
        if failure is None and not controller.pruned:
            try:
                world.check()
                outcome.final = world.final()
            except Exception as exc:  # noqa: BLE001 - a finding, of any type
                failure = exc
        if failure is not None:
            outcome.failure = failure
            outcome.task = None if controller.failed_task is None else controller.failed_task.name
        if controller.trace is not None:
            outcome.trace = controller.trace
            outcome.trace_hash = trace_hash(controller.trace)
        return outcome
    finally:
        look(runtime)
        controller.close()
        world.close()


def search(
    scenario: Scenario,
    strategy: Strategy,
    *,
    until: Callable[[Result], bool] = lambda _result: False,
    on_end: Callable[[Outcome], None] = lambda _outcome: None,
    forgetting: bool = True,
    joining: bool = True,
    races: Callable[[], Races] | None = None,
) -> Result:
    """Run schedules until one fails, the strategy has none left, or `until` returns True."""
    result = Result()
    while not until(result):
        if not strategy.begin():
            result.complete = True
            break
        outcome = execute(scenario, strategy, forgetting=forgetting, joining=joining, races=races)
        result.executions += 1
        result.steps += outcome.steps
        strategy.end(outcome)
        on_end(outcome)
        if outcome.failure is not None:
            result.failure = outcome
            break
    return result
