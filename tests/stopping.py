"""Processes that tests stop."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

__all__ = ["stop"]


def _runs(pid: int) -> bool:
    """Whether a thread of the process is not stopped."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            if (thread / "stat").read_text().rpartition(")")[2].split()[0] not in "TZ":
                return True
    return False


def stop(pid: int) -> None:
    """Stop a process (SIGSTOP), and return when each of its threads is stopped.

    The signal reaches one thread, and the others stop when that one has seen it: until then they serve.
    """
    os.kill(pid, signal.SIGSTOP)
    while _runs(pid):
        os.sched_yield()
