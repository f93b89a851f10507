"""The table of race passes, which `bench/explore.py races` prints: a row for each machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

from hfsched.explore.registry import find
from hfsched.explore.watch.control import watched_codes
from hfsched.explore.watch.racepass import race_pass

__all__ = ["print_table"]

EXECUTIONS = 5000


def print_table(specs: Sequence[str], seconds: float, walks: int) -> bool:
    """Run a race pass of so many seconds for each spec and print the table; return whether all are clean.

    A row has the number of random walks, the small size with the number of its schedules and whether
    these are all, and the race, the calls of code that has no rule, what a lock's `state=` does not tell, or
    what differs between states that are taken for one.
    """
    print("| scenario | walks | small size | schedules | of these | races |")
    print("|---|---|---|---|---|---|")
    with watched_codes():
        return all(tuple(_row(spec, seconds, walks) for spec in specs))


def _row(spec: str, seconds: float, walks: int) -> bool:
    start = time.process_time()
    result = race_pass(
        find(spec),
        1,
        walks=walks,
        executions=EXECUTIONS,
        merging=True,
        over=lambda: time.process_time() - start >= seconds,
    )
    how = "all" if result.covered else "not all"
    found = [] if result.failure is None else [str(result.failure.outcome.failure)]
    found += result.unruled_lines + result.unread_lines + result.merged_lines
    cells = (spec, result.walks, result.small, result.executions, how, "; ".join(found) or "none")
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    return not found
