"""`hfsched guest VM copy FILE|ping|shutdown`: asks a guest, by its utility services.

Exit status: 0 it is done; 1 it is not, and one line gives the reason; 2 misuse; 130 and 143 when interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import time
from pathlib import Path
from typing import BinaryIO

from hfsched.cli.progress import Progress
from hfsched.cli.within import SLACK, add_within, within_of
from hfsched.control.command_client import Conversation, ask, find
from hfsched.control.guest_messages import (
    COPY_MAX,
    CopyBegin,
    CopyData,
    CopyEnd,
    GuestPing,
    GuestShutdown,
    Pong,
)
from hfsched.errors import MisuseError, UserError
from hfsched.services.bodies import NAME_MAX
from hfsched.text import one_line, printable

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Ask a running guest that offers it (the bundled guest `utility` does; see docs/services.md).

  hfsched guest utility ping            whether it answers, and how soon
  hfsched guest utility copy notes.txt  a file: it is there whole, or not at all
  hfsched guest utility shutdown        to end orderly; --reboot: and to start again

A copy that is interrupted, or whose guest does not take a part of it in time, is cancelled on both sides.
"""
_WHAT = ("copy", "ping", "shutdown")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "guest",
        help="copy a file into a running guest, ping it, have it shut down",
        description=_DESCRIPTION,
        epilog="Exit status: 0 it is done; 1 it is not, and one line gives the reason; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "vm", metavar="VM", help="a VM's name, MACHINE/VM, or the path of a machine's socket"
    )
    parser.add_argument("what", choices=_WHAT, metavar="|".join(_WHAT))
    parser.add_argument("path", nargs="?", metavar="FILE", help="copy: a regular file")
    parser.add_argument("--reboot", action="store_true", help="shutdown: start again")
    add_within(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command line; return the exit status."""
    if (args.path is None) == (args.what == "copy"):
        if args.path is None:
            raise MisuseError("copy needs a FILE")
        raise MisuseError(f"{args.path!r} is one word too many for {args.what}")
    if args.reboot and args.what != "shutdown":
        raise MisuseError(f"--reboot is for shutdown, not for {args.what}")
    within = within_of(args)
    try:
        if args.what == "copy":
            with _opened(args.path) as file:
                text, found = _copy(args, file, within)
        else:
            text, found = _ask(args, within)
    except TimeoutError as exc:
        raise UserError(str(exc)) from None
    print(json.dumps(found) if args.json else text)
    return 0


def _ask(args: argparse.Namespace, within: float) -> tuple[str, object]:
    deadline = time.monotonic() + within + SLACK
    within_ms = int(within * 1000)
    path, vm = find(args.vm, deadline)
    if args.what == "ping":
        answer = ask(path, GuestPing(vm=vm, within_ms=within_ms), deadline)
        assert isinstance(answer, Pong)
        return f"{printable(args.vm)} answers after {answer.ns / 1e6:.2f} ms", {"ns": answer.ns}
    ask(path, GuestShutdown(vm=vm, within_ms=within_ms, reboot=args.reboot), deadline)
    what = "starts again" if args.reboot else "shuts down"
    return f"{printable(args.vm)} {what}", {"agreed": True}


def _opened(path: str) -> BinaryIO:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO is not waited for
    except (OSError, ValueError) as exc:
        raise UserError(f"{path}: {getattr(exc, 'strerror', None) or exc}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UserError(f"{path}: not a regular file")
    return os.fdopen(fd, "rb")


def _copy(args: argparse.Namespace, file: BinaryIO, within: float) -> tuple[str, object]:
    """Copy a file; each step may take the time limit."""
    status = os.fstat(file.fileno())
    name, size, mode = Path(args.path).name, status.st_size, stat.S_IMODE(status.st_mode)
    if not 0 < len(name.encode(errors="replace")) <= NAME_MAX or not name.isprintable():
        raise UserError(
            f"{args.path}: a guest's file has a printable name of at most {NAME_MAX} bytes"
        )
    shown = Progress(f"copying {printable(name)}")
    within_ms = int(within * 1000)

    def deadline() -> float:
        return time.monotonic() + within + SLACK

    path, vm = find(args.vm, deadline())
    with Conversation(path, deadline()) as machine:
        begin = CopyBegin(vm=vm, within_ms=within_ms, name=name, size=size, mode=mode)
        machine.ask(begin, deadline())
        done = 0
        while done < size:
            data = _read(args.path, file, min(COPY_MAX, size - done))
            machine.ask(CopyData(vm=vm, within_ms=within_ms, data=data), deadline())
            done += len(data)
            shown.show(done, size)
        machine.ask(CopyEnd(vm=vm, within_ms=within_ms), deadline())
    return f"{printable(name)} is copied, {size} bytes", {"name": name, "size": size}


def _read(path: str, file: BinaryIO, size: int) -> bytes:
    try:
        data = file.read(size)
    except OSError as exc:
        raise UserError(f"{one_line(path, 200)}: {exc.strerror}") from None
    if len(data) < size:
        raise UserError(f"{one_line(path, 200)}: it has become shorter: nothing is copied")
    return data
