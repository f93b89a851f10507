"""``hfsched``: find the command, run it, turn errors into one line and a status.

Exit status: 0 good; 1 an error, which is named in one line; 2 misuse; 3 a message was left unread;
130 and 143 when interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback

from hfsched import __version__
from hfsched.cli.output import notice
from hfsched.errors import UserError
from hfsched.text import printable

__all__ = ["main"]

COMMANDS = {
    "run": ("hfsched.cli.run", "boot guests and talk to them"),
    "swap": ("hfsched.cli.swap", "move a running machine's guest memory out of RAM, and back"),
    "events": ("hfsched.cli.events", "print what happens in a running machine, as JSON objects"),
    "fuzz": ("hfsched.cli.fuzz", "find races: run the scheduler under every interleaving"),
    "image": ("hfsched.cli.image", "say what a guest image is and whether it would boot"),
    "doctor": ("hfsched.cli.doctor", "say what this machine can do, and what it lacks"),
}


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hfsched",
        description="Run Hafnium-style secondary VMs in user space and carry their messages.",
        epilog="hfsched COMMAND --help tells more. Start with: hfsched run --guest trusty.bin",
    )
    parser.add_argument("--version", action="version", version=f"hfsched {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, (module, text) in COMMANDS.items():
        if name == chosen:  # the others' modules are not even imported
            importlib.import_module(module).add_parser(commands)
        else:
            commands.add_parser(name, help=text)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    args = _parser(chosen).parse_args(arguments)
    try:
        status = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        notice(f"error: {printable(str(error))}")
        return 1
    except OSError as error:  # of our own output: files are named where they are opened
        if sys.stdout is not None:  # what is left in its buffer would be tried again at the end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if not isinstance(error, BrokenPipeError):
            notice(f"error: standard output: {error.strerror}")
        return 1
    except Exception as error:  # noqa: BLE001 - a bug of ours still gets one line
        notice(f"internal error: {type(error).__name__}: {printable(str(error))}")
        notice("HFSCHED_TRACEBACK=1 shows where; please report it")
        if os.environ.get("HFSCHED_TRACEBACK"):
            traceback.print_exc()
        return 1
    assert isinstance(status, int)
    return status
