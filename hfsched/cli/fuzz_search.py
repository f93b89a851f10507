"""`hfsched fuzz SCENARIO`: the search, its progress, and its result."""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import sys
import time
from typing import TYPE_CHECKING

from hfsched.cli.ending import handle_ends
from hfsched.cli.lines import write_all
from hfsched.cli.output import notice
from hfsched.errors import UserError
from hfsched.text import count, printable

if TYPE_CHECKING:
    from hfsched.explore.campaign.run import Summary
    from hfsched.explore.campaign.tasks import Found
    from hfsched.explore.watch.racepass import RacePass

__all__ = ["Stop", "preemptions", "printing_aside", "search"]

BUDGET = 60.0  # seconds
PROGRAMS = 500  # drawn between two checks of the time
WIDTH = 100  # columns, without a terminal


def search(args: argparse.Namespace) -> int:
    """Explore a scenario with the given options; return the exit status."""
    if args.jobs is not None and args.cluster is not None:
        raise UserError("--jobs is for this machine: a cluster has its own workers")
    strategy = args.strategy or ("portfolio" if args.bound is None else "bounded")
    budget = BUDGET if args.budget is None else args.budget
    from hfsched.explore.campaign.run import Campaign  # noqa: PLC0415 - slow to import
    from hfsched.explore.registry import find  # noqa: PLC0415
    from hfsched.explore.strategies.choose import make  # noqa: PLC0415

    with printing_aside():
        scenario = find(args.what, args.variant)
    if scenario.name.partition("+")[0] == "programs":
        return _draw(args, args.variant or scenario.name.partition("+")[2], budget)
    if args.cluster is not None:
        from hfsched.explore.campaign.cluster import checked_client  # noqa: PLC0415 - slow to import

        checked_client(args.cluster)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    make(strategy, seed, bound=args.bound)  # raises for options that exclude each other
    stopped = Stop()
    shown = _Progress()
    seeded = strategy not in ("bounded", "exhaustive")
    notice(
        f"exploring {printable(scenario.name)}, strategy {strategy}"
        + (f", seed {seed}" if seeded else "")
    )
    campaign = Campaign(
        scenario.name,
        strategy,
        args.bound,
        seed,
        budget,
        args.jobs or 1,
        args.cluster,
        args.memory or 0,
        races=True,
    )
    try:
        with printing_aside():
            summary = campaign.run(shown.show, lambda: stopped.number is not None)
    finally:
        shown.clear()
    _sum_up(summary, args.bound, budget)
    if summary.found is not None:
        return 1
    return 0 if stopped.number is None else 128 + stopped.number


def printing_aside() -> contextlib.AbstractContextManager[object]:
    """Redirect what a scenario prints to standard error, as in worker processes."""
    return contextlib.redirect_stdout(sys.stderr)


def _draw(args: argparse.Namespace, variant: str, budget: float) -> int:
    """Draw programs as well as schedules, until one fails or the time is up."""
    from hfsched.scenarios.drawing import find_failure  # noqa: PLC0415
    from hfsched.scenarios.programs import describe  # noqa: PLC0415

    for name in ("bound", "cluster", "jobs", "memory", "strategy"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name}: programs are drawn; give one (programs,program=...) first")
    seed = secrets.randbits(31) if args.seed is None else args.seed
    notice(f"drawing programs and schedules, seed {seed}")
    stopped = Stop()
    start = time.monotonic()
    programs = watched = 0
    while stopped.number is None and (programs == 0 or time.monotonic() - start < budget):
        hunt = find_failure(PROGRAMS, seed, variant)
        seed, programs = seed + 1, programs + hunt.examples
        watched += hunt.watched
        if hunt.found is not None:
            print(f"FAILED after {programs} programs: {printable(hunt.found.text)}")
            for line in describe(hunt.program):
                print(f"    {line}")
            print(f"{preemptions(hunt.found.preemptions)}; {time.monotonic() - start:.1f} s")
            print(f"token: {hunt.found.token}")
            print("next:  hfsched fuzz explain TOKEN")
            return 1
    seconds = time.monotonic() - start
    print(f"no failure in {programs} programs, each with one random schedule")
    print(f"no data race in plain state: {watched} of these")
    print(f"{seconds:.1f} s, {programs / max(seconds, 1e-3):.0f} programs/s")
    return 0 if stopped.number is None else 128 + stopped.number


