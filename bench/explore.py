"""The tables of exploration: what is proved, how soon mistakes are found, and how fast it goes.

    python bench/explore.py proofs [--large] [--only TEXT] [--seconds N] [--journal FILE]
    python bench/explore.py races [--large] [--only TEXT] [--seconds N] [--walks N]
    python bench/explore.py failures [--seeds N] [--only TEXT]
    python bench/explore.py soundness [--programs N]
    python bench/explore.py speed [--rounds N]

`proofs` searches every interleaving of the shipped code on small machines and prints states,
executions and seconds of processor time; `--large` adds the machines that take minutes to an hour, and with
`--journal` a run that was stopped goes on from FILE, as long as the code is the same.  `races` looks for data races on plain state in the
same machines, N seconds of processor time each.  `failures` prints for each
historical variant and strategy the median and worst number of schedules to the first failure over
seeds, and for the default strategy the worst time.  `soundness` runs tests/explore/test_soundness.py,
which holds the search against every schedule, one by one, with N drawn programs, and
looks at larger machines whether what spares states changes any end.  `speed` prints steps and schedules a second.
All are pinned to one CPU; exit status 1 when something fails that must hold, or is not found.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import proof_table
import race_table
from journal import Journal

from hfsched.explore.execution import Outcome, Result, search
from hfsched.explore.registry import find, variants_of
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.scenarios.mailbox import MailboxScenario
from hfsched.scenarios.swap import SwapScenario

SCHEDULES_MAX = 3000  # to the first failure; then it counts as not found


SPARED = ("swap,commands=enable,abort=true", "mailbox,messages=2,boot=true", "swap", "machine")


def proofs(args: argparse.Namespace) -> int:
    """Print the table of what holds under every interleaving."""
    rows = [row for row in proof_table.small() + _large(args) if args.only in row[0]]
    journal = Journal(args.journal, proof_table.DEPENDS)
    return 0 if proof_table.print_table(rows, args.seconds, journal) else 1


def _large(args: argparse.Namespace) -> list[tuple[str, int | None]]:
    return proof_table.large() if args.large else []


def races(args: argparse.Namespace) -> int:
    """Print the race passes of the proved machines; return 1 for a race."""
    specs = [spec for spec, _ in proof_table.small() + _large(args) if args.only in spec]
    return 0 if race_table.print_table(specs, args.seconds, args.walks) else 1


def soundness(args: argparse.Namespace) -> int:
    """Compare what searches find that spare states in different ways, and in none."""
    bad = 0
    for spec in SPARED:
        ends = [
            _ends(spec, Exhaustive(cache=cache, sleep=sleep), forgetting=forgetting)
            for cache, sleep, forgetting in (
                (True, True, True),
                (True, True, False),
                (True, False, False),
            )
        ]
        same = all(each == ends[0] for each in ends)
        bad += not same
        print(
            f"{spec}: {len(ends[0])} ends, {'the same' if same else 'DIFFERENT'} in all", flush=True
        )
    command = [sys.executable, "-m", "pytest", "-q", "tests/explore/test_soundness.py"]
    drawn = {**os.environ, "HFSCHED_SOUNDNESS": str(-(-args.programs // 6))}  # 3, 1 and 2 times
    top = Path(__file__).resolve().parent.parent
    return bad or subprocess.run(command, env=drawn, cwd=top, check=False).returncode


def _ends(spec: str, strategy: Exhaustive, *, forgetting: bool) -> set[object]:
    found: set[object] = set()

    def on_end(outcome: Outcome) -> None:
        if not outcome.pruned:
            found.add(outcome.final)

    result = search(find(spec), strategy, on_end=on_end, forgetting=forgetting)
    assert result.complete, spec
    assert result.failure is None, spec
    return found


def failures(args: argparse.Namespace) -> int:
    """Print the table of schedules to the first failure."""
    columns: list[tuple[str, str, int | None, int | None]] = [
        ("random", "random", None, None),
        ("PCT 2", "pct", None, 2),
        ("PCT 3", "pct", None, 3),
        ("POS", "pos", None, None),
        ("URW", "urw", None, None),
        ("bounded", "bounded", None, None),
        ("exhaustive", "exhaustive", None, None),
        ("portfolio", "portfolio", None, None),
    ]
    heads = [label for label, *_ in columns]
    print("| variant | " + " | ".join(heads) + " | portfolio, worst seconds |")
    print("|" + "---|" * (len(heads) + 2))
    bad = 0
    variants = [("mailbox", variant) for variant in variants_of(MailboxScenario)]
    variants += [("swap", variant) for variant in variants_of(SwapScenario)]
    for name, variant in variants:
        if args.only not in f"{name}+{variant}":
            continue
        scenario = find(name, variant)
        cells = []
        worst = 0.0
        for label, how, bound, depth in columns:
            counts = []
            seeds = args.seeds if how not in ("bounded", "exhaustive") else 1
            for seed in range(seeds):
                start = time.process_time()
                result = search(
                    scenario, make(how, seed, bound=bound, depth=depth), until=_long_enough
                )
                if label == "portfolio":
                    worst = max(worst, time.process_time() - start)
                    bad += result.failure is None
                counts.append(result.executions if result.failure is not None else None)
            cells.append(_shown(counts))
        print(f"| {variant} | " + " | ".join(cells) + f" | {worst:.2f} |", flush=True)
    return 1 if bad else 0


def _long_enough(result: Result) -> bool:
    return result.executions >= SCHEDULES_MAX


def _after(end: float) -> Callable[[Result], bool]:
    return lambda _: time.process_time() >= end


def _shown(counts: list[int | None]) -> str:
    """Return "median / worst", or just the number where no seed is in play."""
    known = sorted(SCHEDULES_MAX + 1 if count is None else count for count in counts)
    texts = [
        f"> {SCHEDULES_MAX}" if count > SCHEDULES_MAX else f"{count:.0f}"
        for count in (statistics.median(known), known[-1])
    ]
    return texts[0] if len(counts) == 1 else " / ".join(texts)


def speed(args: argparse.Namespace) -> int:
    """Print steps and schedules a second, medians over the rounds."""
    print("| scenario | strategy | steps/s | schedules/s | steps each |")
    print("|---|---|---|---|---|")
    for spec in ("mailbox", "mailbox,receiver=trusty,vcpus=2,messages=3"):
        for label in ("random", "pos", "pct", "urw", "exhaustive"):
            rates, schedules, length = [], [], 0.0
            for seed in range(args.rounds):
                strategy = RandomWalk(seed) if label == "random" else make(label, seed)
                start = time.process_time()
                result = search(find(spec), strategy, until=_after(start + 1))
                seconds = time.process_time() - start
                rates.append(result.steps / seconds)
                schedules.append(result.executions / seconds)
                length = result.steps / result.executions
            print(
                f"| {spec} | {label} | {statistics.median(rates):,.0f} "
                f"| {statistics.median(schedules):,.0f} | {length:.0f} |",
                flush=True,
            )
    return 0


def main() -> int:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    tables = parser.add_subparsers(required=True, metavar="TABLE")
    one = tables.add_parser("proofs", help="what holds under every interleaving")
    one.add_argument("--large", action="store_true", help="with what takes minutes")
    one.add_argument("--only", default="", metavar="TEXT", help="scenarios with TEXT in them")
    one.add_argument("--seconds", type=float, default=3600, metavar="N", help="for each machine")
    one.add_argument("--journal", type=Path, metavar="FILE", help="where what is known is kept")
    one.set_defaults(run=proofs)
    five = tables.add_parser("races", help="where there is no data race on plain state")
    five.add_argument("--large", action="store_true", help="with the larger machines")
    five.add_argument("--only", default="", metavar="TEXT", help="scenarios with TEXT in them")
    five.add_argument("--seconds", type=float, default=20, metavar="N", help="for each machine")
    five.add_argument("--walks", type=int, default=50, metavar="N", help="of each machine")
    five.set_defaults(run=races)
    two = tables.add_parser("failures", help="schedules to the first failure")
    two.add_argument("--seeds", type=int, default=100)
    two.add_argument("--only", default="", metavar="TEXT", help="variants with TEXT in them")
    two.set_defaults(run=failures)
    four = tables.add_parser("soundness", help="whether what spares work loses an outcome")
    four.add_argument("--programs", type=int, default=2400, help="drawn ones (%(default)s)")
    four.set_defaults(run=soundness)
    three = tables.add_parser("speed", help="steps and schedules a second")
    three.add_argument("--rounds", type=int, default=5)
    three.set_defaults(run=speed)
    args = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[-1]})
    status: int = args.run(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
