"""The mutation check: every mistake in what delivers messages and in what has concurrency must be found.

    python bench/mutants.py [--group NAME,...] [--only TEXT] [--jobs N] [--journal FILE] [--list]

The group ``small`` has one statement deleted, one comparison flipped, one `not` dropped or one truth value
turned over, and the known ways to lose a message (`MISTAKES`); the other groups have mistakes of concurrency
(`bench/mistakes_races.py`).  Each mistake runs in a process of its own: the scenarios of its group are
explored, then come unit tests.  With a small one a tenth of each scenario is explored first, and after the
tests all of it, and more scenarios.  Nothing in the working tree is changed.  Before that the
same is done with the code as it is: a scenario or a test that fails there would find everything, and one that
does not come to the changed block of statements there finds nothing, and is left out.  Scenarios that found
most in a file so far come first.

A small mistake must be found by any of these, a known one and one of concurrency by a scenario; what is not
must stand in `mutants-equivalent.txt`, with the reason.  Exit status 1 when one does not, or when one that
stands there is found, or gone.

With `--journal` what is known is kept in FILE, and a run that was stopped goes on from there, as long as
the code, its tests and the mistakes are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from journal import Journal
from mistakes_places import mutated
from mutants_child import PREFIX, SECONDS
from mutants_reached import block_of
from mutants_table import GROUPS, MISTAKES, TOP, Group

if TYPE_CHECKING:
    from mistakes_places import Mutant

EQUIVALENT = TOP / "bench" / "mutants-equivalent.txt"
CHILD = TOP / "bench" / "mutants_child.py"
DEPENDS = ("hfsched/**/*.py", "tests/**/*.py", "bench/m*.py")
Look: TypeAlias = dict[str, list[str]]  # scenarios, tests, and more scenarios
HANG = 240  # seconds without a sign of progress: then a mutant counts as found
COLUMNS = ("killed by exploring", "killed by a test", "equivalent", "SURVIVES")


def _child(words: Sequence[str], look: Look | None = None) -> str:
    """Run one in a fresh process; return its seconds of processor time and what killed it."""
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, CHILD, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(json.dumps(look).encode())
        said = b""
        while select.select([process.stdout], [], [], HANG)[0]:
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                break
            said += part
        else:
            os.killpg(process.pid, signal.SIGKILL)
            return f"{time.monotonic() - start:.1f} it hangs: nothing for {HANG} s"
    lines = said.decode(errors="replace").splitlines()
    found = {
        prefix: next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), None)
        for prefix in (SECONDS, PREFIX)
    }
    if None in found.values():
        raise RuntimeError(f"the check itself ended with {process.returncode}: {' '.join(words)}")
    return f"{found[SECONDS]} {found[PREFIX]}"


class _Known:
    """What is known of each, from the journal or a process, and the time that it took."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.seconds = 0.0  # of processor time

    def get(self, name: str, find: Callable[[], str]) -> str:
        """Return what killed one, or what is said of it."""
        seconds, _, said = self._journal.get(name, find).partition(" ")
        self.seconds += float(seconds)
        return said


class _Coming:
    """What comes to the blocks of the code as it is, and how much each scenario found so far."""

    def __init__(self) -> None:
        self.by: dict[str, dict[str, list[int]]] = {}  # {scenario or test: {file: lines}}
        self._found: Counter[tuple[str, str]] = Counter()

    def look(self, group: Group, mutant: Mutant) -> Look:
        """Return what is looked with for a mutant."""
        source = (TOP / mutant.file).read_text()
        tree = mutated(group.find, source, mutant.number, group.files[mutant.file])
        line = block_of(source, tree)

        def those(names: Iterable[str]) -> list[str]:
            return [
                name for name in names if not line or line in self.by[name].get(mutant.file, ())
            ]

        specs = those(group.scenarios(mutant.file))
        specs.sort(key=lambda spec: -self._found[mutant.file, spec])
        tests = [
            name for name in self.by if name.startswith(tuple(f"{each}/" for each in group.tests))
        ]
        return {"scenarios": specs, "tests": those(tests), "thorough": those(group.thorough)}

    def found(self, mutant: Mutant, killer: str) -> None:
        """Note what found a mutant."""
        self._found[mutant.file, killer.partition(": ")[0]] += 1


def equivalents() -> dict[str, str]:
    """Return the reasons why mistakes are none, by their keys."""
    known = {}
    for line in EQUIVALENT.read_text().splitlines():
        if line and not line.startswith("#"):
            key, _, reason = line.rpartition(" || ")
            known[key] = reason
    return known


