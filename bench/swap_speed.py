"""How fast swap is beside what this machine can do: faults, the pause of Enable, both ways.

    python bench/swap_speed.py [faults] [pause] [rates] [--dir DIR] [--rounds N] [--apart]

Everything is measured in this run, interleaved; ratios are medians of those within each round.

- faults: reading a page until it is there, served by the monitor, against a process in C that polls,
  reads one event and answers it (`swap_bare.c`).  Each is on the CPU of the reader of the page, since
  what it takes to wake another CPU would hide all else; with --apart on another one.  Both bring the
  same pages with it: none, then as many as in production.  *minor*: staged; *file*: not in the page
  cache; *zero*: was zero.
- pause: for how long Enable stops the guests, all of whose memory is mapped.
- rates: out and in against a plain loop of direct writes of 2 MiB and holes, and of reads of 2 MiB,
  direct or buffered, whichever is faster, and UFFDIO_COPY.  The pages cannot be compressed;
  *tier*: the compressed tier is tried first all the same, as in production.

The exit status is 1 when a line is missed: faults at most 1.3 times the bare handler's (p50), a
pause at least 10 times shorter by `minor` than by `copy`, rates of 70 % and more.  The swap files are
in --dir, which must be on a disk.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from swap_world import MIB, Bare, Loops, Native, Ours, some, warm

from hfsched.errors import HfschedError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.core import device
from hfsched.swap.core.guestpages import AROUND
from hfsched.swap.pages.entries import Staging

FAULTS_SIZE = 64 * MIB
FAULTS = 1000  # in a round, of each
FAULTS_MAX = 1.3
PAUSE_MIN = 10
RATES_SIZE = 256 * MIB
RATES_MIN = 0.7
KINDS = ("minor", "file", "file, cached", "zero")


def _available() -> int:
    """Return the bytes that can be had without reclaim."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo: no MemAvailable")


def _row(
    what: str, figures: Sequence[str], ratios: Sequence[float], line: str, *, held: bool
) -> bool:
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    ratio = f"{statistics.median(ratios):.2f}"
    print(
        f"| {what} | {' | '.join(figures)} | {ratio} | {spread} | {line} | {'yes' if held else 'NO'} |"
    )
    sys.stdout.flush()
    return held


def _head(*titles: str) -> None:
    print(f"\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")


def _percentile(values: Sequence[int], part: int) -> float:
    """Return it in us."""
    return statistics.quantiles(values, n=100)[part - 1] / 1000


def _touch(world: Bare | Ours, pages: Sequence[int]) -> list[int]:
    world.prepare()
    before = world.faults()
    took = world.native.touch(world.ram, pages)
    after = world.faults()
    if before is not None and after is not None and after - before != len(pages):
        raise HfschedError(f"{after - before} faults for {len(pages)} pages")
    return took


