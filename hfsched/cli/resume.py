"""`hfsched resume [MACHINE]`: ends what `hfsched suspend` began.

Exit status: 0 you do not keep it suspended any more; 1 an error, which one line describes; 2 misuse.
"""

from __future__ import annotations

import argparse

from hfsched.cli.suspend import add_options, request
from hfsched.control.commands import MachineResume
from hfsched.text import printable

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Resume a machine that `hfsched suspend` has suspended. Its guests go on where they were; for them no time
has passed. A machine that is not suspended keeps running; one that something else keeps suspended too
(a stop of its process, a moment of `hfsched swap enable`) runs when that ends, which is said.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "resume",
        help="resume a machine that `hfsched suspend` has suspended",
        description=_DESCRIPTION,
        epilog="Exit status: 0 you do not keep it suspended; 1 an error, which one line describes; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resume a machine; return the exit status."""
    name, answer = request(args, MachineResume)
    if not args.json:
        others = ", ".join(map(printable, answer.suspended_by))
        if answer.changed:
            text = f"is still suspended by {others}" if others else "is resumed"
        else:
            text = (
                f"is suspended by {others}, not by `hfsched suspend`"
                if others
                else "was not suspended"
            )
        print(f"machine {name} {text}")
    return 0
