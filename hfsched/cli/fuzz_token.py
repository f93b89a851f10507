"""`hfsched fuzz replay|shrink|explain TOKEN`: run, reduce or explain a failing schedule."""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from hfsched.cli.files import STANDARD_OUTPUT, write_whole
from hfsched.cli.fuzz_search import WIDTH, Stop, preemptions, printing_aside
from hfsched.cli.output import notice
from hfsched.errors import UserError
from hfsched.text import count, printable

__all__ = ["VERBS"]

SHRINK_MAX = 50_000  # executions


def _replay(args: argparse.Namespace) -> int:
    from hfsched.explore.replay import failure_text, replay  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

    token = decode(args.token)
    if args.engine is not None:
        _check_engine(token.spec, args.engine)
    with printing_aside():
        scenario, outcome = replay(args.token)
    print(
        f"{printable(scenario.name)}: {outcome.steps} steps, trace {outcome.trace_hash} as recorded"
    )
    if outcome.failure is None:
        print("no failure")
        return 0
    print(f"FAILED again: {printable(failure_text(outcome.failure))}")
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

    with printing_aside():
        scenario, outcome = replay(args.token)
        if outcome.failure is None:
            raise UserError("the token's schedule does not fail: nothing to shrink")
        stopped = Stop()
        finding = confirm(scenario, decode(args.token).schedule, outcome.failure)
        if not finding.token:
            raise UserError(finding.text)
        shrunk = shrink(scenario, finding, lambda _n: stopped.number is not None, budget=SHRINK_MAX)
    best = shrunk.finding
    print(f"FAILED: {printable(best.text)}")
    print(f"{preemptions(finding.preemptions)} -> {best.preemptions}, {shrunk.proof}")
    how = "" if stopped.number is None else "; interrupted"
    print(f"{count(shrunk.executions, 'execution')}{how}")
    print(f"token: {best.token}")
    return 1 if stopped.number is None else 128 + stopped.number


def _explain(args: argparse.Namespace) -> int:
    from hfsched.explore.explain.html import page  # noqa: PLC0415
    from hfsched.explore.explain.story import record_story  # noqa: PLC0415
    from hfsched.explore.explain.text import draw  # noqa: PLC0415
    from hfsched.explore.races import Races  # noqa: PLC0415
    from hfsched.explore.replay import replay, watcher_of  # noqa: PLC0415
    from hfsched.explore.schedule import Replay  # noqa: PLC0415
    from hfsched.explore.token import decode  # noqa: PLC0415

    with printing_aside():
        scenario, _ = replay(args.token)
        schedule = decode(args.token).schedule
        races = Races if schedule.races else None
        story = record_story(
            scenario,
            Replay(schedule),
            token=args.token.strip(),
            races=races,
            watcher=watcher_of(schedule),
        )
    if args.html is None:
        width = shutil.get_terminal_size((WIDTH, 24)).columns
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        print(draw(story, width, color=colour, ascii_only=not utf8))
        return 1 if story.failure else 0
    try:
        write_whole("--html", args.html, page(story))
    except UserError as error:  # no misuse: it could not be done
        notice(f"error: {printable(str(error))}")
        return 1
    if args.html != STANDARD_OUTPUT:
        print(f"written: {printable(args.html)}")
    return 1 if story.failure else 0


VERBS = {"replay": _replay, "shrink": _shrink, "explain": _explain}
