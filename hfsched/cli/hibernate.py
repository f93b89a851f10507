"""`hfsched hibernate [MACHINE] DIR`: ends a running machine by a snapshot.

Exit status: 0 it is in the snapshot, and its run ends with 4; 1 it is not, one line gives the reason, and it runs on;
2 misuse; 130 and 143 when interrupted: it runs on.
"""

from __future__ import annotations

import argparse

from hfsched.cli.machine_request import add_machine
from hfsched.cli.snapshot import add_layer_options
from hfsched.cli.snapshot_take import take_snapshot
from hfsched.cli.within import add_within
from hfsched.text import printable

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Write a running machine into a snapshot, and end it: its run ends with status 4. No guest runs in
between, so nothing is lost and nothing happens twice:

  hfsched hibernate DIR            the machine that runs
  hfsched hibernate demo DIR       machine `demo`, where several run
  hfsched run --restore DIR        and it goes on

If the snapshot cannot be written, the machine runs on. Host programs that are connected see the
machine's end; what they sent and no guest took is theirs to send again.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "hibernate",
        help="end a machine by a snapshot, to be restored",
        description=_DESCRIPTION,
        epilog="Exit status: 0 it is in the snapshot; 1 it is not, and runs on; 2 misuse; 130, 143 interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine(parser)
    parser.add_argument("directory", metavar="DIR", help="the directory of the new snapshot")
    add_layer_options(parser)
    add_within(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Hibernate a machine; return the exit status."""
    again = f"hfsched run --restore {printable(args.directory)}"
    return take_snapshot(
        args,
        args.machine,
        args.directory,
        lambda name, _ms: f"machine  {name} has ended; it goes on with `{again}`",
        end=True,
    )
