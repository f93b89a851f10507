"""`hfsched fuzz`: search a scenario for a schedule that fails, and work with what was found.

Exit status: 0 nothing found; 1 a failure, with ``token: ...`` on a line of its own; 2 misuse; 130
and 143 when interrupted, with what was covered so far.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import shutil
import signal
import sys
from typing import TYPE_CHECKING

from hfsched.cli.output import notice
from hfsched.errors import UserError
from hfsched.memory.image import printable

if TYPE_CHECKING:
    from hfsched.explore.campaign.run import Summary
    from hfsched.explore.campaign.tasks import Found

__all__ = ["add_parser", "run"]

STRATEGIES = ("random", "pct", "pos", "urw", "bounded", "exhaustive", "portfolio")
VERBS = ("replay", "shrink", "explain")
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
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
        "--strategy", choices=STRATEGIES, default="portfolio", help="default: portfolio"
    )
    parser.add_argument(
        "--bound", type=_bound, metavar="N", help="preemptions at most (strategy bounded)"
    )
    parser.add_argument("--seed", type=_seed, metavar="S", help="default: a fresh one, printed")
    parser.add_argument(
        "--budget", type=_budget, default=60.0, metavar="TIME", help="such as 500ms, 10s, 5m"
    )
    parser.add_argument(
        "--jobs", type=_jobs, default=1, metavar="N", help="worker processes; 1: this one alone"
    )
    parser.add_argument(
        "--cluster", metavar="tcp://...", help="use the workers of a Dask scheduler"
    )
    parser.add_argument("--engine", choices=("script", "unicorn"), help="for replay: the engine")
    parser.add_argument("--html", metavar="FILE", help="for explain: write a page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Do what the command line asks for; return the exit status."""
    try:
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
    for name in ("engine", "html"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} is for {'replay' if name == 'engine' else 'explain'}")
    if args.bound is not None and args.strategy == "portfolio":
        args.strategy = "bounded"
    from hfsched.explore.campaign.run import Campaign  # noqa: PLC0415 - slow to import
    from hfsched.explore.registry import find  # noqa: PLC0415
    from hfsched.explore.strategies.choose import make  # noqa: PLC0415

    scenario = find(args.what, args.variant)
    if scenario.name.partition("+")[0] == "programs":
        return _draw(args, args.variant or scenario.name.partition("+")[2])
    seed = secrets.randbits(32) if args.seed is None else args.seed
    make(args.strategy, seed, bound=args.bound)  # says what does not go together
    stopped = _Stop()
    shown = _Progress()
    seeded = args.strategy not in ("bounded", "exhaustive")
    notice(
        f"exploring {printable(scenario.name)}, strategy {args.strategy}"
        + (f", seed {seed}" if seeded else "")
    )
    campaign = Campaign(
        scenario.name, args.strategy, args.bound, seed, args.budget, args.jobs, args.cluster
    )
    summary = campaign.run(shown.show, lambda: stopped.number is not None)
    shown.clear()
    _sum_up(summary, args.bound)
    if summary.found is not None:
        return 1
    return 0 if stopped.number is None else 128 + stopped.number


def _draw(args: argparse.Namespace, variant: str) -> int:
    """Draw programs as well as schedules, until one fails or the time is over."""
    import time  # noqa: PLC0415

    from hfsched.explore.scenarios.drawing import find_failure  # noqa: PLC0415
    from hfsched.explore.scenarios.programs import describe  # noqa: PLC0415

    for name in ("bound", "cluster"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name}: programs are drawn; give one (programs,program=...) first")
    seed = secrets.randbits(31) if args.seed is None else args.seed
    notice(f"drawing programs and schedules, seed {seed}")
    stopped = _Stop()
    start = time.monotonic()
    programs = 0
    while stopped.number is None and (programs == 0 or time.monotonic() - start < args.budget):
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


def _sum_up(summary: Summary, bound: int | None) -> None:
    covered = f"{summary.states} states, {summary.executions} executions"
    if summary.found is not None:
        _tell_failure(summary.found, summary)
        return
    rate = f"{summary.executions / max(summary.seconds, 1e-3):.0f} schedules/s"
    if summary.complete:
        print(f"complete: every interleaving of this scenario holds ({covered})")
    elif bound is not None and summary.complete_to == bound:
        print(f"complete to preemption bound {bound} ({covered})")
    else:
        how = "interrupted" if summary.interrupted else "the budget is spent"
        print(f"no failure in {summary.executions} schedules, {summary.states} states: {how}")
        if summary.complete_to is not None:
            print(f"complete to preemption bound {summary.complete_to}")
    print(f"{summary.seconds:.1f} s, {rate}")