def check(groups: Sequence[Group], only: str, jobs: int, journal: _Known) -> int:
    """Run everything, and print what was found."""
    known = equivalents()
    bad = done = 0
    start = time.monotonic()
    totals: Counter[tuple[str, str]] = Counter()
    with ThreadPoolExecutor(jobs) as pool:
        names = [name for name in MISTAKES if only in name and GROUPS["small"] in groups]
        found = pool.map(lambda name: journal.get(name, lambda: _child([name])), names)
        for name, killer in zip(names, found, strict=True):
            bad += not killer
            print(f"mistake {name}: {killer or 'SURVIVES'}", flush=True)
        coming = _Coming()
        for group in groups:
            mutants = [each for each in group.mutants() if only in each.key]
            done += len(mutants)
            if not _sound(group, mutants, pool, journal, coming):
                return 1

            def run(mutant: Mutant, group: Group = group) -> str:
                words = [group.name, mutant.file, str(mutant.number)]
                killer = journal.get(
                    f"{group.name} | {mutant.key}",
                    lambda: _child(words, coming.look(group, mutant)),
                )
                coming.found(mutant, killer)
                return killer

            for mutant, killer in zip(mutants, pool.map(run, mutants), strict=True):
                reason = known.pop(mutant.key, None)
                how = _how(killer, reason)
                totals[mutant.file, how] += 1
                if how == COLUMNS[-1] or _is_unsettled(group, killer, reason):
                    bad += 1
                    print(f"{how}: {mutant.file}:{mutant.line}: {mutant.key}  {killer}", flush=True)
    if not only and len(groups) == len(GROUPS):
        for key in known:
            bad += 1
            print(f"listed as equivalent, and gone: {key}")
    _table(totals)
    took = f"{time.monotonic() - start:.0f} s, {journal.seconds:.0f} s of processor time"
    print(f"{done} mutants, {len(names)} mistakes: {took}")
    return 1 if bad else 0


def _sound(
    group: Group,
    mutants: Sequence[Mutant],
    pool: ThreadPoolExecutor,
    journal: _Known,
    coming: _Coming,
) -> bool:
    """Run what looks for these mutants on the code as it is, and note what it comes to; return whether it finds nothing."""
    files = dict.fromkeys(mutant.file for mutant in mutants)
    specs = dict.fromkeys(spec for file in files for spec in group.scenarios(file))
    specs |= dict.fromkeys(group.thorough)
    rounds = [["tests", group.name], *([spec] for spec in specs)] if mutants else []

    def run(words: list[str]) -> str:
        return journal.get(f"unchanged | {' '.join(words)}", lambda: _child(["unchanged", *words]))

    good = True
    for said in pool.map(run, rounds):
        if said.startswith("{"):
            coming.by |= json.loads(said)
        else:
            good = False
            print(f"the code as it is fails: {said}", flush=True)
    return good


def _how(killer: str, reason: str | None) -> str:
    if not killer:
        return COLUMNS[-1] if reason is None else "equivalent"
    return "killed by a test" if killer.startswith("test ") else "killed by exploring"


def _is_unsettled(group: Group, killer: str, reason: str | None) -> bool:
    """Return whether a mutant that was found is not as `mutants-equivalent.txt` has it."""
    if group.name != "small" and killer.startswith("test "):
        return reason is None  # why no schedule matters
    return bool(killer) and reason is not None


def _table(totals: Counter[tuple[str, str]]) -> None:
    print("| file | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for file in dict.fromkeys(file for file, _ in totals):
        print(f"| {file} | " + " | ".join(str(totals[file, how]) for how in COLUMNS) + " |")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--group", default=",".join(GROUPS), help="of: %(default)s")
    parser.add_argument("--only", default="", metavar="TEXT", help="those with TEXT in their name")
    parser.add_argument("--journal", type=Path, help="where what is known is kept")
    parser.add_argument("--list", action="store_true", help="list them, and run none")
    args = parser.parse_args(arguments)
    if unknown := set(args.group.split(",")) - GROUPS.keys():
        parser.error(f"no group {min(unknown)}: there are {', '.join(GROUPS)}")
    groups = [GROUPS[name] for name in args.group.split(",")]
    if args.list:
        for group in groups:
            for mutant in group.mutants():
                if args.only in mutant.key:
                    print(f"{mutant.file}:{mutant.line}: {mutant.key}")
        return 0
    return check(groups, args.only, args.jobs, _Known(Journal(args.journal, DEPENDS)))


if __name__ == "__main__":
    sys.exit(main())
