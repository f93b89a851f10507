"""The requests to a worker, its reports, and how a task is performed.

A task is self-contained: any worker can perform it, and repeat it when another was lost.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable

import msgspec

from hfsched.errors import UserError, describe
from hfsched.explore.execution import Result, search
from hfsched.explore.registry import find
from hfsched.explore.replay import Finding, confirm, schedule_of
from hfsched.explore.schedule import Recording
from hfsched.explore.statecache import StateCache
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategy import Strategy

__all__ = ["Caches", "Found", "Report", "Task", "failed", "found_of", "perform"]

PROGRESS_EVERY = 0.05  # seconds between two reports of a task
TEXT_MAX = 100_000  # characters of a traceback: a message between processes has a limit
CAMPAIGNS = 4  # the most recent ones: their covered states are kept

Caches = dict[int, StateCache]  # by campaign


class Task(msgspec.Struct, frozen=True):
    """A part of a search; `executions` is 0 for no limit, `root` the choices that lead to a sub-tree.

    `spec` is in bytes, as a file's name is; `campaign` identifies the whole search.
    `memory` is how many bytes the cache of states may take, 0 for no limit.
    """

    number: int
    spec: bytes
    strategy: str
    seed: int = 0
    bound: int | None = None
    executions: int = 0
    root: tuple[int, ...] = ()
    campaign: int = 0
    memory: int = 0


class Found(msgspec.Struct, frozen=True):
    """A failure: one line of text, with a traceback and a token if there are any."""

    text: str
    detail: str = ""
    token: str = ""
    preemptions: int = 0


class Report(msgspec.Struct, frozen=True):
    """A task's progress; `complete` if it covered everything, `ended` if this is its last report.

    `full` if the cache of states has reached the task's limit of memory.  `error` is the reason why it could not be run, which is no failure of the code under test.
    """

    number: int
    executions: int = 0
    steps: int = 0
    states: int = 0
    complete: bool = False
    complete_to: int | None = None
    full: bool = False
    ended: bool = False
    found: Found | None = None
    error: str | None = None


def found_of(finding: Finding) -> Found:
    """Return a confirmed failure as a message."""
    text, detail = _sendable(finding.text), _sendable(finding.detail)
    return Found(text, detail, finding.token, finding.preemptions)


def failed(number: int, error: BaseException) -> Report:
    """Return the report of a task that has raised: a finding, or for a UserError an error."""
    if isinstance(error, UserError):
        return Report(number, ended=True, error=_sendable(str(error)))
    text = " ".join(describe(error).split())
    detail = "".join(traceback.format_exception(error))
    return Report(number, ended=True, found=Found(_sendable(text), _sendable(detail)))


def _sendable(text: str) -> str:
    """Return text that can be sent in a message: of limited length, without lone surrogates."""
    if len(text) > TEXT_MAX:
        text = f"{text[: TEXT_MAX // 2]} ... {text[-TEXT_MAX // 2 :]}"
    return text.encode(errors="backslashreplace").decode()


def perform(
    task: Task,
    report_progress: Callable[[Report], bool] = lambda _report: False,
    caches: Caches | None = None,
) -> Report:
    """Perform a task; an exception of the scenario is a finding.

    `report_progress` is called several times a second and may end the task by returning True; its own
    exceptions are raised again.  `caches` keeps, for the sub-trees of one search, the states that the
    earlier ones have covered.
    """
    raised: list[BaseException] = []
    report: Report | None = None

    def guarded_report(report: Report) -> bool:
        try:
            return report_progress(report)
        except BaseException as error:  # noqa: BLE001 - raised again below
            raised.append(error)
            return True

    try:
        report = _perform(task, guarded_report, caches)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a scenario that cannot be built
        report = failed(task.number, error)
    if raised:
        raise raised[0]
    return report


def _perform(
    task: Task, report_progress: Callable[[Report], bool], caches: Caches | None
) -> Report:
    scenario = find(os.fsdecode(task.spec))
    strategy: Strategy
    cache: StateCache | None = None
    if task.strategy == "exhaustive":
        if caches is not None:
            # Removed: a task that does not end must leave no partly covered states.
            cache = caches.pop(task.campaign, None) or StateCache()
        strategy = Exhaustive(root=task.root, seen=cache)
    else:
        strategy = make(task.strategy, task.seed, bound=task.bound)
    recording = Recording(strategy)
    known = 0 if cache is None else len(cache)
    reported: float | None = None

    def is_full() -> bool:
        return 0 < task.memory < getattr(strategy, "memory", 0)

    def report(result: Result, *, ended: bool = False, found: Found | None = None) -> Report:
        return Report(
            task.number,
            result.executions,
            result.steps,
            getattr(strategy, "states", 0) - known,
            result.complete,
            _complete_to(strategy, task, result),
            is_full(),
            ended,
            found,
        )

    def until(result: Result) -> bool:
        nonlocal reported
        if task.executions and result.executions >= task.executions:
            return True
        now = time.monotonic()
        if reported is not None and now - reported < PROGRESS_EVERY:
            return False
        reported = now
        return report_progress(report(result)) or is_full()

    result = search(scenario, recording, until=until)
    found = None
    if result.failure is not None:
        failure = result.failure
        found = found_of(confirm(scenario, schedule_of(recording, failure), failure.failure))
    elif result.complete and caches is not None and cache is not None:
        while len(caches) >= CAMPAIGNS:
            caches.pop(next(iter(caches)), None)
        caches[task.campaign] = cache
    return report(result, ended=True, found=found)


def _complete_to(strategy: Strategy, task: Task, result: Result) -> int | None:
    if task.strategy == "bounded" and task.bound is not None:
        return task.bound if result.complete else None
    to: int | None = getattr(strategy, "complete_to", None)
    return to
