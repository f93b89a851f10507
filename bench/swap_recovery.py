"""What brings all memory in after each error: the table of docs/swap.md ("After an error").

    python bench/swap_recovery.py [--bound N] [--check]

The scenario `swap` (production's client, supervisor and controller over a model of the kernel) is run with
an error in every place where one can be, under every schedule of at most N preemptions and errors (default:
one, or as many as the row has errors); then `status` is asked, and nothing, `disable`, or `disable` twice follows.  `--check`: the exit status is 1 if docs/swap.md has other rows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hfsched.explore.execution import Outcome, search
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.scenarios.swap import SwapScenario, _Machine
from hfsched.swap.client.errors import SwapError
from hfsched.swap.pages.entries import State

if TYPE_CHECKING:
    from hfsched.explore.runtime import ExploreRuntime
    from hfsched.explore.scenario import World

__all__ = ["CASES", "Case", "header", "row"]

REMEDIES = {"": "nothing: it comes in by itself", "-disable": "`disable`"}
REMEDIES["-disable-disable"] = "`disable`, again if that fails too"
AGAIN = "none, until the error is mended"
ENDS = "; the run may end with an error"


@dataclass(frozen=True)
class Case:
    """An error, the scenario in which it occurs, and how to see that it has."""

    what: str
    scenario: SwapScenario
    occurred: Callable[[_Machine], bool]

    @property
    def bound(self) -> int:
        """The preemptions and errors of a run, at the most."""
        return max(1, self.scenario.bugs)


def _failures(count: int) -> Callable[[_Machine], bool]:
    return lambda machine: machine.client.supervisor.failed == count


def _case(what: str, commands: str, occurred: Callable[[_Machine], bool], **options: Any) -> Case:
    return Case(what, SwapScenario(commands=commands, guests=0, **options), occurred)


CASES = (
    _case("an internal error in `enable`", "enable", _failures(1), bugs=1),
    _case("... in `trim`", "enable-trim", _failures(1), bugs=1),
    _case("... in `out`", "enable-out", _failures(1), bugs=1),
    _case("... in `discard`", "enable-out-discard", _failures(1), bugs=1),
    _case("... in `disable`", "enable-out-disable", _failures(1), bugs=1),
    _case("two internal errors in a row", "enable-out", _failures(2), bugs=2),
    _case(
        "the file is full during `out`",
        "enable-out",
        lambda machine: any("error" in text for text in machine.ended["main"]),
        full=True,
    ),
    _case(
        "the monitor has died",
        "enable-out",
        lambda machine: machine.client.supervisor.takeovers > 0,
        deaths=1,
    ),
    _case(
        "a process that may die has died",
        "enable",
        lambda machine: bool(machine.memory.dead),
        child="dies",
        touches=0,
    ),
    _case(
        "a process that may not die has died",
        "enable",
        lambda machine: bool(machine.memory.dead),
        child="static",
        touches=0,
    ),
    _case(
        "the spawner has died, and main may not exec",
        "enable-out",
        lambda machine: machine.client.supervisor.irreplaceable,
        spawner_dies=True,
    ),
    _case(
        "... and the monitor too",
        "enable-out",
        lambda machine: (
            machine.client.supervisor.irreplaceable and machine.client.supervisor.end is None
        ),
        spawner_dies=True,
        deaths=1,
    ),
)


class _Recorded(_Machine):
    """A machine that records the state that `status` answers."""

    def _do(self, task: str, word: str) -> None:
        if word != "status":
            super()._do(task, word)
            return
        try:
            status = self.client.status()
        except SwapError as exc:
            self.ended[task].append(f"status: {exc}")
        else:
            told = ", with the error" if status.error else ""
            self.ended[task].append(f"status: {status.state.value}{told}")


class _Probe:
    """The scenario of a case, followed by `status` and by commands."""

    def __init__(self, scenario: SwapScenario, after: str) -> None:
        self._scenario = replace(scenario, commands=f"{scenario.commands}-status{after}")
        self.name = self._scenario.name
        self.machine: _Machine | None = None

    def build(self, runtime: ExploreRuntime) -> World:
        """See `Scenario`."""
        self.machine = _Recorded(self._scenario, runtime)
        return self.machine.world()


@dataclass
class _Found:
    """What the runs in which the error had occurred came to."""

    states: set[str]
    runs: int = 0
    away: int = 0  # runs that ended with a page that is not in
    lost: int = 0  # runs that ended with no monitor while one was needed


def _search(case: Case, after: str, bound: int) -> _Found:
    probe, found = _Probe(case.scenario, after), _Found(set())

    def on_end(outcome: Outcome) -> None:
        machine = probe.machine
        assert machine is not None
        if outcome.pruned or not case.occurred(machine):
            return
        found.runs += 1
        prefix = "status: "
        found.states |= {
            text.removeprefix(prefix) for text in machine.ended["main"] if text.startswith(prefix)
        }
        if machine.lost:
            found.lost += 1
        elif any(
            page.entry.state is not State.RESIDENT or page.registered
            for page in machine.memory.pages
        ):
            found.away += 1

    result = search(probe, Exhaustive(bound), on_end=on_end)
    if result.failure is not None:
        raise AssertionError(f"{probe.name}: {result.failure.failure}")
    if not result.complete or not found.runs:
        raise AssertionError(f"{probe.name}: the error never occurs")
    return found


def row(case: Case, bound: int | None = None) -> str:
    """Return the row of an error; raises AssertionError if a run violates the scenario."""
    states: set[str] = set()
    for after, remedy in REMEDIES.items():
        found = _search(case, after, bound or case.bound)
        states |= found.states
        if not found.away:
            ends = ENDS if found.lost else ""
            return f"| {case.what} | {'; '.join(sorted(states))} | {remedy}{ends} |"
    return f"| {case.what} | {'; '.join(sorted(states))} | {AGAIN} |"


def header() -> list[str]:
    """Return the first lines of the table."""
    return ["| what has happened | `status` | what brings everything in |", "|---|---|---|"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bound", type=int, help="preemptions and errors")
    parser.add_argument("--check", action="store_true", help="compare it with docs/swap.md")
    args = parser.parse_args()
    known = (Path(__file__).resolve().parent.parent / "docs" / "swap.md").read_text().splitlines()
    lines = header()
    print(*lines, sep="\n")
    for case in CASES:
        lines.append(row(case, args.bound))
        print(lines[-1], flush=True)
    return int(args.check and any(line not in known for line in lines))


if __name__ == "__main__":
    sys.exit(main())
