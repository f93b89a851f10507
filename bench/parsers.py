"""Random and changed inputs through every parser of bytes that somebody else has made.

    python bench/parsers.py [--count N] [--seed S] [--only NAME]

`--count` is over all parsers.  A parser may accept an input or refuse it with an error of ours; each
other exception is printed with the parser's name and the input, and the exit status is then 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from parser_inputs import mutated
from parser_table import Parser, parsers

__all__ = ["Parser", "Result", "counts", "feed", "parsers"]

COUNT = 10_000_000
_SLOW = 1.0  # seconds of the processor, for one input
_KEPT = 20  # findings, of one parser


@dataclass
class Result:
    """What came of one parser."""

    inputs: int = 0
    accepted: int = 0
    seconds: float = 0.0
    found: list[str] = field(default_factory=list)


def feed(parser: Parser, count: int, seed: int) -> Result:
    """Give a parser so many inputs."""
    random = Random(f"{seed}/{parser.name}")
    result = Result(inputs=count)
    began = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):  # --help
        for _ in range(count):
            data = mutated(random, parser.seeds, parser.size)
            started = time.monotonic()
            try:
                parser.call(data)
                result.accepted += 1
            except parser.refuses:
                pass
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                _note(result, f"{type(error).__name__}: {error}", data)
            if time.monotonic() - started > _SLOW and (took := _again(parser, data)) > _SLOW:
                _note(result, f"took {took:.1f} s", data)
    result.seconds = time.process_time() - began
    return result


def _again(parser: Parser, data: bytes) -> float:
    """Return how many seconds of the processor an input takes."""
    started = time.process_time()
    with contextlib.suppress(BaseException):
        parser.call(data)
    return time.process_time() - started


def _note(result: Result, what: str, data: bytes) -> None:
    if len(result.found) < _KEPT:
        result.found.append(f"{what[:200]}: {data.hex()}")


def counts(known: Sequence[Parser], count: int) -> list[int]:
    """Divide a count among parsers by their shares."""
    whole = sum(parser.share for parser in known)
    return [max(1, round(count * parser.share / whole)) for parser in known]


def main() -> int:
    arguments = argparse.ArgumentParser(description="random inputs through every parser")
    arguments.add_argument("--count", type=int, default=COUNT)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", help="the parsers whose name begins so")
    args = arguments.parse_args()
    known = [each for each in parsers() if each.name.startswith(args.only or "")]
    print(f"{'parser':26}{'inputs':>10}{'accepted':>10}{'refused':>10}{'a second':>10}")
    inputs = wrong = 0
    for parser, count in zip(known, counts(known, args.count), strict=True):
        result = feed(parser, count, args.seed)
        refused = result.inputs - result.accepted - len(result.found)
        rate = result.inputs / max(result.seconds, 1e-9)
        print(
            f"{parser.name:26}{result.inputs:10}{result.accepted:10}{refused:10}{rate:10.0f}",
            flush=True,
        )
        for finding in result.found:
            print(f"  {finding}", flush=True)
        inputs += result.inputs
        wrong += len(result.found)
    print(f"{inputs} inputs, {wrong} findings")
    return 0 if known and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
