"""Children of this process, for tests of the spawner."""

from __future__ import annotations

import gc
import os
import select
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import processes

from . import children
from .times import later

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Process
    from hfsched.runtime.threads import ThreadRuntime


def descriptors() -> int:
    gc.collect()
    return len([*Path("/proc/self/fd").iterdir()])


def threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


def offspring() -> set[int]:
    """Return the children of this process, zombies too."""
    return processes.children(os.getpid())


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def spawner_of(runtime: ThreadRuntime) -> int:
    """Return the spawner's process id, once there is one."""
    while (pid := runtime.spawner_pid) is None:
        runtime.checkpoint("until there is a spawner")
    return pid


def another_than(runtime: ThreadRuntime, last: int) -> int:
    while (pid := spawner_of(runtime)) == last:
        runtime.checkpoint("until there is another spawner")
    return pid


def ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(20_000))


def answered(runtime: ThreadRuntime, end: End) -> bool:
    end.send(b"abc")
    return end.recv(later(runtime)) == (b"cba", [])


def started(runtime: ThreadRuntime) -> tuple[Process, End]:
    mine, theirs = runtime.channel("c")
    try:
        return runtime.process("echo", children.echo, [theirs]), mine
    except OSError:
        mine.close()
        theirs.close()
        raise


def stop(runtime: ThreadRuntime, process: Process, end: End) -> None:
    end.close()
    assert process.join(later(runtime))
    assert process.exit_status == 7
