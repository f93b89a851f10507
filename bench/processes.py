"""Other processes, as /proc shows them: a thread or a process may end while it is looked at."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["children", "children_named", "in_a_fault", "stop"]


def _of_threads(pid: int, file: str) -> Iterator[str]:
    """Yield what this file says of each thread of a process."""
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                yield (thread / file).read_text("ascii", "replace")


def children(pid: int) -> set[int]:
    """Return the children of a process, zombies too."""
    return {int(child) for each in _of_threads(pid, "children") for child in each.split()}


def children_named(pid: int, name: str) -> list[int]:
    """Return the children of a process that have this name, zombies too."""
    found = []
    for child in children(pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                found.append(child)
    return found


def in_a_fault(pid: int) -> bool:
    """Return whether a thread of a process of this user waits for a page."""
    return any("userfault" in where for where in _of_threads(pid, "wchan"))


def stop(pid: int) -> None:
    """Stop a process (SIGSTOP), and return when each of its threads is stopped.

    The signal reaches one thread, and the others stop when that one has seen it: until then they serve.
    """
    os.kill(pid, signal.SIGSTOP)
    while any(stat.rpartition(")")[2].split()[0] not in "TZ" for stat in _of_threads(pid, "stat")):
        os.sched_yield()
