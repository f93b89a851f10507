"""Waiting for an answer of a child process that may be slow, but not of one that hangs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from hfsched.runtime.threads.channel import poll_until

__all__ = ["STALLED_AFTER", "STOPPED_AFTER", "processor_time", "wait_for_child"]

STALLED_AFTER = 30_000_000_000  # ns without processor time, of which a busy machine gives some
STOPPED_AFTER = 500_000_000  # ns; nothing but a signal, SIGSTOP, stops a child of ours
_LOOK_EVERY = 100_000_000  # ns


def processor_time(pid: int) -> int | None:
    """Return the processor time of a process (ns), None if it does not exist any more."""
    with suppress(OSError):
        return time.clock_gettime_ns((~pid << 3) | 2)  # see clock_getcpuclockid(3)
    return None


def wait_for_child(
    pid: int, fds: Sequence[int], *, patient: bool, cancelled: Callable[[], bool]
) -> list[int]:
    """Return the positions of the descriptors that are ready; empty if the child `pid` hangs, or if `cancelled`.

    It hangs when it has been stopped for `STOPPED_AFTER`, or has used no processor time for
    `STALLED_AFTER`.  `patient`: it is waited for then too.  The end of the child must make one ready.
    """
    last = processor_time(pid)
    progressed = running = time.monotonic_ns()
    while not cancelled():
        ready = poll_until(fds, time.monotonic_ns() + _LOOK_EVERY)
        if ready:
            return ready
        now, used = time.monotonic_ns(), processor_time(pid)
        if used != last:
            last, progressed = used, now
        if not _is_stopped(pid):
            running = now
        if not patient and (now - running >= STOPPED_AFTER or now - progressed >= STALLED_AFTER):
            break
    return []


def _is_stopped(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
    return False
