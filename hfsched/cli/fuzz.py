"""`hfsched fuzz`: search a scenario for a schedule that fails, and replay, shrink or explain one that was found.

Exit status: 0 nothing found; 1 a failure, with ``token: ...`` on a separate line, or a file that cannot
be written; 2 misuse; 130
and 143 when interrupted; the part covered so far is printed.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from typing import Any

from hfsched.cli.fuzz_search import search
from hfsched.cli.fuzz_token import VERBS
from hfsched.cli.output import notice
from hfsched.errors import MisuseError, UserError
from hfsched.text import nearest, printable
from hfsched.times import seconds
from hfsched.vcpu.engines import EngineId
from hfsched.vmm.sizes import parse_size

__all__ = ["add_parser", "run"]

STRATEGIES = ("pos", "urw", "random", "pct", "bounded", "exhaustive", "portfolio")
SEARCHING = ("variant", "strategy", "bound", "seed", "budget", "jobs", "cluster", "memory")
ENGINES: tuple[EngineId, ...] = ("script", "unicorn")  # those that the explorer can control
NUMBERS = {"bound": (0, 1000), "seed": (0, (1 << 63) - 1), "jobs": (1, 256)}

USAGE = """hfsched fuzz SCENARIO [options]
       hfsched fuzz replay TOKEN [--engine ENGINE]
       hfsched fuzz shrink TOKEN
       hfsched fuzz explain TOKEN [--html FILE]
       hfsched fuzz list"""

TEXT = """SCENARIO is a name that `hfsched fuzz list` prints, optionally with parameters
(mailbox,receiver=trusty,vcpus=2), or a scenario of your own (my_file.py::MyScenario).

replay   run a token's schedule again; status 1 when it fails as recorded
shrink   find the fewest preemptions that still fail, and prove that fewer do not
explain  show a token's schedule step by step, as text or as an HTML page
list     the scenarios, their parameters and their faulty variants"""


class Rest(argparse.Action):
    """Collects the words after the first in `rest`; `token` is the first of them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002
        namespace: argparse.Namespace,
        values: Any,
        option: str | None = None,  # noqa: ARG002
    ) -> None:
        """Add what was given."""
        namespace.rest = [*getattr(namespace, "rest", []), *values]
        namespace.token = namespace.rest[0] if namespace.rest else None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `hfsched`."""
    parser = subparsers.add_parser(
        "fuzz",
        usage=USAGE,
        description="Run the production scheduler under every interleaving of a scenario.",
        epilog=TEXT
        + "\n\nExit status: 0 no failure; 1 a failure, or FILE cannot be written; 2 misuse.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "what", metavar="SCENARIO", help="the scenario to explore, or one of the verbs"
    )
    parser.add_argument(
        "token", action=Rest, metavar="TOKEN", nargs="*", default=None, help=argparse.SUPPRESS
    )
    parser.add_argument("--variant", metavar="V", help="a faulty variant of the code, by name")
    parser.add_argument(
        "--strategy",
        metavar="S",
        help=f"{', '.join(STRATEGIES)} (the default: all of them in turn)",
    )
    parser.add_argument(
        "--bound", metavar="N", help="preemptions at most; makes the strategy bounded"
    )
    parser.add_argument(
        "--seed", metavar="N", help="of random choices; default: a new one, which is printed"
    )
    parser.add_argument("--budget", metavar="TIME", help="such as 500ms, 10s, 5m; default: 60s")
    parser.add_argument(
        "--memory", metavar="SIZE", help="for the visited states, such as 2G; default: no limit"
    )
    parser.add_argument("--jobs", metavar="N", help="processes; default: 1, this one")
    parser.add_argument(
        "--cluster", metavar="tcp://...", help="use the workers of a Dask scheduler"
    )
    parser.add_argument("--engine", metavar="ENGINE", help="for replay: script or unicorn")
    parser.add_argument(
        "--html", metavar="FILE", help="for explain: write an HTML page, '-': to standard output"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out the command line; return the exit status."""
    try:
        if not __debug__:
            raise UserError("python -O and PYTHONOPTIMIZE leave out what scenarios assert")
        _read(args)
        if args.what == "list":
            return _list(args)
        if args.what in VERBS:
            return _verb(args)
        _check_words(args.what, args.rest)
        _refuse(args, "engine", "html")
        return search(args)
    except UserError as error:
        notice(f"error: {printable(str(error))}")
        return 2


