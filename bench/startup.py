"""Time from the start of the process to the guest's first line.

    python bench/startup.py [--rounds N] [--cpu N]

`hfsched run --guest trusty.bin` against `python -c pass`, interleaved in one run, pinned to one CPU,
medians: with cached bytecode, and without (a fresh, empty cache folder each time).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = [sys.executable, "-m", "hfsched", "run", "--guest", "trusty.bin"]
PASS = [sys.executable, "-c", "pass"]


def milliseconds(command: list[str], cache: str) -> float:
    """Return the ms from the start of `command` to its first line, or to its end without one."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    began = time.perf_counter_ns()
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment,
    )
    assert process.stdout is not None
    process.stdout.readline()
    took = time.perf_counter_ns() - began
    process.communicate()
    return took / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="time to the guest's first line")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--cpu", type=int, default=min(os.sched_getaffinity(0)))
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.cpu})
    times: dict[str, list[float]] = {"python -c pass": [], "cached": [], "uncached": []}
    with tempfile.TemporaryDirectory() as warm:
        milliseconds(RUN, warm)
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as cold:
                times["python -c pass"].append(milliseconds(PASS, warm))
                times["cached"].append(milliseconds(RUN, warm))
                times["uncached"].append(milliseconds(RUN, cold))
    for name, values in times.items():
        print(f"{name:15} {statistics.median(values):7.1f} ms   (worst {max(values):.1f})")


if __name__ == "__main__":
    main()
