"""Mailbox race fuzzing: Hypothesis draws a program and a schedule, and shrinks both together.

A schedule is drawn as deviations from the default, each {decisions to skip, index among the other
enabled tasks}; so Hypothesis's shrinking removes deviations, and makes the remaining ones simpler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from hfsched.errors import UserError
from hfsched.explore.execution import execute
from hfsched.explore.races import RaceError
from hfsched.explore.replay import Finding, confirm, schedule_of
from hfsched.explore.schedule import Recording
from hfsched.explore.shrink import shrink
from hfsched.explore.strategies.drawn import Drawn
from hfsched.explore.watch.control import watched_codes
from hfsched.explore.watch.watcher import Watcher
from hfsched.scenarios.programs import ACTIONS, LASTS, ProgramsScenario

if TYPE_CHECKING:
    from hfsched.explore.execution import Outcome

__all__ = ["DrawResult", "find_failure"]

GAP_MAX = 24  # decisions
WIDE = 4  # tasks among which a deviation chooses
DEVIATIONS_MAX = 12
WATCH_EVERY = 10  # the first of so many examples is watched too

_Example: TypeAlias = tuple[ProgramsScenario, list[tuple[int, int]]]  # a program, and deviations
_Ran: TypeAlias = "tuple[ProgramsScenario, Recording, Outcome]"
SHRINK_MAX = 2000  # executions


@dataclass(frozen=True, slots=True)
class DrawResult:
    """The result of a series of drawn programs; `found` is the smallest failure.

    `watched` is how many of them were looked through for data races on plain state, too.
    """

    examples: int
    watched: int = 0
    found: Finding | None = None
    program: str = ""


def find_failure(examples: int, seed: int, variant: str = "") -> DrawResult:
    """Draw up to `examples` programs and schedules; return the smallest failure, if any.

    Some of those that hold are then run once more with watched code (`hfsched.explore.watch`).

    Raises UserError without the package hypothesis.
    """
    try:
        import hypothesis  # noqa: PLC0415 - an extra
        from hypothesis import strategies as st  # noqa: PLC0415
    except ImportError as exc:
        raise UserError(
            "drawing programs needs the package 'hypothesis': pip install 'hfsched[explore]'"
        ) from exc
    count = 0
    last: _Ran | None = None
    passed: list[_Example] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
    @hypothesis.given(_programs(st), _schedules(st))
    def run_drawn(program: str, deviations: list[tuple[int, int]]) -> None:
        nonlocal count, last
        count += 1
        example = ProgramsScenario(program, variant), deviations
        ran = _run(example)
        failure = ran[-1].failure
        if failure is not None:
            last = ran
            raise failure
        if count % WATCH_EVERY == 1:
            passed.append(example)

    try:
        run_drawn()
    except Exception:
        if last is None:
            raise
    if last is None:
        last = _find_race(passed)
    if last is None:
        return DrawResult(count, len(passed))
    scenario, recording, outcome = last
    found = confirm(scenario, schedule_of(recording, outcome), outcome.failure)
    if found.token:
        found = shrink(scenario, found, lambda executions: executions >= SHRINK_MAX).finding
    return DrawResult(count, 0, found, scenario.program)


def _run(example: _Example, watcher: Watcher | None = None) -> _Ran:
    """Run an example, with a `watcher` with watched code."""
    scenario, deviations = example
    recording = Recording(Drawn(deviations))
    recording.begin()
    return scenario, recording, execute(scenario, recording, watcher=watcher)


def _find_race(examples: list[_Example]) -> _Ran | None:
    """Run examples with watched code; return the first that has a data race."""
    with watched_codes():
        for example in examples:
            ran = _run(example, Watcher())
            if isinstance(ran[-1].failure, RaceError):
                return ran
    return None


def _programs(st: Any) -> Any:
    """Return the strategy of programs; simple ones first, since Hypothesis shrinks towards those."""
    word = st.builds(
        lambda actions, end: "".join(actions) + end,
        st.lists(st.sampled_from(ACTIONS), max_size=4),
        st.sampled_from(LASTS),
    )
    vm = st.lists(word, min_size=1, max_size=2).map("_".join)
    vms = st.lists(vm, min_size=1, max_size=2)
    senders = st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3)), max_size=2)

    def text(vms: list[str], senders: list[tuple[int, int]], suspend: bool) -> str:  # noqa: FBT001
        hosts = "".join(f"{vm % len(vms)}{count}" for vm, count in senders)
        return f"{'-'.join(vms)};{hosts};{'S' if suspend else ''}"

    return st.builds(text, vms, senders, st.booleans())


def _schedules(st: Any) -> Any:
    deviation = st.tuples(st.integers(0, GAP_MAX), st.integers(0, WIDE - 1))
    return st.lists(deviation, max_size=DEVIATIONS_MAX)
