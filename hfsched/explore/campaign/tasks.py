"""What a worker is asked to do, what it answers, and the doing.

A task is complete in itself: any worker can do it, and do it again when another was lost.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable

import msgspec

from hfsched.errors import UserError
from hfsched.explore.execution import Result, search
from hfsched.explore.registry import find
from hfsched.explore.replay import Finding, confirm, schedule_of
from hfsched.explore.schedule import Recording
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategy import Strategy

__all__ = ["Found", "Report", "Task", "perform", "work"]

LOOK_EVERY = 16  # executions between two looks at the clock


class Task(msgspec.Struct, frozen=True):
    """A part of a search; `executions` 0 for until its end, `root` the choices that lead to it."""

    number: int
    spec: str
    strategy: str
    seed: int = 0
    bound: int | None = None
    executions: int = 0
    root: tuple[int, ...] = ()


class Found(msgspec.Struct, frozen=True):
    """A failure, as a line, with its traceback and token where there are any."""

    text: str
    detail: str = ""
    token: str = ""
    preemptions: int = 0


class Report(msgspec.Struct, frozen=True):
    """How far a task is; `complete` when nothing of it is left, `ended` when it is done with."""

    number: int
    executions: int = 0
    steps: int = 0
    states: int = 0
    complete: bool = False
    complete_to: int | None = None
    ended: bool = False
    found: Found | None = None


def found_of(finding: Finding) -> Found:
    """Return what is told of a confirmed failure."""
    return Found(finding.text, finding.detail, finding.token, finding.preemptions)


def perform(
    task: Task,
    tell: Callable[[Report], bool] = lambda _report: False,
    caches: dict[tuple[str, str], dict[int, frozenset[int]]] | None = None,
) -> Report:
    """Do a task.

    `tell` is called now and then and may end it by returning True.  `caches` keeps, for sub-trees of
    one search, the states that earlier ones have covered.
    """
    try:
        return _perform(task, tell, caches)
    except UserError as error:
        return Report(task.number, ended=True, found=Found(str(error)))
    except Exception as error:  # noqa: BLE001 - a scenario that cannot even be built
        text = f"{type(error).__name__}: {error}"
        return Report(task.number, ended=True, found=Found(text, traceback.format_exc()))


def _perform(
    task: Task,
    tell: Callable[[Report], bool],
    caches: dict[tuple[str, str], dict[int, frozenset[int]]] | None,
) -> Report:
    scenario = find(task.spec)
    strategy: Strategy
    cache: dict[int, frozenset[int]] | None = None
    if task.strategy == "exhaustive":
        if caches is not None:  # taken out: a task that does not end leaves no half-covered states
            cache = caches.pop((task.spec, task.strategy), {})
        strategy = Exhaustive(root=task.root, seen=cache)
    else:
        strategy = make(task.strategy, task.seed, bound=task.bound)
    recording = Recording(strategy)
    known = len(cache or ())

    def report(result: Result, *, ended: bool = False, found: Found | None = None) -> Report:
        return Report(
            task.number,
            result.executions,
            result.steps,
            getattr(strategy, "states", 0) - known,
            result.complete,
            _complete_to(strategy, task, result),
            ended,
            found,
        )

    def until(result: Result) -> bool:
        if task.executions and result.executions >= task.executions:
            return True
        return result.executions % LOOK_EVERY == 0 and tell(report(result))

    result = search(scenario, recording, until=until)
    found = None
    if result.failure is not None:
        found = found_of(confirm(scenario, schedule_of(recording, result.failure)))
    elif result.complete and caches is not None and cache is not None:
        caches[task.spec, task.strategy] = cache
    return report(result, ended=True, found=found)


def _complete_to(strategy: Strategy, task: Task, result: Result) -> int | None:
    if task.strategy == "bounded" and task.bound is not None:
        return task.bound if result.complete else None
    to: int | None = getattr(strategy, "complete_to", None)
    return to


def work(data: bytes) -> bytes:
    """Do an encoded task and return the encoded report: what a cluster's worker calls."""
    return msgspec.msgpack.encode(perform(msgspec.msgpack.decode(data, type=Task), caches=_CACHES))


_CACHES: dict[tuple[str, str], dict[int, frozenset[int]]] = {}
