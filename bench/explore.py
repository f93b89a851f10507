"""The tables of exploration: what is proved, how soon mistakes are found, and how fast it goes.

    python bench/explore.py proofs [--large] [--only TEXT]
    python bench/explore.py races [--large] [--only TEXT] [--seconds N] [--walks N]
    python bench/explore.py failures [--seeds N] [--only TEXT]
    python bench/explore.py soundness [--programs N]
    python bench/explore.py speed [--rounds N]

`proofs` searches every interleaving of the shipped code on small machines and prints states,
executions and seconds; `--large` adds the machines that take minutes.  `races` looks for data races on plain state in the
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

from race_table import print_table

from hfsched.explore.execution import Outcome, Result, search
from hfsched.explore.registry import find, variants_of
from hfsched.explore.strategies.choose import make
from hfsched.explore.strategies.exhaustive import Exhaustive
from hfsched.explore.strategies.walk import RandomWalk
from hfsched.scenarios.mailbox import MailboxScenario
from hfsched.scenarios.swap import SwapScenario

ONE_VCPU = ("echo", "disabled", "trusty")
TWO_VCPUS = (*ONE_VCPU, "trusty-0", "wfi-echo", "reader-1")
SCHEDULES_MAX = 3000  # to the first failure; then it counts as not found


def small() -> list[tuple[str, int | None]]:
    """Return {spec, bound} of what is proved in seconds."""
    specs = [f"mailbox,receiver={each},messages=3" for each in ONE_VCPU]
    specs += [f"mailbox,receiver={each},vcpus=2,messages=2" for each in TWO_VCPUS]
    for senders in ("hosts=2", "guests=1"):
        specs += [f"mailbox,receiver={each},vcpus=2,messages=1,{senders}" for each in TWO_VCPUS]
    specs += [f"mailbox,receiver={each},messages=3,boot=true" for each in ONE_VCPU]
    specs += ["mailbox,receiver=trusty-0,vcpus=2,messages=1,boot=true"]
    specs += ["mailbox,runners=1"]
    for event in ("suspend", "abort", "timer", "fault", "post", "death"):
        specs += [f"events,event={event}"]
    specs += [
        f"swap,commands={each}" for each in ("enable-out-disable", "enable-out-enable-out-disable")
    ]
    specs += ["swap,touches=2", "swap,pages=2", "swap,guests=2", "swap,full=true"]
    specs += ["swap,beside=status", "swap,commands=enable,abort=true"]
    specs += ["suspension"]
    specs += [
        "machine",
        "machine,messages=2,stop=false",
        "machine,guest=burst,queue=1,stop=false",
        "machine,guest=talker,listener=reader,hosts=0",
        "machine,guest=talker,listener=reader,hosts=0,queue=1,stop=false",
        "machine,guest=talker,listener=handler,hosts=0",
        "machine,guest=mortal,stop=false",
        "machine,guest=smp,vcpus=2,stop=false",
        "machine,guest=server,requests=1,hosts=0",
        "machine,guest=server,requests=1,hosts=0,timers=true,stop=false",
        "machine,sends=deadline,timers=true,stop=false",
        "machine,suspenders=1,hosts=0",
        "machine,probes=1,hosts=0",
        "machine,suspenders=1,stop=false",
        "machine,suspenders=2,hosts=0,stop=false",
        "machine,clients=silent,hosts=0",
        "machine,clients=status,hosts=0",
        "machine,clients=subscriber,hosts=0",
        "machine,clients=deaf,hosts=0",
        "subscribers",
        "subscribers,events=2",
        "services,event=none,requests=1",
        "services,requests=1,timers=false",
        "services,requests=0,asks=1,timers=false",
        "services,event=pause,requests=1,timers=false",
        "services,event=none,requests=1,asks=1,timers=false",
        "services,event=none,requests=1,crashes=1,timers=false",
        "services,event=none,requests=1,boot=true,timers=false",
        "machine,swap=enable-out-disable,hosts=0,stop=false",
        "machine,swap=enable,deaths=1,hosts=0,stop=false",
    ]
    specs += ["swap,commands=enable-out,spawner_dies=true"]
    specs += [f"swap,commands=enable-out,guests=0,child={each}" for each in ("lives", "dies")]
    specs += [
        "swap,commands=enable,deaths=1,failing_starts=1",
        "swap,commands=enable-close,guests=0,deaths=1,failing_starts=1",
    ]
    return [(spec, None) for spec in specs]


def large() -> list[tuple[str, int | None]]:
    """Return {spec, bound} of what takes minutes."""
    specs = [f"mailbox,receiver={each},vcpus=2,messages=3" for each in TWO_VCPUS]
    specs += ["suspension,holders=2", "suspension,rounds=2"]
    specs += [f"mailbox,receiver={each},messages=2,hosts=2" for each in ONE_VCPU]
    specs += [f"mailbox,receiver={each},messages=2,guests=1" for each in ONE_VCPU]
    specs += [f"mailbox,receiver={each},vcpus=2,messages=2,boot=true" for each in TWO_VCPUS]
    specs += [
        "swap,deaths=1",
        "swap,commands=enable-out,bugs=1",
        "swap,commands=enable-out,beside=discard",
        "swap,abort=true",
        "swap,commands=enable,spawner_dies=true,deaths=1",
    ]
    specs += [
        "services,requests=1",
        "services,event=restore,requests=1,timers=false",
        "services",
        "machine,messages=2",
        "machine,suspenders=1",
        "machine,guest=smp,vcpus=2",
        "machine,guest=writer,vms=2,hosts=2,stop=false",
        "machine,guest=talker,listener=reader,hosts=0,queue=1,suspenders=1",
        "machine,guest=server,requests=2,stop=false",
        "machine,sends=try,hosts=2,stop=false",
        "swap,commands=enable-out,guests=0,child=lives,workers=2",
        "machine,swap=enable,hosts=0",
        "machine,swap=enable,spawner_dies=true,hosts=0,stop=false",
        "machine,swap=enable-out,stop=false",
    ]
    bounded = [
        f"mailbox,receiver={each},vcpus=2,messages=2,{senders}"
        for senders in ("hosts=2", "guests=1")
        for each in TWO_VCPUS
    ]
    clients = [f"machine,clients={each},hosts=0" for each in ("asks", "stalls", "goes")]
    return [
        *((spec, None) for spec in specs),
        *((spec, 3) for spec in bounded),
        *((spec, 1) for spec in clients),
    ]


def proofs(args: argparse.Namespace) -> int:
    """Print the table of what holds under every interleaving."""
    rows = small() + (large() if args.large else [])
    print("| scenario | bound | states | executions | seconds | |")
    print("|---|---|---|---|---|---|")
    bad = 0
    for spec, bound in rows:
        if args.only not in spec:
            continue
        scenario = find(spec)
        strategy = Exhaustive(bound)
        start = time.process_time()
        result = search(scenario, strategy)
        seconds = time.process_time() - start
        held = result.complete and result.failure is None
        bad += not held
        words = "holds" if held else f"FAILS: {result.failure and result.failure.failure}"
        limit = "none" if bound is None else str(bound)
        print(
            f"| {scenario.name} | {limit} | {strategy.states} | {result.executions} "
            f"| {seconds:.1f} | {words} |",
            flush=True,
        )
    return 1 if bad else 0


SPARED = ("swap,commands=enable,abort=true", "mailbox,messages=2,boot=true", "swap")


def races(args: argparse.Namespace) -> int:
    """Print the race passes of the proved machines; return 1 for a race."""
    specs = [spec for spec, _ in small() + (large() if args.large else []) if args.only in spec]
    return 0 if print_table(specs, args.seconds, args.walks) else 1


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
