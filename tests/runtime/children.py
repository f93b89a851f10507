"""Programs for `Runtime.process`: each is called in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from hfsched.runtime.base import ChannelClosedError
from hfsched.runtime.threads import ThreadRuntime

if TYPE_CHECKING:
    from hfsched.runtime.base import End, Runtime


def echo(_: Runtime, end: End) -> None:
    """Answer every message with its bytes reversed, until the other end is closed."""
    try:
        while (got := end.recv()) is not None:
            end.send(got[0][::-1])
    except ChannelClosedError:
        sys.exit(7)


def through_a_descriptor(_: Runtime, end: End) -> None:
    """Write into the descriptor that comes with the first message."""
    got = end.recv()
    assert got is not None
    os.write(got[1][0], b"from the child")


def between_two(runtime: Runtime, left: End, right: End) -> None:
    """Carry one message from the first end to the second."""
    ready = runtime.select([left, right])
    assert ready == [left]
    got = left.recv()
    assert got is not None
    right.send(got[0])


def sleep_for_ever(_: Runtime, end: End) -> None:
    end.send(b"here")
    end.recv()


class Nested:
    @staticmethod
    def main(_: Runtime, end: End) -> None:
        end.send(repr(sys.flags.dont_write_bytecode).encode())


def without_memory(_: Runtime, end: End) -> None:
    raise MemoryError


def faulty(_: Runtime, end: End) -> None:
    raise ValueError("broken\nin two")


def about(_: Runtime, end: End) -> None:
    """Say what this process is."""
    word = ctypes.c_int()
    ctypes.CDLL(None).prctl(2, ctypes.byref(word))  # PR_GET_PDEATHSIG
    said = {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "session": os.getsid(0),
        "group": os.getpgid(0),
        "signal": word.value,
        "threads": len([*Path("/proc/self/task").iterdir()]),
        "tid": threading.get_native_id(),
        "comm": Path("/proc/self/comm").read_text().rstrip("\n"),
        "descriptors": len([*Path("/proc/self/fd").iterdir()]),
        "imported": "hfsched.runtime.threads.spawner" in sys.orig_argv,
    }
    end.send("\n".join(f"{name}={value}" for name, value in said.items()).encode())


def doomed(_: Runtime, end: End) -> None:
    """Be a main that is killed: with a child, and a spawner that is running, stopped or dead."""
    got = end.recv()
    assert got is not None
    runtime = ThreadRuntime()
    mine, theirs = runtime.channel("c")
    process = runtime.process("child", sleep_for_ever, [theirs])
    mine.recv()
    pids = [pid for pid in (process.pid, runtime.spawner_pid) if pid is not None]
    if got[0] == b"stopped":
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
    elif got[0] == b"dead":
        runtime.forbid_exec()
        os.kill(pids[1], signal.SIGKILL)
        runtime.spawner_lost.wait()
        del pids[1]
    end.send(" ".join(map(str, pids)).encode())
    end.recv()


def bereave(runtime: Runtime, end: End, for_child: End) -> None:
    """Start `echo` with the second end, so that it outlives this process; tell its pid; wait."""
    process = runtime.process("echo", echo, [for_child], outlives=True)
    end.send(str(process.pid).encode())
    echo(runtime, end)
