"""``hfsched``: finds the command, runs it, turns errors into one line and a status.

Exit status: 0 success; 1 an error, which one line describes; 2 misuse; 3 a message was left unread or dropped;
129, 130 and 143 when interrupted.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import sys
import traceback
from contextlib import suppress
from typing import Any

from hfsched.cli.output import give_up_output, notice
from hfsched.cli.parser import Parser
from hfsched.cli.version import Version
from hfsched.errors import MisuseError, UserError
from hfsched.limits import cause
from hfsched.text import nearest, printable

__all__ = ["main"]

COMMANDS = {
    "run": ("hfsched.cli.run", "boot guests and talk to them"),
    "swap": ("hfsched.cli.swap", "move a running machine's guest memory out of RAM, and back"),
    "snapshot": (
        "hfsched.cli.snapshot",
        "take snapshots of a running machine; check and merge them",
    ),
    "hibernate": ("hfsched.cli.hibernate", "end a machine by a snapshot, to be restored"),
    "kvp": ("hfsched.cli.kvp", "get and set key-value pairs of a running guest"),
    "guest": ("hfsched.cli.guest", "copy a file into a running guest, ping it, have it shut down"),
    "events": (
        "hfsched.cli.events",
        "print the events of a running machine, one JSON object a line",
    ),
    "suspend": ("hfsched.cli.suspend", "suspend a running machine until `hfsched resume`"),
    "resume": ("hfsched.cli.resume", "resume a machine that `hfsched suspend` has suspended"),
    "device": ("hfsched.cli.device", "serve a vhost-user device to QEMU or another front-end"),
    "fuzz": ("hfsched.cli.fuzz", "find races: run the scheduler under every interleaving"),
    "image": ("hfsched.cli.image", "show what a guest image is and whether it would boot"),
    "completion": (
        "hfsched.cli.completion",
        "print a script that completes command lines in a shell",
    ),
    "doctor": ("hfsched.cli.doctor", "show what this machine can do, and what it lacks"),
}


def _parser(chosen: str | None) -> Parser:
    parser = Parser(
        prog="hfsched",
        description="Run Hafnium-style secondary VMs in user space and carry their messages.",
        epilog="hfsched COMMAND --help has more. Start with: hfsched run trusty.bin",
    )
    parser.add_argument(
        "--version", action=Version, help="show the versions of hfsched and of the engines"
    )
    commands: argparse._SubParsersAction[Any] = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    for name, (module, text) in COMMANDS.items():
        if name == chosen:  # the others' modules are not imported
            importlib.import_module(module).add_parser(commands)
        else:
            commands.add_parser(name, help=text)
    return parser


def _unknown(word: str, others: list[str]) -> str:
    """Return what to say of a word in a command's place, before others."""
    close = nearest(word, COMMANDS)
    if word in ("help", "version"):
        about = next((each for each in others if each in COMMANDS), None)
        close = f"{about} --help" if about and word == "help" else f"--{word}"
    if close is None and (os.path.exists(word) or "." in word):
        close = f"run {word}"
    meant = ", ".join(COMMANDS) if close is None else f"did you mean `hfsched {close}`?"
    return f"no command {word!r}: {meant}"


def _output_failed(error: OSError) -> int:
    """Report an error of standard output, or of a limit that whatever came first has met."""
    give_up_output()
    if not isinstance(error, BrokenPipeError):
        what = (
            "" if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM) else "standard output: "
        )
        notice(f"error: {what}{cause(error)}")
    return 1


def _record(arguments: list[str], command: str | None, text: str) -> None:
    """With --json: print the error as an object, too."""
    if command not in COMMANDS or "--json" not in arguments or sys.stdout is None:
        return
    record = {"event": "error", "text": text} if command == "run" else {"error": text}
    with suppress(OSError):  # the line on standard error has been written
        print(json.dumps(record), flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run a command line and return its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    try:
        parser = _parser(chosen)
        if chosen is not None and chosen not in COMMANDS:
            parser.error(_unknown(chosen, arguments))
        args = parser.parse_args(arguments)
        status = args.run(args)
        if sys.stdout is not None:
            sys.stdout.flush()
    except UserError as error:
        notice(f"error: {printable(str(error))}")
        _record(arguments, chosen, str(error))
        return 2 if isinstance(error, MisuseError) else 1
    except OSError as error:  # of standard output: errors of other files are UserErrors
        return _output_failed(error)
    except MemoryError:
        text = cause(OSError(errno.ENOMEM, "not enough memory"))
        notice(f"error: {text}")
        _record(arguments, chosen, text)
        return 1
    except Exception as error:  # noqa: BLE001 - an internal error is one line, too
        text = f"internal error: {type(error).__name__}: {error}"
        notice(printable(text))
        _record(arguments, chosen, text)
        notice("HFSCHED_TRACEBACK=1 shows where; please report it")
        if os.environ.get("HFSCHED_TRACEBACK"):
            traceback.print_exc()
        return 1
    assert isinstance(status, int)
    return status