def _tell_failure(found: Found, summary: Summary) -> None:
    schedules = f"{summary.executions} schedule{'s' if summary.executions != 1 else ''}"
    print(f"FAILED after {schedules}: {printable(found.text)}")
    if found.detail:
        for line in found.detail.rstrip().splitlines():
            print(f"    {printable(line)}")
    if found.token:
        print(f"{_preemptions(found.preemptions)}; {summary.seconds:.1f} s")
        print(f"token: {found.token}")
        print("next:  hfsched fuzz shrink TOKEN, then hfsched fuzz explain TOKEN")


def _preemptions(count: int) -> str:
    return f"{count} preemption" + ("" if count == 1 else "s")


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
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._every = 0.2 if self._terminal else 5.0
        self._next = 0.3 if self._terminal else 5.0
        self._shown = False

    def show(self, summary: Summary) -> None:
        if sys.stderr is None or summary.seconds < self._next:
            return
        self._next = summary.seconds + self._every
        line = (
            f"{summary.seconds:.0f} s: {summary.executions} schedules "
            f"({summary.executions / summary.seconds:.0f}/s), {summary.states} states"
        )
        if summary.complete_to is not None:
            line += f", complete to bound {summary.complete_to}"
        if self._terminal:
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
            self._shown = True
        else:
            notice(line)

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


# What was found.


def _with_token(args: argparse.Namespace) -> int:
    if args.token is None:
        raise UserError(f"{args.what}: of which token?")
    if args.html is not None and args.what != "explain":
        raise UserError("--html is for explain")
    if args.engine is not None and args.what != "replay":
        raise UserError("--engine is for replay")
    if args.what == "replay":
        return _replay(args)
    return _shrink(args) if args.what == "shrink" else _explain(args)


def _replay(args: argparse.Namespace) -> int:
    from hfsched.explore.replay import replay  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

    token = decode(args.token)
    if args.engine is not None:
        _check_engine(token.spec, args.engine)
    scenario, outcome = replay(args.token)
    print(
        f"{printable(scenario.name)}: {outcome.steps} steps, trace {outcome.trace_hash} as recorded"
    )
    if outcome.failure is None:
        print("no failure")
        return 0
    kind = type(outcome.failure).__name__
    said = printable(str(outcome.failure))
    print(
        f"FAILED again: {said if isinstance(outcome.failure, AssertionError) else f'{kind}: {said}'}"
    )
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

    scenario, _ = replay(args.token)
    stopped = _Stop()
    finding = confirm(scenario, decode(args.token).schedule)
    if not finding.token:
        raise UserError(finding.text)
    over = lambda executions: executions >= SHRINK_MAX or stopped.number is not None  # noqa: E731
    shrunk = shrink(scenario, finding, over)
    best = shrunk.finding
    print(f"FAILED: {printable(best.text)}")
    fewer = best.preemptions - 1
    if best.preemptions == 0:
        proof = "no preemption is needed"
    elif shrunk.least:
        proof = f"the least: the search with {fewer} is complete and clean"
    else:
        proof = "perhaps not the least: the search with fewer was not finished"
    print(f"{_preemptions(finding.preemptions)} -> {best.preemptions} ({proof})")
    print(f"{shrunk.executions} executions")
    print(f"token: {best.token}")
    return 1


def _explain(args: argparse.Namespace) -> int:
    from hfsched.explore.explain.html import page  # noqa: PLC0415
    from hfsched.explore.explain.story import tell  # noqa: PLC0415
    from hfsched.explore.explain.text import draw  # noqa: PLC0415
    from hfsched.explore.races import Races  # noqa: PLC0415
    from hfsched.explore.replay import replay  # noqa: PLC0415
    from hfsched.explore.schedule import Replay  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

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
        with open(args.html, "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(page(story))
    except OSError as error:
        raise UserError(f"{args.html}: {error.strerror}") from error
    print(f"written: {args.html}")
    return 1 if story.failure else 0


def _list(args: argparse.Namespace) -> int:
    if args.token is not None:
        raise UserError(f"{args.token}: list takes nothing more")
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


def _budget(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: not a time such as 500ms, 10s or 5m")
    return float(found[1]) * UNITS[found[2]]


def _number(text: str, low: int, high: int) -> int:
    if not re.fullmatch(r"\d{1,20}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r}: not a number from {low} to {high}")
    return int(text)


def _bound(text: str) -> int:
    return _number(text, 0, 1000)


def _seed(text: str) -> int:
    return _number(text, 0, (1 << 63) - 1)


def _jobs(text: str) -> int:
    return _number(text, 1, 256)