def faults(native: Native, directory: str, rounds: int, *, apart: bool) -> bool:
    """Measure what a fault takes, beside a bare handler."""
    cpus = sorted(os.sched_getaffinity(0))
    here, there = {cpus[0]}, {cpus[-apart]}
    held = True
    _head("fault, us", "bare p50", "p99", "ours p50", "p99", "p50 ratio", "spread", "line", "held")
    os.sched_setaffinity(0, here)
    for kind in KINDS:
        for around in (1, AROUND):
            with ExitStack() as stack:
                ways: list[Bare | Ours] = [
                    stack.enter_context(Bare(native, directory, FAULTS_SIZE, kind, around, there)),
                    stack.enter_context(Ours(native, directory, FAULTS_SIZE, kind, around, there)),
                ]
                times: list[list[list[int]]] = [[], []]
                for number in range(-1, rounds):
                    pages = some(FAULTS_SIZE // PAGE_SIZE, around, FAULTS, number)
                    for each in (0, 1) if number % 2 else (1, 0):
                        took = _touch(ways[each], pages)
                        if number >= 0:
                            times[each].append(took)
            ratios = [
                statistics.median(ours) / statistics.median(bare)
                for bare, ours in zip(*times, strict=True)
            ]
            figures = []
            for took_by in times:
                whole = list(chain.from_iterable(took_by))
                figures += [f"{_percentile(whole, part):.1f}" for part in (50, 99)]
            name = f"{kind}, {around} page{'s' if around > 1 else ''}"
            ok = statistics.median(ratios) <= FAULTS_MAX
            held &= _row(name, figures, ratios, f"<= {FAULTS_MAX}", held=ok)
    os.sched_setaffinity(0, cpus)
    return held


def pause(native: Native, directory: str, rounds: int, **_: bool) -> bool:
    """Measure for how long Enable stops the guests, both ways of staging."""
    size = 1024 * MIB
    while size > 64 * MIB and size * 7 // 2 > _available():  # both guests, and a copy of one
        size //= 2
    _head("pause, ms", "copy", "minor", "ratio", "spread", "line", "held")
    with ExitStack() as stack:
        ways = [
            stack.enter_context(Ours(native, directory, size, staging=staging))
            for staging in (Staging.COPY, Staging.MINOR)
        ]
        times: list[list[float]] = [[], []]
        scans: list[float] = []  # the part of Enable that looks at the page tables
        for number in range(-1, rounds):
            for way, taken in zip(ways, times, strict=True):
                way.touch_all()
                warm(size)
                paused = way.enable()
                if number >= 0:
                    taken.append(paused)
                    scans.append(way.scan())
                way.disable()
    ratios = [copy / minor for copy, minor in zip(*times, strict=True)]
    figures = [f"{statistics.median(each) * 1000:.1f}" for each in times]
    ok = statistics.median(ratios) >= PAUSE_MIN
    what = f"Enable, {size // MIB} MiB"
    if size < 1024 * MIB:
        what += " (no more memory is free)"
    held = _row(what, figures, ratios, f">= {PAUSE_MIN}", held=ok)
    print(f"\nOf each pause, the scan of the page tables: {statistics.median(scans) * 1000:.2f} ms")
    return held


def rates(native: Native, directory: str, rounds: int, **_: bool) -> bool:
    """Measure both ways beside plain loops."""
    gib = RATES_SIZE / (1 << 30)
    times: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(gib / seconds)

    def loop_in() -> None:
        made = []
        for direct in (True, False):
            warm(RATES_SIZE)
            made.append(loops.into(direct=direct))
        whole, file = min(made)
        note("in", whole)
        note("read", file)

    def loop_out() -> None:
        whole, file = loops.out()
        note("out", whole)
        note("write", file)

    def ours_in(name: str) -> None:
        warm(RATES_SIZE)
        note(f"in, {name}", ours[name].disable())

    def ours_out(name: str) -> None:
        ours[name].touch_all()
        ours[name].enable()
        note(f"out, {name}", ours[name].out())

    with ExitStack() as stack:
        loops = stack.enter_context(Loops(native, directory, RATES_SIZE))
        ours = {
            name: stack.enter_context(Ours(native, directory, RATES_SIZE, tier=tier))
            for name, tier in (("file", 0), ("tier", RATES_SIZE // 4))
        }
        for number in range(-1, rounds):
            if number == 0:
                times.clear()
            order = list(ours) if number % 2 else list(ours)[::-1]
            loop_out()
            for name in order:
                ours_out(name)
            loop_in()
            for name in order:
                ours_in(name)
    _head("GiB/s", "file alone", "plain loop", "ours", "of the loop", "spread", "line", "held")
    held = True
    for way, alone in (("out", "write"), ("in", "read")):
        for name in ("file", "tier"):
            made = times[f"{way}, {name}"]
            ratios = [one / limit for one, limit in zip(made, times[way], strict=True)]
            figures = [
                f"{statistics.median(each):.2f}" for each in (times[alone], times[way], made)
            ]
            ok = statistics.median(ratios) >= RATES_MIN
            held &= _row(f"{way}, {name}", figures, ratios, f">= {RATES_MIN}", held=ok)
    return held


PARTS: dict[str, Callable[..., bool]] = {"faults": faults, "pause": pause, "rates": rates}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--apart", action="store_true", help="faults are served by another CPU")
    args = parser.parse_args()
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: the parts are {', '.join(PARTS)}")
    why_not = device.problem()
    if why_not is not None:
        print(f"swap: {why_not}", file=sys.stderr)
        return 1
    native = Native()
    try:
        held = [
            PARTS[part](native, args.dir, args.rounds, apart=args.apart)
            for part in args.parts or PARTS
        ]
    except (OSError, HfschedError) as exc:
        print(f"swap: {exc}", file=sys.stderr)
        return 1
    finally:
        native.close()
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
