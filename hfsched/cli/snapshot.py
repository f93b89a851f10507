"""`hfsched snapshot COMMAND DIR...`: takes a snapshot, shows what is in it, checks, compares, merges.

Exit status: 0 done, whole, or the same; 1 an error or a fault, each in a line; 2 misuse; 3 the two
snapshots differ; 130 and 143 when interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import closing

from hfsched.cli.fuzz_search import Stop
from hfsched.cli.output import notice
from hfsched.cli.progress import Progress
from hfsched.cli.within import add_within
from hfsched.errors import MisuseError
from hfsched.snapshot.compare import compared_text, diff, merge
from hfsched.snapshot.directory import open_chain, open_layers
from hfsched.snapshot.layer import CancelledError
from hfsched.snapshot.report import inspect, inspected_text, size_text, verify
from hfsched.text import count, printable

__all__ = ["add_layer_options", "add_parser", "run"]

_DESCRIPTION = """\
Take a snapshot of a running machine; look at snapshots, check and merge them. DIR is the directory of
a snapshot; those that it is based on lie beside it.

  hfsched snapshot take DIR         of the machine that runs, or (take demo DIR) of machine `demo`
  hfsched snapshot cancel           cancel the one that is being taken, whoever asked for it
  hfsched run --restore DIR         run the machine of a snapshot, from where it was
  hfsched snapshot inspect DIR      machine, VMs, state and layers
  hfsched snapshot verify DIR       read and check every frame of every layer; all faults are listed
  hfsched snapshot diff DIR DIR2    pages and state that differ; exit status 3 when any do
  hfsched snapshot merge DIR NEW    write the chain of DIR as one full snapshot NEW
"""
_CODECS = ("lz4", "zstd", "raw")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`; its `run` default is `run`."""
    parser = subparsers.add_parser(
        "snapshot",
        help="take snapshots of a running machine; check and merge them",
        description=_DESCRIPTION,
        epilog="Exit status: 0 done, whole, or the same; 1 an error or a fault; 2 misuse; 3 they differ.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=(*_VERBS,), metavar="|".join(_VERBS))
    parser.add_argument(
        "directories",
        nargs="*",
        metavar="DIR",
        help="the directory of a snapshot; diff, merge: two; take, cancel: first the machine, where several run",
    )
    add_layer_options(parser, codec_for="take, merge: ", incremental_for="take: ")
    parser.add_argument(
        "--live",
        action="store_true",
        help="take: let the guests run while memory is written; for a machine with --swap-dir",
    )
    add_within(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def add_layer_options(
    parser: argparse.ArgumentParser, codec_for: str = "", incremental_for: str = ""
) -> None:
    """Add what a layer is written with; the help begins with what the options are for."""
    parser.add_argument(
        "--codec",
        choices=_CODECS,
        metavar="|".join(_CODECS),
        help=f"{codec_for}how pages are compressed (lz4)",
    )
    parser.add_argument(
        "--incremental",
        action="store_true",
        help=f"{incremental_for}write only what has changed since the snapshot before, which lies beside DIR",
    )


def run(args: argparse.Namespace) -> int:
    """Carry out the command line; return the exit status."""
    least, most, verb = _VERBS[args.what]
    given = args.directories
    if len(given) < least:
        raise MisuseError(f"{args.what} needs {'a DIR' if least == 1 else 'two DIRs'}")
    if len(given) > most:
        raise MisuseError(f"{given[most]!r} is one word too many for {args.what}")
    if args.codec is not None and args.what not in ("take", "merge"):
        raise MisuseError(f"--codec is for take and merge, not for {args.what}")
    if args.incremental and args.what != "take":
        raise MisuseError(f"--incremental is for take, not for {args.what}")
    if args.live and args.what != "take":
        raise MisuseError(f"--live is for take, not for {args.what}")
    return verb(args)


def _print(args: argparse.Namespace, found: object, lines: list[str]) -> None:
    if args.json:
        print(json.dumps(found))
    elif lines:
        print("\n".join(lines))


def _inspect(args: argparse.Namespace) -> int:
    with closing(open_chain(args.directories[0])) as chain:
        found = inspect(chain)
    _print(args, found, inspected_text(found))
    return 0


def _verify(args: argparse.Namespace) -> int:
    layers, problem = open_layers(args.directories[0])
    faults = []
    for layer in reversed(layers):
        with closing(layer):
            faults += verify(layer, Progress(f"checking {printable(layer.name)}").show)
    if problem is not None:
        faults.append(str(problem))
    frames = sum(layer.frames for layer in layers)
    size = sum(layer.layout.offsets[-1] for layer in layers)
    checked = f"{count(len(layers), 'layer')}, {count(frames, 'frame')}, {size_text(size)}"
    found = {"faults": faults, "layers": len(layers), "frames": frames, "size": size}
    _print(args, found, [*map(printable, faults), checked + (": whole" if not faults else "")])
    return 1 if faults else 0


def _diff(args: argparse.Namespace) -> int:
    one, other = args.directories
    with closing(open_chain(one)) as first, closing(open_chain(other)) as second:
        found = diff(first, second)
    _print(args, found, compared_text(found))
    return 3 if any(found.values()) else 0


def _merge(args: argparse.Namespace) -> int:
    source, target = args.directories
    shown = Progress(f"writing {printable(target)}").show
    stop = Stop()  # what was begun is removed
    try:
        with closing(open_chain(source)) as chain:
            warning = merge(
                chain,
                target,
                codec=args.codec or "lz4",
                cancelled=lambda: stop.number is not None,
                progress=shown,
            )
    except CancelledError:
        assert stop.number is not None
        return 128 + stop.number
    if warning is not None:
        notice(warning)
    with closing(open_chain(target)) as chain:
        found = inspect(chain)
    _print(args, found, inspected_text(found)[-1:])
    return 0


def _take(args: argparse.Namespace) -> int:
    from hfsched.cli.snapshot_take import take_snapshot  # noqa: PLC0415 - only for a running machine

    *machine, directory = args.directories
    return take_snapshot(
        args,
        next(iter(machine), None),
        directory,
        lambda name, ms: f"machine  {name} was suspended for {ms:.1f} ms",
    )


def _cancel(args: argparse.Namespace) -> int:
    from hfsched.cli.snapshot_take import cancel  # noqa: PLC0415 - only for a running machine

    return cancel(args)


# {least, most words, what carries it out}
_VERBS: dict[str, tuple[int, int, Callable[[argparse.Namespace], int]]] = {
    "take": (1, 2, _take),
    "cancel": (0, 1, _cancel),
    "inspect": (1, 1, _inspect),
    "verify": (1, 1, _verify),
    "diff": (2, 2, _diff),
    "merge": (2, 2, _merge),
}
