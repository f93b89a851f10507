"""What commands for a running machine have in common: its name among the words, and a request to it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import msgspec

from hfsched.cli.within import SLACK, within_of
from hfsched.control.command_client import ask, find_machine
from hfsched.control.commands import Answer, Request
from hfsched.errors import UserError

__all__ = ["add_machine", "ask_machine"]


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Add the word for a machine to a command's."""
    parser.add_argument(
        "machine",
        nargs="?",
        metavar="MACHINE",
        help="a machine's name, or the path of its socket; default: the one that runs",
    )


def ask_machine(
    args: argparse.Namespace, machine: str | None, kind: Callable[..., Request]
) -> Answer:
    """Send a request of this kind to a machine, within the time of --within; return the answer.

    With --json it is printed.  Raises UserError.
    """
    within = within_of(args)
    deadline = time.monotonic() + within + SLACK
    try:
        path = find_machine(machine, deadline)
        answer = ask(path, kind(within_ms=int(within * 1000)), deadline)
    except TimeoutError as exc:
        raise UserError(str(exc)) from None
    if args.json:
        print(msgspec.json.encode(answer).decode())
    return answer