def _check_words(what: str, rest: list[str]) -> None:
    """Refuse a misspelt verb, and words after a scenario."""
    from hfsched.explore.registry import catalogue  # noqa: PLC0415

    verb = nearest(what, (*VERBS, "list"))
    if verb is not None and what not in catalogue() and nearest(what, catalogue()) is None:
        raise MisuseError(f"no verb or scenario {what!r}: did you mean {verb!r}?")
    if not rest:
        return
    if all("=" in word for word in rest):
        joined = ",".join([what, *rest])
        raise MisuseError(f"{rest[0]}: parameters are joined by commas: hfsched fuzz {joined}")
    raise MisuseError(f"{rest[0]}: one scenario at a time")


def _verb(args: argparse.Namespace) -> int:
    if args.token is None:
        raise MisuseError(f"{args.what}: missing TOKEN")
    if len(args.rest) > 1:
        raise MisuseError(f"{args.rest[1]}: {args.what} takes one token")
    others = {"replay": ("html",), "explain": ("engine",)}.get(args.what, ("html", "engine"))
    _refuse(args, *SEARCHING, *others)
    return VERBS[args.what](args)


def _refuse(args: argparse.Namespace, *names: str) -> None:
    """Refuse options that do not apply to the verb, or to a search."""
    what = "a search" if args.what not in (*VERBS, "list") else args.what
    for name in names:
        if getattr(args, name) is not None:
            owner = {"html": "explain", "engine": "replay"}.get(name, "a search")
            raise MisuseError(f"--{name} is for {owner}, not for {what}")


def _list(args: argparse.Namespace) -> int:
    if args.token is not None:
        raise MisuseError(f"{args.token}: list takes nothing more")
    _refuse(args, *SEARCHING, "engine", "html")
    from hfsched.explore.registry import catalogue, kind_of, values_of, variants_of  # noqa: PLC0415

    for name in catalogue():
        kind = kind_of(name)
        text = (kind.__doc__ or "").strip().splitlines()[0]
        print(f"{name}: {text}")
        parameters = [
            f"{each.name}={each.default}" for each in fields(kind) if each.name != "variant"
        ]
        print(f"  parameters  {' '.join(parameters).lower()}")
        for parameter, values in values_of(kind).items():
            print(f"    {parameter}: {', '.join(values)}")
        for variant, what in variants_of(kind).items():
            print(f"  --variant {variant:16} {what.text}")
    return 0


# Arguments.


def _read(args: argparse.Namespace) -> None:
    """Read the options' values; for an invalid one argparse would print its usage, in many lines."""
    for name, (least, most) in NUMBERS.items():
        text = getattr(args, name)
        if text is None:
            continue
        if not re.fullmatch(r"[0-9]{1,20}", text) or not least <= int(text) <= most:
            raise MisuseError(f"--{name} {text}: not a number from {least} to {most}")
        setattr(args, name, int(text))
    if args.budget is not None:
        args.budget = _budget(args.budget)
    if args.memory is not None:
        args.memory = parse_size("--memory", args.memory)
    for name, known in (("strategy", STRATEGIES), ("engine", ENGINES)):
        text = getattr(args, name)
        if text is not None and text not in known:
            raise MisuseError(f"--{name} {text}: known: {', '.join(known)}")


def _budget(text: str) -> float:
    found = seconds(text)
    if not found:
        raise MisuseError(f"--budget {text}: a time such as 500ms, 10s or 5m, more than 0")
    return found
