"""A worker process: tasks on standard input, reports on standard output.

Each message is four bytes of length, little endian, and msgpack.  It ends when its input does.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from typing import BinaryIO

import msgspec

from hfsched.explore.campaign.tasks import Report, Task, perform

__all__ = ["MESSAGE_MAX", "main", "read_message", "write_message"]

LENGTH = struct.Struct("<I")
MESSAGE_MAX = 1 << 20  # bytes
TELL_EVERY = 0.25  # seconds between two reports of one task


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


def main() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign's own process decides
    # What a scenario prints must not get between the reports.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    source = sys.stdin.buffer
    caches: dict[tuple[str, str], dict[int, frozenset[int]]] = {}
    while (data := read_message(source)) is not None:
        task = msgspec.msgpack.decode(data, type=Task)
        last = time.monotonic()

        def tell(report: Report) -> bool:
            nonlocal last
            now = time.monotonic()
            if now - last >= TELL_EVERY:
                last = now
                write_message(out, msgspec.msgpack.encode(report))
            return False

        write_message(out, msgspec.msgpack.encode(perform(task, tell, caches)))


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        os._exit(1)
