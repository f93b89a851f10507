"""One execution of a scenario under a strategy, and a whole search of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfsched.errors import describe
from hfsched.explore.again import Again, Witness, difference
from hfsched.explore.canonical import RefusedError, unkeyed_lock
from hfsched.explore.deadlocks import raise_deadlock
from hfsched.explore.digests import trace_hash
from hfsched.explore.runtime import ExploreRuntime
from hfsched.explore.scenario import built
from hfsched.explore.schedule import NondeterminismError
from hfsched.explore.watchdog import watching

if TYPE_CHECKING:
    from hfsched.explore.races import Races
    from hfsched.explore.scenario import Scenario
    from hfsched.explore.strategy import Strategy
    from hfsched.explore.watch.watcher import Watcher

__all__ = ["Outcome", "Result", "execute", "search"]


GRACE = 1000  # executions
REPEAT_EVERY = 100  # the first execution of so many is run twice


@dataclass(slots=True)
class Outcome:
    """How an execution ended.

    `failure` is None without one; `pruned` is set if the strategy ended it.  `final` is the final
    state as returned by `World.final`, None if the execution did not end by itself.  `watched` is set
    if functions had their watched code.  `unkeyed` is the name of a lock that does not say what it
    guards, None if each does.
    """

    steps: int
    pruned: bool = False
    failure: BaseException | None = None
    task: str | None = None
    final: object = None
    trace: list[str] | None = None
    trace_hash: str | None = None
    watched: bool = False
    unkeyed: str | None = None


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
    witness: Witness | None = None,
    look: Callable[[ExploreRuntime], None] = lambda _runtime: None,
    watcher: Watcher | None = None,
) -> Outcome:
    """Run one schedule, decided by `strategy`, from beginning to end.

    `witness` records it; `look` is called at the end, before the execution is closed.  With a `watcher`
    functions have their watched code.
    """
    runtime = ExploreRuntime(
        strategy,
        tracing=tracing,
        races=None if races is None else races(),
        forgetting=forgetting,
        joining=joining,
        watcher=watcher,
        witness=witness,
    )
    with ExitStack() as stack:
        if watcher is not None:
            from hfsched.explore.watch.control import reporting_to  # noqa: PLC0415 - seldom used

            stack.enter_context(reporting_to(watcher))
        stack.enter_context(watching(runtime.controller))
        return _execute(scenario, runtime, look, watcher)


def _execute(
    scenario: Scenario,
    runtime: ExploreRuntime,
    look: Callable[[ExploreRuntime], None],
    watcher: Watcher | None,
) -> Outcome:
    try:
        world = built(scenario, runtime)
    except BaseException:
        runtime.controller.close()
        raise
    if not world.timers:
        runtime.stop_clock()
    controller = runtime.controller
    controller.invariant, controller.remembers = world.invariant, world.remembers
    try:
        controller.explore()
        outcome = Outcome(controller.steps, pruned=controller.pruned, watched=watcher is not None)
        failure = controller.failure
        if watcher is not None and watcher.race is not None:
            failure = watcher.race  # also if the code under exploration has caught it
        if isinstance(failure, KeyboardInterrupt | RefusedError):
            raise failure  # no finding
        if failure is None and not controller.pruned:
            try:
                raise_deadlock(controller.tasks, world)
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
        outcome.unkeyed = controller.unkeyed
        return outcome
    finally:
        look(runtime)
        controller.close()
        world.close()


def _execute_twice(scenario: Scenario, strategy: Strategy, how: Any) -> Outcome:
    """Run a schedule, and what passes once more: a difference is its failure."""
    seen = Witness()
    outcome = execute(scenario, strategy, witness=seen, look=seen.note_end, **how)
    if outcome.failure is None:
        again = Witness()
        second = execute(
            scenario,
            Again(seen, stateful=strategy.stateful),
            witness=again,
            look=again.note_end,
            **how,
        )
        differ = difference(seen, again)
        if differ is not None:
            outcome.failure = NondeterminismError(differ)
        elif second.failure is not None or second.pruned != outcome.pruned:
            how_else = "goes on" if second.failure is None else f"ends: {describe(second.failure)}"
            outcome.failure = NondeterminismError(
                f"two runs of the same schedule differ: after step {len(seen.lines) - 1} the second {how_else}"
            )
    return outcome


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
    """Run schedules until one fails, the strategy has none left, or `until` returns True.

    One in a hundred is run twice: see `hfsched.explore.again`.

    A search that compares states takes states that differ in what a lock guards for one, if the lock does
    not say what that is (`state`).  It may find a failure all the same, so it is refused only when it would
    say "complete", or after `GRACE` executions: raises RefusedError.
    """
    result = Result()
    unkeyed: str | None = None
    while not until(result):
        more = strategy.begin()
        if unkeyed is not None and (not more or result.executions >= GRACE):
            raise unkeyed_lock(unkeyed)
        if not more:
            result.complete = True
            break
        how: Any = {"forgetting": forgetting, "joining": joining, "races": races}
        if result.executions % REPEAT_EVERY == 0:
            outcome = _execute_twice(scenario, strategy, how)
        else:
            outcome = execute(scenario, strategy, **how)
        result.executions += 1
        result.steps += outcome.steps
        strategy.end(outcome)
        on_end(outcome)
        if strategy.stateful:
            unkeyed = outcome.unkeyed
        if outcome.failure is not None:
            result.failure = outcome
            break
    return result
