"""A worker process: tasks on standard input, reports on standard output.

Each message is four bytes of length, little endian, and msgpack.  The process exits at once at the end
of its input, since the campaign's process is gone then.
"""

from __future__ import annotations

import os
import queue
import signal
import struct
import threading
import time
from typing import BinaryIO

import msgspec

from hfsched.explore.campaign.tasks import Caches, Report, Task, perform

__all__ = ["MESSAGE_MAX", "main", "read_message", "write_message"]

LENGTH = struct.Struct("<I")
MESSAGE_MAX = 1 << 22  # bytes: a token of the greatest size, and text
REPORT_EVERY = 0.25  # seconds between two reports of one task


def read_message(stream: BinaryIO) -> bytes | None:
    """Return the next message; None at the end.  Raises ValueError for one that is too long."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    size: int = LENGTH.unpack(head)[0]
    if size > MESSAGE_MAX:
        raise ValueError(f"a message of {size} bytes: more than {MESSAGE_MAX}")
    data = stream.read(size)
    return data if len(data) == size else None


def write_message(stream: BinaryIO, data: bytes) -> None:
    """Write a message."""
    stream.write(LENGTH.pack(len(data)) + data)
    stream.flush()


def _read_tasks(source: BinaryIO, tasks: queue.SimpleQueue[Task]) -> None:
    """Read tasks; exit the process at the end of the input, and for an invalid message."""
    try:
        while (data := read_message(source)) is not None:
            tasks.put(msgspec.msgpack.decode(data, type=Task))
    finally:
        os._exit(1)


def main() -> None:
    """Perform tasks until the input ends."""
    # The campaign's process handles interrupts; it has blocked SIGINT up to here.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    # A scenario's standard input and output must not interfere with the messages.
    source, out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    threading.Thread(target=_read_tasks, args=(source, tasks), daemon=True).start()
    caches: Caches = {}
    last = time.monotonic()

    def report_progress(report: Report) -> bool:
        nonlocal last
        now = time.monotonic()
        if now - last >= REPORT_EVERY:
            last = now
            write_message(out, msgspec.msgpack.encode(report))
        return False

    try:
        while True:
            last = time.monotonic()
            write_message(
                out, msgspec.msgpack.encode(perform(tasks.get(), report_progress, caches))
            )
    except BrokenPipeError:
        os._exit(1)
