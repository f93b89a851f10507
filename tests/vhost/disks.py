"""A disk of random bytes, and a Linux guest that counts on it."""

from __future__ import annotations

import random
from pathlib import Path

__all__ = ["BLOCK", "BLOCKS", "COUNT", "counted", "random_disk"]

BLOCK = 512
BLOCKS = 4096
# Writes n into block n, for every n, and the last n into a file.
COUNT = (
    "count() { n=0; while :; do n=$((n+1)); echo $n | dd of=/dev/vda bs=512 seek=$n count=1 conv=sync "
    "oflag=direct 2>/dev/null || break; echo $n >/next; mv /next /last; done; }; echo 0 >/last; count &"
)


def random_disk(path: Path) -> Path:
    """Make a disk of random bytes at a path; return it."""
    path.write_bytes(random.Random(1).randbytes(BLOCKS * BLOCK))
    return path


def counted(disk: Path, last: int) -> bool:
    """Whether blocks 1 to `last` have their numbers."""
    data = disk.read_bytes()
    blocks = [data[at * BLOCK :][:BLOCK] for at in range(1, last + 1)]
    return blocks == [(b"%d\n" % number).ljust(BLOCK, b"\0") for number in range(1, last + 1)]
