"""`hfsched suspend [MACHINE]`: suspends a running machine, until `hfsched resume`.

Exit status: 0 it is suspended; 1 it is not, and one line gives the reason; 2 misuse.
"""

from __future__ import annotations

import argparse

from hfsched.cli.machine_request import add_machine, ask_machine
from hfsched.cli.within import add_within
from hfsched.control.commands import MachineResume, MachineSuspend, Suspension
from hfsched.text import printable

__all__ = ["add_options", "add_parser", "request", "run"]

_DESCRIPTION = """\
Suspend a running machine: no guest runs and no guest's clock does, until `hfsched resume`, whoever
gives that command. Messages to guests wait meanwhile, and arrive afterwards; deadlines of the programs
that send them pass. The run goes on, also after the end of its input; Ctrl-C ends it as ever.

  hfsched suspend                the machine that runs
  hfsched suspend demo           machine `demo`, where several run
  hfsched resume demo

A machine that you have suspended already stays so.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "suspend",
        help="suspend a running machine until `hfsched resume`",
        description=_DESCRIPTION,
        epilog="Exit status: 0 it is suspended; 1 it is not, and one line gives the reason; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what `suspend` and `resume` have in common."""
    add_machine(parser)
    add_within(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def request(
    args: argparse.Namespace, kind: type[MachineSuspend | MachineResume]
) -> tuple[str, Suspension]:
    """Send a request; return the machine's name, to be shown, and the answer.

    With --json the answer is printed.
    """
    answer = ask_machine(args, args.machine, kind)
    assert isinstance(answer, Suspension)
    return printable(answer.name), answer


def run(args: argparse.Namespace) -> int:
    """Suspend a machine; return the exit status."""
    name, answer = request(args, MachineSuspend)
    if not args.json:
        print(f"machine {name} {'is suspended' if answer.changed else 'was suspended already'}")
    return 0
