"""Repeating a schedule: to confirm a failure that was found, and to reproduce one from its token."""

from __future__ import annotations

import re
import traceback
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import TYPE_CHECKING

from hfsched.errors import UserError, describe
from hfsched.explore.controller import Prune, StepsExceededError
from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import Outcome, execute
from hfsched.explore.misuse import DeadlockError, MisuseError
from hfsched.explore.races import RaceError
from hfsched.explore.registry import NoFileError, find
from hfsched.explore.schedule import NondeterminismError, Recording, Replay, Schedule
from hfsched.explore.token import END, Token, decode, encode
from hfsched.explore.watchdog import StuckError

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario
    from hfsched.explore.strategy import View
    from hfsched.explore.task import Task
    from hfsched.explore.watch.watcher import Watcher

__all__ = [
    "DriftError",
    "Finding",
    "NondeterminismError",
    "Run",
    "code_of",
    "confirm",
    "failure_text",
    "kind",
    "replay",
    "run",
    "scenario_of",
    "schedule_of",
    "watcher_of",
]


class DriftError(UserError):
    """This code no longer behaves as a token has recorded."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this code no longer behaves as the token recorded: {what}")


@dataclass(frozen=True, slots=True)
class Finding:
    """A failure that was found and confirmed.

    `text` is one line, `detail` a traceback where the code under test raised.  `token` is empty for
    a schedule that does not repeat.
    """

    spec: str
    schedule: Schedule
    preemptions: int
    failure: BaseException
    text: str
    detail: str
    token: str


@dataclass(frozen=True, slots=True)
class Run:
    """A repeated schedule: `mismatch` describes where it could not be followed, None if it could."""

    outcome: Outcome
    recording: Recording
    mismatch: str | None


def kind(failure: BaseException) -> str:
    """Return what distinguishes failures: the type, and the first line of the text without numbers.

    The lines below are details, such as the values that pytest adds to an assertion.  All livelocks
    are one kind, and so are all differences between two runs.
    """
    if isinstance(failure, LivelockError | NondeterminismError):
        return type(failure).__name__
    return re.sub(r"\b0x[0-9a-fA-F]+|\d+", "#", describe(failure).partition("\n")[0])


def failure_text(failure: BaseException) -> str:
    """Return a failure in one line: an oracle's message, else the exception's type and text.

    Of an assertion it is the first line: pytest adds values below, in modules that it rewrites.
    """
    if _raised(failure):
        return " ".join(describe(failure).split())
    text = str(failure)
    if isinstance(failure, AssertionError):
        text = text.partition("\n")[0]
    return " ".join(text.split())


def schedule_of(recording: Recording, outcome: Outcome, *, races: bool = False) -> Schedule:
    """Return the schedule of the last execution of `recording`, which failed."""
    failure = outcome.failure
    return recording.schedule(
        stateful=recording.stateful,
        cycles=isinstance(failure, LivelockError),
        races=races or isinstance(failure, RaceError),
        watched=outcome.watched,
    )


def watcher_of(schedule: Schedule) -> Watcher | None:
    """Return a watcher for one execution of a schedule that was found with watched code."""
    if not schedule.watched:
        return None
    from hfsched.explore.watch.watcher import Watcher  # noqa: PLC0415 - seldom used

    return Watcher()


def code_of(schedule: Schedule) -> AbstractContextManager[object]:
    """Keep the code that a schedule was found with for a ``with`` of many executions.

    Each would put watched code in place and take it away by itself, and look at all functions for that.
    """
    if not schedule.watched:
        return nullcontext()
    from hfsched.explore.watch.control import watched_codes  # noqa: PLC0415 - seldom used

    return watched_codes()


class _Limited(Replay):
    """A replay that is pruned after `limit` points."""

    def __init__(self, schedule: Schedule, limit: int, *, strict: bool) -> None:
        super().__init__(schedule, strict=strict)
        self._left = limit

    def pick(self, view: View, current: Task | None, enabled: list[Task]) -> Task:
        """See `Strategy`."""
        self._left -= 1
        if self._left < 0:
            raise Prune
        return super().pick(view, current, enabled)


def run(
    scenario: Scenario,
    schedule: Schedule,
    *,
    strict: bool = True,
    tracing: bool = True,
    limit: int | None = None,
) -> Run:
    """Run a schedule; a decision that does not apply ends it (`strict`), or is ignored.

    It is pruned after `limit` points.  Data races are detected wherever there are shared values.
    """
    if limit is None:
        replayed = Replay(schedule, strict=strict)
    else:
        replayed = _Limited(schedule, limit, strict=strict)
    recording = Recording(replayed)
    recording.begin()
    outcome = execute(scenario, recording, tracing=tracing, watcher=watcher_of(schedule))
    recording.end(outcome)
    return Run(outcome, recording, replayed.mismatch)


def confirm(scenario: Scenario, schedule: Schedule, found: BaseException | None = None) -> Finding:
    """Run a failing schedule twice; a difference is reported as NondeterminismError.

    `found` is the failure that the schedule was recorded with: both runs must fail with that `kind`.
    """
    with code_of(schedule):
        one, two = run(scenario, schedule), run(scenario, schedule)
    failure = one.outcome.failure
    if isinstance(found, NondeterminismError):
        mismatch: str | None = str(found)
    else:
        mismatch = _difference(one.outcome, two.outcome) or _unreproduced(one, found)
    if failure is None or mismatch is not None:
        failure = NondeterminismError(mismatch)
    final = schedule
    if mismatch is None:
        final = schedule_of(one.recording, one.outcome, races=schedule.races)
    return Finding(
        scenario.name,
        final,
        one.recording.preemptions,
        failure,
        failure_text(failure),
        "".join(traceback.format_exception(failure)) if _raised(failure) else "",
        encode(_token(scenario, final, one.outcome)) if mismatch is None else "",
    )


def replay(token: str | Schedule, scenario: Scenario | None = None) -> tuple[Scenario, Outcome]:
    """Run a token's schedule; the trace and the kind of end must equal the recorded ones.

    A bare schedule needs its scenario, and has no trace to compare.

    Raises DriftError for a token that this code no longer follows, and UserError for one that cannot
    be decoded, or that belongs to another scenario than the one given.
    """
    if isinstance(token, Schedule):
        if scenario is None:
            raise UserError("a schedule without a token needs a scenario")
        again = run(scenario, token)
        if again.mismatch is not None:
            raise UserError(f"this schedule is of another scenario or code: {again.mismatch}")
        return scenario, again.outcome
    read = decode(token, None if scenario is None else scenario.name)
    known = scenario_of(read) if scenario is None else scenario
    again = run(known, read.schedule)
    now = f"{again.outcome.steps} steps, {_failure_line(again.outcome.failure)}"
    if again.mismatch is not None:
        raise DriftError(again.mismatch)
    if again.outcome.trace_hash != read.trace:
        raise DriftError(f"trace {again.outcome.trace_hash}, not {read.trace}; now {now}")
    if _end(again.outcome.failure) != read.end:
        raise DriftError(f"the steps are the same, but the end differs; now {now}")
    return known, again.outcome


def scenario_of(token: Token) -> Scenario:
    """Create a token's scenario; raises UserError for one that is not known here."""
    try:
        scenario = find(token.spec)
    except Exception as exc:
        text = str(exc) if isinstance(exc, UserError) else describe(exc)
        text = " ".join(text.split())
        if isinstance(exc, NoFileError):
            text += (
                ": the token has the path that was given: go to the directory where it was found"
            )
        raise UserError(f"the token's scenario is not known here: {text}") from exc
    if scenario.name != token.spec:
        raise UserError(f"the token's scenario {token.spec!r} is called {scenario.name!r} here")
    return scenario


