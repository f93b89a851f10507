"""`hfsched snapshot take [MACHINE] DIR` and `cancel [MACHINE]`: what a running machine has to do with snapshots."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from typing import NoReturn

import msgspec

from hfsched.cli.ending import handle_ends
from hfsched.cli.machine_request import ask_machine
from hfsched.cli.output import give_up_output, notice
from hfsched.cli.progress import Progress
from hfsched.cli.within import SLACK, within_of
from hfsched.control.command_client import find_machine
from hfsched.control.snapshot_client import Wanted, take
from hfsched.control.snapshot_messages import SnapshotCancel, SnapshotReport
from hfsched.errors import UserError
from hfsched.limits import cause
from hfsched.snapshot.directory import open_chain
from hfsched.snapshot.report import inspect, inspected_text
from hfsched.text import printable

__all__ = ["cancel", "take_snapshot"]

_NS_PER_MS = 1_000_000


class _InterruptedError(BaseException):
    """A signal came: what was begun is removed, and the machine goes on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _interrupt(number: int, _frame: object) -> NoReturn:
    handle_ends(lambda again, _frame: os._exit(128 + again))
    raise _InterruptedError(number)


def take_snapshot(
    args: argparse.Namespace,
    machine: str | None,
    directory: str,
    said: Callable[[str, float], str],
    *,
    end: bool = False,
) -> int:
    """Have a machine write a snapshot, and print what it is; return the exit status.

    `said(machine, ms)` is the last line: the machine's name, to be shown, and how long it was suspended.
    """
    within = within_of(args)
    deadline = time.monotonic() + within + SLACK
    wanted = Wanted(
        codec=args.codec or "lz4",
        end=end,
        incremental=args.incremental,
        live=not end and args.live,
        within_ms=int(within * 1000),
    )
    made: list[str] = []

    def last() -> None:
        """Look at the layer as a restore would; from here on no signal ends the command."""
        with closing(open_chain(directory)) as chain:
            made.append(inspected_text(inspect(chain))[-1])
        handle_ends(signal.SIG_IGN)

    try:
        path = find_machine(machine, deadline)
        handle_ends(_interrupt)
        shown = Progress(f"writing {printable(directory)}").show
        written = take(path, directory, wanted, deadline, shown, last)
    except TimeoutError as exc:
        raise UserError(str(exc)) from None
    except _InterruptedError as exc:
        for text in getattr(exc, "__notes__", ()):
            notice(text)
        return 128 + exc.number
    for text in written.notices:
        notice(text)
    lines = [*made, said(printable(written.machine), written.paused_ns / _NS_PER_MS)]
    try:
        print(msgspec.json.encode(written).decode() if args.json else "\n".join(lines), flush=True)
    except BrokenPipeError:
        raise
    except OSError as exc:
        give_up_output()
        ended = ", and the machine has ended by it" if end else ""
        raise UserError(
            f"standard output: {cause(exc)}: {printable(directory)} is written{ended}"
        ) from None
    return 0


def cancel(args: argparse.Namespace) -> int:
    """Cancel the snapshot that is under way; return the exit status."""
    answer = ask_machine(args, next(iter(args.directories), None), SnapshotCancel)
    assert isinstance(answer, SnapshotReport)
    if not args.json:
        print(f"snapshot {printable(str(answer.name))} is cancelled")
    return 0