def _sum_up(summary: Summary, bound: int | None, budget: float) -> None:
    schedules = count(summary.executions, "schedule")
    covered = f"{count(summary.states, 'state')}, {count(summary.executions, 'execution')}"
    if summary.found is not None:
        _print_failure(summary.found, summary)
        return
    if summary.complete:
        print(f"complete: every interleaving of this scenario holds ({covered})")
    elif bound is not None and summary.complete_to == bound:
        print(f"complete to preemption bound {bound} ({covered})")
    else:
        how = "not complete"
        if summary.interrupted:
            how = "interrupted"
        elif summary.full:
            how = "the states take all of --memory"
        elif summary.seconds >= budget:
            how = f"the budget of {budget:g} s is used"
        print(f"no failure in {schedules}, {count(summary.states, 'state')}: {how}")
        if summary.complete_to is not None:
            print(f"complete to preemption bound {summary.complete_to}")
    _print_races(summary.races)
    print(f"{summary.seconds:.1f} s, {_rate(summary)}")


def _print_races(races: RacePass | None) -> None:
    """Print what the race pass covered, and what keeps a search from being complete."""
    if races is None:
        print("data races in plain state were not looked for: the budget is too small")
        return
    print(printable(races.text))
    if races.exemptions:
        print(printable(races.exemptions))
    if races.doubts:
        print("not complete:")
        for line in races.doubts:
            print(f"  {printable(line)}")


def _rate(summary: Summary) -> str:
    races = summary.races
    run = summary.executions + (0 if races is None else races.executions + races.walks)
    return f"{run / max(summary.seconds, 1e-3):.0f} schedules/s"


def _print_failure(found: Found, summary: Summary) -> None:
    after = f" after {count(summary.executions, 'schedule')}" if summary.executions else ""
    print(f"FAILED{after}: {printable(found.text)}")
    if found.detail:
        for line in found.detail.rstrip().splitlines():
            print(f"    {printable(line)}")
    if found.token:
        print(f"{preemptions(found.preemptions)}; {summary.seconds:.1f} s")
        print(f"token: {found.token}")
        print("next:  hfsched fuzz shrink TOKEN, then hfsched fuzz explain TOKEN")


def preemptions(number: int) -> str:
    """Return "1 preemption", "2 preemptions"."""
    return count(number, "preemption")


class Stop:
    """Records the first SIGINT, SIGTERM or SIGHUP, for an orderly end; a second one ends the process."""

    def __init__(self) -> None:
        self.number: int | None = None
        handle_ends(self._record)

    def _record(self, number: int, _frame: object) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number


class _Progress:
    """A line on standard error: rewritten on a terminal, else printed every five seconds."""

    def __init__(self) -> None:
        self._terminal = os.isatty(2) and os.environ.get("TERM") != "dumb"
        self._every = 0.2 if self._terminal else 5.0
        self._next = 0.3 if self._terminal else 5.0
        self._shown = False

    def show(self, summary: Summary) -> None:
        if summary.seconds < self._next:
            return
        self._next = summary.seconds + self._every
        line = (
            f"{summary.seconds:.0f} s: {count(summary.executions, 'schedule')} "
            f"({summary.executions / summary.seconds:.0f}/s), {count(summary.states, 'state')}"
        )
        if summary.complete_to is not None:
            line += f", complete to bound {summary.complete_to}"
        if self._terminal:
            columns = shutil.get_terminal_size((WIDTH, 24)).columns
            self._write(f"\r\x1b[K{line[: columns - 1]}")
            self._shown = True
        else:
            notice(line)

    def clear(self) -> None:
        if self._shown:
            self._write("\r\x1b[K")

    @staticmethod
    def _write(text: str) -> None:
        with contextlib.suppress(OSError):  # it may be closed
            write_all(2, text.encode())
