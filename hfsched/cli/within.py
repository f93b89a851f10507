"""The option --within of the commands for a running machine: how long a request may take."""

from __future__ import annotations

import argparse

from hfsched.control.commands import WITHIN_MS
from hfsched.errors import MisuseError
from hfsched.times import seconds

__all__ = ["SLACK", "add_within", "within_of"]

SLACK = 5.0  # seconds, for the reply to a request whose time is up


def add_within(parser: argparse.ArgumentParser) -> None:
    """Add the option to a command."""
    parser.add_argument(
        "--within",
        default=f"{WITHIN_MS / 1000:g}s",
        metavar="TIME",
        help="the time limit, such as 500ms (%(default)s)",
    )


def within_of(args: argparse.Namespace) -> float:
    """Return the option's value in seconds; raises MisuseError."""
    within = seconds(args.within)
    if within is None or not 0.001 <= within <= 600:
        raise MisuseError(f"--within {args.within[:80]!r}: a time such as 500ms or 8s, 1ms to 10m")
    return within
