"""`hfsched fuzz`: search a scenario for a schedule that fails, and work with what was found.

Exit status: 0 nothing found; 1 a failure, with ``token: ...`` on a line of its own; 2 misuse; 130
and 143 when interrupted, with what was covered so far.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import secrets
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from hfsched.cli.lines import write_all
from hfsched.cli.output import count, notice
from hfsched.errors import UserError
from hfsched.memory.image import printable
from hfsched.times import seconds

if TYPE_CHECKING:
    from hfsched.explore.campaign.run import Summary
    from hfsched.explore.campaign.tasks import Found

__all__ = ["add_parser", "run"]

STRATEGIES = ("random", "pct", "pos", "urw", "bounded", "exhaustive", "portfolio")
VERBS = ("replay", "shrink", "explain")
SEARCHING = ("variant", "strategy", "bound", "seed", "budget", "jobs", "cluster")
ENGINES = ("script", "unicorn")
NUMBERS = {"bound": (0, 1000), "seed": (0, (1 << 63) - 1), "jobs": (1, 256)}
BUDGET = 60.0  # seconds
SHRINK_MAX = 50_000  # executions
PROGRAMS = 500  # drawn between two looks at the clock
WIDTH = 100  # columns, where no terminal says

USAGE = """hfsched fuzz SCENARIO [options]
       hfsched fuzz replay TOKEN [--engine ENGINE]
       hfsched fuzz shrink TOKEN
       hfsched fuzz explain TOKEN [--html FILE]
       hfsched fuzz list"""

TEXT = """SCENARIO is a name that `hfsched fuzz list` tells, with parameters if you like
(mailbox,receiver=trusty,vcpus=2), or a scenario of your own (my_file.py::MyScenario).

