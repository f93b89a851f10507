"""All tests that matter on real arm64 KVM, in machines of QEMU; `script/test` has a part of them.

    python bench/arm64.py [--cpu NAME,...]

For each processor (KVM in VHE mode and in nVHE mode) it boots a machine, as `script/qemu` does, runs the suites
of `qemu/suites.py` there, and prints for each suite how many tests passed and the seconds that they took.
Exit status 1 when one fails, is left out for no known reason, or too few were found.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qemu.beside import command, environment
from qemu.image import TOP
from qemu.suites import ALL, check, read_results, script

SLOWEST = 8  # tests that are named


def run(cpu: str) -> bool:
    """Run a processor's suites; return whether all passed."""
    suites = ALL[cpu]
    done = subprocess.run(
        command("--cpu", cpu, "--", "sh", "-c", script(suites)),
        cwd=TOP,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not done.stdout.startswith("<?xml"):
        print(f"{cpu}: no results: status {done.returncode}")
        return False
    cases = read_results(done.stdout)
    try:
        passed = check(cases, suites.least)
    except AssertionError as exc:
        print(f"{cpu}: {exc}")
        return False
    for suite, count in passed.items():
        seconds = sum(case.seconds for case in cases if case.is_of(suite))
        print(f"| {cpu} | {suite} | {count} | {seconds:.0f} |")
    for case in sorted(cases, key=lambda case: -case.seconds)[:SLOWEST]:
        print(f"    {case.seconds:6.1f} s  {case.name}", file=sys.stderr)
    return done.returncode == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cpu", default=",".join(ALL), help="of: %(default)s")
    args = parser.parse_args(arguments)
    cpus = args.cpu.split(",")
    if unknown := {*cpus} - ALL.keys():
        parser.error(f"no processor {min(unknown)}: there are {', '.join(ALL)}")
    print("| processor | suite | passed | seconds |")
    print("|---|---|---|---|")
    results = [run(cpu) for cpu in cpus]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
