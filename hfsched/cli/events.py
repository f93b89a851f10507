"""`hfsched events [MACHINE]`: prints the events of a running machine, one JSON object a line.

Exit status: 0 the machine has ended, or Ctrl-C; 1 an error, which one line describes; 2 misuse.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import time

from hfsched.cli.machine_request import add_machine
from hfsched.control.command_client import find_machine, subscribe
from hfsched.errors import UserError

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Print the events of a running machine, one JSON object a line, until the machine ends or Ctrl-C. The
events that describe its present state come first.

  {"event": "started", "machine": "demo", "version": "0.1.0", "vms": ["trusty"]}
  {"event": "connected", "client": 1, "vm": "trusty", "port": 1, "host_port": 4294967296}
  {"event": "disconnected", "client": 1, "vm": "trusty", "port": 1, "reason": ""}
  {"event": "suspended", "holder": "swap"}         then "resumed"
  {"event": "swap", "state": "pending"}
  {"event": "swap-moved", "move": "out", "state": "active", "pages": 51, "ms": 1, "error": ""}
  {"event": "aborted", "vm": "trusty", "reason": "..."}
  {"event": "lost", "count": 12}                   the output was not read in time
  {"event": "ended"}
"""
_WITHIN = 10.0  # seconds, until the machine must have answered


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "events",
        help="print the events of a running machine, one JSON object a line",
        description=_DESCRIPTION,
        epilog="Exit status: 0 the machine has ended, or Ctrl-C; 1 an error, which one line describes; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_machine(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print events until the machine ends; return the exit status."""
    signal.signal(signal.SIGINT, lambda _number, _frame: os._exit(0))  # each line is flushed
    deadline = time.monotonic() + _WITHIN
    try:
        for event in subscribe(find_machine(args.machine, deadline), deadline):
            print(json.dumps(event), flush=True)
    except TimeoutError as exc:
        raise UserError(str(exc)) from None
    return 0
