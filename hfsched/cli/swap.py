"""`hfsched swap COMMAND VM`: moves guest memory out of RAM and back, by command.

Exit status: 0 it is done or has begun; 1 it is not, and one line gives the reason; 2 misuse.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec

from hfsched.cli.files import STANDARD_OUTPUT, write_whole
from hfsched.cli.within import SLACK, add_within, within_of
from hfsched.control import commands
from hfsched.control.command_client import ask, find
from hfsched.control.commands import Answer, Done, SwapFaults, SwapReport, SwapRequest
from hfsched.errors import ConfigError, MisuseError, UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.report.picture import LEGEND, size
from hfsched.text import printable
from hfsched.vmm.report import SwapFault
from hfsched.vmm.sizes import parse_range

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Move the guests' memory of a running machine to its swap file, and back. The machine was started by
`hfsched run --swap-dir DIR`; its VMs are swapped together, and keep running.

  hfsched swap enable trusty     stage all memory (the guests are paused for a moment)
  hfsched swap trim trusty       drop staged pages that are zero, or in the file already
  hfsched swap out trusty        move out the staged pages that no guest has touched since
  hfsched swap status trusty     progress, and where the memory is (--svg FILE: as a drawing)
  hfsched swap disable trusty    bring everything back into memory
  hfsched swap discard trusty 0x7fe00000+1MiB
                                 make this memory of the VM zero, in or out, and give it back
  hfsched swap log trusty        the last faults: when, which page, from where, how long it took
"""
_SIMPLE: dict[str, type[commands.SwapEnable | commands.SwapTrim | commands.SwapOut]] = {
    "enable": commands.SwapEnable,
    "trim": commands.SwapTrim,
    "out": commands.SwapOut,
}
_COMMANDS = (*_SIMPLE, "disable", "discard", "log", "status")
_WIDTH = 64  # characters of a picture in a line


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "swap",
        help="move a running machine's guest memory out of RAM, and back",
        description=_DESCRIPTION,
        epilog="Exit status: 0 it is done or has begun; 1 it is not, and one line gives the reason; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=_COMMANDS, metavar="|".join(_COMMANDS))
    parser.add_argument(
        "vm", metavar="VM", help="a VM's name, MACHINE/VM, or the path of a machine's socket"
    )
    parser.add_argument(
        "range",
        nargs="?",
        metavar="RANGE",
        help="discard: a guest-physical address and a size, as 0x7fe00000+1MiB; not the mailbox's pages",
    )
    parser.add_argument(
        "--slow-file-cleanup",
        action="store_true",
        help="disable: truncate the file in steps",
    )
    parser.add_argument(
        "--svg", metavar="FILE", help="status: draw where the memory is into FILE, or '-'"
    )
    add_within(parser)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object; log: one a line"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send one request, and print the reply; return the exit status."""
    if (args.range is None) == (args.what == "discard"):
        if args.range is None:
            raise MisuseError("discard needs a range, such as 0x7fe00000+1MiB")
        raise MisuseError(f"{args.range!r} is one word too many for {args.what}")
    if args.slow_file_cleanup and args.what != "disable":
        raise MisuseError(f"--slow-file-cleanup is for disable, not for {args.what}")
    if args.svg is not None and args.what != "status":
        raise MisuseError(f"--svg is for status, not for {args.what}")
    if args.svg == STANDARD_OUTPUT and args.json:
        raise MisuseError("--svg - and --json: both are for standard output: choose one")
    if args.range is not None:
        args.range = _range(args.range)
    args.within = within_of(args)
    deadline = time.monotonic() + args.within + SLACK
    try:
        path, vm = find(args.vm, deadline)
        if args.what == "log":
            _print_log(args, path, vm, deadline)
            return 0
        answer = ask(path, _request(args, vm), deadline)
    except TimeoutError as exc:
        raise UserError(str(exc)) from None
    if args.svg is not None:
        assert isinstance(answer, SwapReport)
        write_whole("--svg", args.svg, _drawn(args.vm, answer))
        if args.svg == STANDARD_OUTPUT:
            return 0
    if args.json:
        print(msgspec.json.encode(answer).decode())
    else:
        print("\n".join(map(printable, _lines(args, answer))))
    return 0


def _range(text: str) -> tuple[int, int]:
    try:
        return parse_range("range", text)
    except ConfigError as exc:
        raise MisuseError(str(exc)) from None


