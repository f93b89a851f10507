"""Running a schedule again: to confirm a failure that was found, and to show one from its token."""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfsched.errors import UserError
from hfsched.explore.cycles import LivelockError
from hfsched.explore.execution import Outcome, execute
from hfsched.explore.races import RaceError, Races
from hfsched.explore.registry import find
from hfsched.explore.schedule import MisfitError, Recording, Replay, Schedule
from hfsched.explore.token import Token, decode, encode

if TYPE_CHECKING:
    from hfsched.explore.scenario import Scenario

__all__ = ["Finding", "NondeterminismError", "confirm", "kind", "replay", "run", "schedule_of"]


class NondeterminismError(Exception):
    """The same schedule did not do the same twice: something is decided outside the runtime."""


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


def kind(failure: BaseException) -> str:
    """Return what tells failures apart: the type, and its text but for numbers."""
    return f"{type(failure).__name__}: " + re.sub(r"\d+", "#", str(failure))


def schedule_of(recording: Recording, outcome: Outcome, *, races: bool = False) -> Schedule:
    """Return the schedule of the execution that `recording` has seen last, which failed."""
    failure = outcome.failure
    return recording.schedule(
        stateful=recording.stateful,
        cycles=isinstance(failure, LivelockError),
        races=races or isinstance(failure, RaceError),
    )


def run(
    scenario: Scenario, schedule: Schedule, *, strict: bool = True
) -> tuple[Outcome, Recording, bool]:
    """Run a schedule; return the outcome, what was decided, and whether it ended too early."""
    replayed = Replay(schedule, strict=strict)
    recording = Recording(replayed)
    recording.begin()
    outcome = execute(scenario, recording, tracing=True, races=Races if schedule.races else None)
    return outcome, recording, replayed.left_over


def confirm(scenario: Scenario, schedule: Schedule) -> Finding:
    """Run a failing schedule twice; what differs is a failure of its own."""
    one, recording, _ = run(scenario, schedule)
    two, _, _ = run(scenario, schedule)
    same = one.trace_hash == two.trace_hash and _said(one.failure) == _said(two.failure)
    failure = one.failure
    if failure is None or not same:
        failure = NondeterminismError(_difference(one, two))
    final = schedule_of(recording, one, races=schedule.races)
    assert one.trace_hash is not None
    repeats = not isinstance(failure, NondeterminismError)
    return Finding(
        scenario.name,
        final,
        recording.preemptions,
        failure,
        f"{type(failure).__name__}: {failure}" if _raised(failure) else str(failure),
        _detail(failure),
        encode(Token(scenario.name, final, one.trace_hash)) if repeats else "",
    )


def replay(token: str, scenario: Scenario | None = None) -> tuple[Scenario, Outcome]:
    """Run a token's schedule; the trace must be the recorded one, step for step.

    Raises UserError for a token of another scenario than the one given, and for one whose schedule
    this code does not follow any more.
    """
    read = decode(token)
    known = find(read.spec) if scenario is None else scenario
    if known.name != read.spec:
        raise UserError(f"the token is of the scenario {read.spec}, not of {known.name}")
    outcome, _, left_over = run(known, read.schedule)
    if isinstance(outcome.failure, MisfitError):
        raise UserError(f"this code does not do what the token recorded: {outcome.failure}")
    if left_over:
        raise UserError("this code does not do what the token recorded: it ends earlier")
    if outcome.trace_hash != read.trace:
        raise UserError(
            f"this code does not do what the token recorded: trace {outcome.trace_hash}, not "
            f"{read.trace}"
        )
    return known, outcome


def _said(failure: BaseException | None) -> str | None:
    return None if failure is None else f"{type(failure).__name__}: {failure}"


def _raised(failure: BaseException) -> bool:
    """Tell whether a failure is an exception of the code under test, not an oracle's word."""
    return not isinstance(failure, AssertionError | LivelockError | RaceError | NondeterminismError)


def _detail(failure: BaseException) -> str:
    return "".join(traceback.format_exception(failure)) if _raised(failure) else ""


def _difference(one: Outcome, two: Outcome) -> str:
    assert one.trace is not None
    assert two.trace is not None
    for number, (first, second) in enumerate(zip(one.trace, two.trace, strict=False)):
        if first != second:
            return f"the same schedule went two ways: step {number} is {first!r}, then {second!r}"
    ways = " and ".join(_said(each.failure) or "no failure" for each in (one, two))
    return f"the same schedule ended in two ways after {len(one.trace)} steps: {ways}"