replay   run a token's very schedule again; status 1 when it fails as recorded
shrink   look for the fewest preemptions that still fail, and prove that fewer do not
explain  tell the story of a token's schedule, as text or as a page of its own
list     the scenarios, their parameters and their faulty variants"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`."""
    parser = subparsers.add_parser(
        "fuzz",
        usage=USAGE,
        description="Run the production scheduler under every interleaving of a scenario.",
        epilog=TEXT + "\n\nExit status: 0 nothing found; 1 a failure; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="SCENARIO", help="what to explore, or one of the verbs")
    parser.add_argument("token", metavar="TOKEN", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--variant", metavar="V", help="faulty code in place of what ships")
    parser.add_argument(
        "--strategy",
        metavar="S",
        help=f"{', '.join(STRATEGIES)} (all of them by turns, the default)",
    )
    parser.add_argument(
        "--bound", metavar="N", help="preemptions at most; makes the strategy bounded"
    )
    parser.add_argument(
        "--seed", metavar="N", help="of what is random; default: a fresh one, printed"
    )
    parser.add_argument("--budget", metavar="TIME", help="such as 500ms, 10s, 5m; default: 60s")
    parser.add_argument("--jobs", metavar="N", help="worker processes; default: 1, this one alone")
    parser.add_argument(
        "--cluster", metavar="tcp://...", help="use the workers of a Dask scheduler"
    )
    parser.add_argument("--engine", metavar="ENGINE", help="for replay: script or unicorn")
    parser.add_argument("--html", metavar="FILE", help="for explain: write a page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit status."""
    try:
        if not __debug__:
            raise UserError("python -O and PYTHONOPTIMIZE leave out what scenarios assert")
        _read(args)
        if args.what == "list":
            return _list(args)
        if args.what in VERBS:
            return _with_token(args)
        return _search(args)
    except UserError as error:
        notice(f"error: {printable(str(error))}")
        return 2


# Searching.


def _search(args: argparse.Namespace) -> int:
    if args.token is not None:
        raise UserError(f"{args.token}: one scenario at a time")
    _refuse(args, "engine", "html")
    if args.jobs is not None and args.cluster is not None:
        raise UserError("--jobs is for this machine: a cluster has workers of its own")
    strategy = args.strategy or ("portfolio" if args.bound is None else "bounded")
    budget = BUDGET if args.budget is None else args.budget
    from hfsched.explore.campaign.run import Campaign  # noqa: PLC0415 - slow to import
    from hfsched.explore.registry import find  # noqa: PLC0415
    from hfsched.explore.strategies.choose import make  # noqa: PLC0415

    with _printing_aside():
        scenario = find(args.what, args.variant)
    if scenario.name.partition("+")[0] == "programs":
        return _draw(args, args.variant or scenario.name.partition("+")[2], budget)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    make(strategy, seed, bound=args.bound)  # says what does not go together
    stopped = _Stop()
    shown = _Progress()
    seeded = strategy not in ("bounded", "exhaustive")
    notice(
        f"exploring {printable(scenario.name)}, strategy {strategy}"
        + (f", seed {seed}" if seeded else "")
    )
    campaign = Campaign(
        scenario.name, strategy, args.bound, seed, budget, args.jobs or 1, args.cluster
    )
    try:
        with _printing_aside():
            summary = campaign.run(shown.show, lambda: stopped.number is not None)
    finally:
        shown.clear()
    _sum_up(summary, args.bound, budget)
    if summary.found is not None:
        return 1
    return 0 if stopped.number is None else 128 + stopped.number


def _printing_aside() -> contextlib.AbstractContextManager[object]:
    """Have what a scenario prints go to standard error, as that of worker processes does."""
    return contextlib.redirect_stdout(sys.stderr)


def _refuse(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that the verb, or a search, has no use for."""
    what = "a search" if args.what not in (*VERBS, "list") else args.what
    for name in names:
        if getattr(args, name) is not None:
            owner = {"html": "explain", "engine": "replay"}.get(name, "a search")
            raise UserError(f"--{name} is for {owner}, not for {what}")


def _draw(args: argparse.Namespace, variant: str, budget: float) -> int:
    """Draw programs as well as schedules, until one fails or the time is over."""
    import time  # noqa: PLC0415

    from hfsched.explore.scenarios.drawing import find_failure  # noqa: PLC0415
    from hfsched.explore.scenarios.programs import describe  # noqa: PLC0415

    for name in ("bound", "cluster", "jobs", "strategy"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name}: programs are drawn; give one (programs,program=...) first")
    seed = secrets.randbits(31) if args.seed is None else args.seed
    notice(f"drawing programs and schedules, seed {seed}")
    stopped = _Stop()
    start = time.monotonic()
    programs = 0
    while stopped.number is None and (programs == 0 or time.monotonic() - start < budget):
        hunt = find_failure(PROGRAMS, seed, variant)
        seed, programs = seed + 1, programs + hunt.examples
        if hunt.found is not None:
            print(f"FAILED after {programs} programs: {printable(hunt.found.text)}")
            for line in describe(hunt.program):
                print(f"    {line}")
            print(f"{_preemptions(hunt.found.preemptions)}; {time.monotonic() - start:.1f} s")
            print(f"token: {hunt.found.token}")
            print("next:  hfsched fuzz explain TOKEN")
            return 1
    seconds = time.monotonic() - start
    print(f"no failure in {programs} programs, each with a schedule of its own")
    print(f"{seconds:.1f} s, {programs / max(seconds, 1e-3):.0f} programs/s")
    return 0 if stopped.number is None else 128 + stopped.number


def _sum_up(summary: Summary, bound: int | None, budget: float) -> None:
    schedules = count(summary.executions, "schedule")
    covered = f"{count(summary.states, 'state')}, {count(summary.executions, 'execution')}"
    if summary.found is not None:
        _tell_failure(summary.found, summary)
        return
    if summary.complete:
        print(f"complete: every interleaving of this scenario holds ({covered})")
    elif bound is not None and summary.complete_to == bound:
        print(f"complete to preemption bound {bound} ({covered})")
    else:
        how = "not all was searched"
        if summary.interrupted:
            how = "interrupted"
        elif summary.seconds >= budget:
            how = f"the budget of {budget:g} s is spent"
        print(f"no failure in {schedules}, {count(summary.states, 'state')}: {how}")
        if summary.complete_to is not None:
            print(f"complete to preemption bound {summary.complete_to}")
    print(f"{summary.seconds:.1f} s, {_rate(summary)}")


def _rate(summary: Summary) -> str:
    return f"{summary.executions / max(summary.seconds, 1e-3):.0f} schedules/s"


def _tell_failure(found: Found, summary: Summary) -> None:
    after = f" after {count(summary.executions, 'schedule')}" if summary.executions else ""
    print(f"FAILED{after}: {printable(found.text)}")
    if found.detail:
        for line in found.detail.rstrip().splitlines():
            print(f"    {printable(line)}")
    if found.token:
        print(f"{_preemptions(found.preemptions)}; {summary.seconds:.1f} s")
        print(f"token: {found.token}")
        print("next:  hfsched fuzz shrink TOKEN, then hfsched fuzz explain TOKEN")


def _preemptions(number: int) -> str:
    return count(number, "preemption")


class _Stop:
    """The first SIGINT or SIGTERM is noted, for an orderly end; a second one ends the process."""

    def __init__(self) -> None:
        self.number: int | None = None
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._came)

    def _came(self, number: int, _frame: object) -> None:
        if self.number is not None:
            os._exit(128 + number)
        self.number = number


class _Progress:
    """A line on standard error: rewritten on a terminal, else now and then."""

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
        with contextlib.suppress(OSError):  # it may have gone
            write_all(2, text.encode())


# What was found.


def _with_token(args: argparse.Namespace) -> int:
    if args.token is None:
        raise UserError(f"{args.what}: of which token?")
    others = {"replay": ("html",), "explain": ("engine",)}.get(args.what, ("html", "engine"))
    _refuse(args, *SEARCHING, *others)
    return {"replay": _replay, "shrink": _shrink, "explain": _explain}[args.what](args)


def _replay(args: argparse.Namespace) -> int:
    from hfsched.explore.replay import replay, words  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

    token = decode(args.token)
    if args.engine is not None:
        _check_engine(token.spec, args.engine)
    with _printing_aside():
        scenario, outcome = replay(args.token)
    print(
        f"{printable(scenario.name)}: {outcome.steps} steps, trace {outcome.trace_hash} as recorded"
    )
    if outcome.failure is None:
        print("no failure")
        return 0
    print(f"FAILED again: {printable(words(outcome.failure))}")
    return 1


def _check_engine(spec: str, engine: str) -> None:
    from hfsched.explore.registry import find  # noqa: PLC0415

    own = getattr(find(spec), "engine", "script")
    if own != engine:
        what = "has no guest images" if own == "script" else "runs guest images"
        raise UserError(f"--engine {engine}: the token's scenario {what}: its engine is {own}")


def _shrink(args: argparse.Namespace) -> int:
    from hfsched.explore.replay import confirm, replay  # noqa: PLC0415
    from hfsched.explore.shrink import shrink  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

    with _printing_aside():
        scenario, outcome = replay(args.token)
        if outcome.failure is None:
            raise UserError("the token's schedule does not fail: there is nothing to shrink")
        stopped = _Stop()
        finding = confirm(scenario, decode(args.token).schedule, outcome.failure)
        if not finding.token:
            raise UserError(finding.text)
        shrunk = shrink(scenario, finding, lambda _n: stopped.number is not None, budget=SHRINK_MAX)
    best = shrunk.finding
    print(f"FAILED: {printable(best.text)}")
    print(f"{_preemptions(finding.preemptions)} -> {best.preemptions}, {shrunk.proof}")
    how = "" if stopped.number is None else "; interrupted"
    print(f"{count(shrunk.executions, 'execution')}{how}")
    print(f"token: {best.token}")
    return 1 if stopped.number is None else 128 + stopped.number


def _explain(args: argparse.Namespace) -> int:
    from hfsched.explore.explain.html import page  # noqa: PLC0415
    from hfsched.explore.explain.story import tell  # noqa: PLC0415
    from hfsched.explore.explain.text import draw  # noqa: PLC0415
    from hfsched.explore.races import Races  # noqa: PLC0415
    from hfsched.explore.replay import replay  # noqa: PLC0415
    from hfsched.explore.schedule import Replay  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

    with _printing_aside():
        scenario, _ = replay(args.token)
        schedule = decode(args.token).schedule
        races = Races if schedule.races else None
        story = tell(scenario, Replay(schedule), token=args.token.strip(), races=races)
    if args.html is None:
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(draw(story, width, color=colour, ascii_only=not utf8))
        return 1 if story.failure else 0
    try:
        with open(args.html, "w", encoding="utf-8", errors="backslashreplace") as file:  # noqa: PTH123
            file.write(page(story))
    except OSError as error:
        raise UserError(f"--html {args.html}: {error.strerror}") from error
    print(f"written: {printable(args.html)}")
    return 1 if story.failure else 0


def _list(args: argparse.Namespace) -> int:
    if args.token is not None:
        raise UserError(f"{args.token}: list takes nothing more")
    _refuse(args, *SEARCHING, "engine", "html")
    from dataclasses import fields  # noqa: PLC0415

    from hfsched.explore.registry import BUILT_IN, kind_of, variants_of  # noqa: PLC0415

    for name in BUILT_IN:
        kind = kind_of(name)
        text = (kind.__doc__ or "").strip().splitlines()[0]
        print(f"{name}: {text}")
        parameters = [
            f"{each.name}={each.default}" for each in fields(kind) if each.name != "variant"
        ]
        print(f"  parameters  {' '.join(parameters).lower()}")
        for variant, what in variants_of(kind).items():
            print(f"  --variant {variant:16} {what.text}")
    return 0


# Arguments.


def _read(args: argparse.Namespace) -> None:
    """Read the options' values; argparse would say its usage about one of them, in many lines."""
    for name, (least, most) in NUMBERS.items():
        text = getattr(args, name)
        if text is None:
            continue
        if not re.fullmatch(r"[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise UserError(f"--{name} {text}: not a number from {least} to {most}")
        setattr(args, name, int(text))
    if args.budget is not None:
        args.budget = _budget(args.budget)
    for name, known in (("strategy", STRATEGIES), ("engine", ENGINES)):
        text = getattr(args, name)
        if text is not None and text not in known:
            raise UserError(f"--{name} {text}: known: {', '.join(known)}")


def _budget(text: str) -> float:
    found = seconds(text)
    if found is None:
        raise UserError(f"--budget {text}: not a time such as 500ms, 10s or 5m")
    return found