def _print_log(args: argparse.Namespace, path: Path, vm: str | None, deadline: float) -> None:
    """Print the faults in the log as they are received, oldest first."""
    since = 0
    ahead = time.time_ns() - time.monotonic_ns()  # the wall clock, of the monotonic one
    while True:
        request = commands.SwapLog(vm=vm, within_ms=int(args.within * 1000), since=since)
        answer = ask(path, request, deadline)
        assert isinstance(answer, SwapFaults)
        for each in answer.faults:
            fault = msgspec.structs.replace(each, time=each.time + ahead)
            print(msgspec.json.encode(fault).decode() if args.json else _fault_line(fault))
        if answer.next == since or not answer.faults:
            return
        since = answer.next


def _fault_line(fault: SwapFault) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(fault.time // 1_000_000_000))
    micros = fault.time // 1000 % 1_000_000
    took = f"{fault.ns / 1000:.1f} us"
    return f"{when}.{micros:06} {fault.vm} {fault.address:#x} {fault.source:7} {took:>10}"


def _request(args: argparse.Namespace, vm: str | None) -> SwapRequest:
    within_ms = int(args.within * 1000)
    if args.what == "disable":
        return commands.SwapDisable(
            vm=vm, within_ms=within_ms, slow_file_cleanup=args.slow_file_cleanup
        )
    if args.what == "discard":
        address, length = args.range
        return commands.SwapDiscard(vm=vm, within_ms=within_ms, address=address, size=length)
    if args.what == "status":
        return commands.SwapStatus(vm=vm, within_ms=within_ms, fine=args.svg is not None)
    return _SIMPLE[args.what](vm=vm, within_ms=within_ms)


def _lines(args: argparse.Namespace, answer: Answer) -> list[str]:
    if isinstance(answer, SwapReport):
        where = _pictures(answer) if args.svg is None else [f"drawn    {printable(args.svg)}"]
        return _report(answer) + where
    assert isinstance(answer, Done)
    if args.what == "enable":
        return [f"{answer.pages} pages are staged"]
    if args.what == "discard":
        return [f"{answer.pages} pages are zero, and given back"]
    return [f"{args.what} has begun"]


def _drawn(vm: str, report: SwapReport) -> str:
    from hfsched.swap.report.svg import svg  # noqa: PLC0415 - only where it is wanted

    title = f"Guest memory of {vm}"
    return svg(title, _report(report), report.pictures, report.cell // PAGE_SIZE)


def _report(report: SwapReport) -> list[str]:
    status, metrics = report.status, report.status.metrics
    moved = f"{status.transition.pages} pages in {status.transition.ms} ms"
    lines = [f"state    {status.state}", f"moved    {moved}"]
    if status.error:
        lines.append(f"error    {status.error}")
    there = max(0, metrics.resident - report.empty)
    places: tuple[str, ...] = ("staged", "busy", "file", "compressed", "zero")
    if metrics.stored:
        places += ("stored",)
    where = ", ".join(f"{getattr(metrics, name)} {name}" for name in places)
    stale = f", {metrics.stale} of them stale" if metrics.stale else ""
    lines.append(
        f"pages    {there} in memory, {where}, {report.empty} empty; {metrics.pages} in all{stale}"
    )
    if metrics.tier_size:
        lines.append(f"tier     {size(metrics.tier_used)} of {size(metrics.tier_size)}")
    events = ", ".join(
        f"{number} {name.replace('_', ' ')}" for name, number in metrics.events.items() if number
    )
    memory = report.memory
    lines.append(
        f"in RAM   {size(memory.guests)} of the guests, {size(memory.kept)} of swap;"
        f" {size(memory.given_back)} given back"
    )
    lines.append(
        f"size     {size(memory.main)} main, {size(memory.monitor)} monitor;"
        f" {size(memory.resident_less)} less"
    )
    lines.append(f"members  {status.members}")
    lines.append(f"since    {events or 'nothing'}")
    return lines


def _pictures(report: SwapReport) -> list[str]:
    lines = []
    for name, picture in report.pictures.items():
        lines.append(f"{printable(name)}, {size(report.cell)} a character ({LEGEND})")
        shown = printable(picture)
        lines += [f"  {shown[first : first + _WIDTH]}" for first in range(0, len(shown), _WIDTH)]
    return lines