def _token(scenario: Scenario, schedule: Schedule, outcome: Outcome) -> Token:
    assert outcome.trace_hash is not None
    return Token(scenario.name, schedule, outcome.trace_hash, _end(outcome.failure))


def _end(failure: BaseException | None) -> str:
    """Return a token's digest of an execution's end: of the failure's type."""
    if failure is None:
        return "00" * END
    return blake2b(type(failure).__name__.encode(), digest_size=END).hexdigest()


def _failure_line(failure: BaseException | None) -> str:
    """Return a failure in one line, the same in every execution: without addresses."""
    if failure is None:
        return "no failure"
    return re.sub(r"\b0x[0-9a-fA-F]+", "0x#", " ".join(describe(failure).split()))


def _raised(failure: BaseException) -> bool:
    """Return whether a failure is an exception of the code under test, not an oracle's."""
    known = (
        AssertionError,
        DeadlockError,
        LivelockError,
        MisuseError,
        NondeterminismError,
        RaceError,
        StepsExceededError,
        StuckError,
    )
    return not isinstance(failure, known) or not str(failure)


def _difference(one: Outcome, two: Outcome) -> str | None:
    """Return where two executions of a schedule differ; None if they are equal."""
    assert one.trace is not None
    assert two.trace is not None
    for number, (first, second) in enumerate(zip_longest(one.trace, two.trace)):
        if first != second:
            ways = " then ".join("the end" if way is None else repr(way) for way in (first, second))
            return f"two runs of the same schedule differ: step {number} was first {ways}"
    lines = [_failure_line(each.failure) for each in (one, two)]
    if lines[0] != lines[1]:
        ends = " then ".join(lines)
        return f"two runs of the same schedule end differently after {len(one.trace)} steps: first {ends}"
    return None


def _unreproduced(again: Run, found: BaseException | None) -> str | None:
    """Return why a repeated run does not reproduce what was found; None if it does."""
    if again.mismatch is not None:
        return f"a schedule could not be repeated: {again.mismatch}"
    failure = again.outcome.failure
    if failure is None or (found is not None and kind(failure) != kind(found)):
        before = "" if found is None else f" ({_failure_line(found)})"
        return f"a schedule that failed{before} ended differently when repeated: {_failure_line(failure)}"
    return None
