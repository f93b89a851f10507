"""Inputs for parsers: bytes at random, and valid ones with parts changed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random

__all__ = ["mutated"]

SIZE_MAX = 1 << 14  # of what grows
_EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0xFFF, 0x1000, 0x7FFF_FFFF, 1 << 31, (1 << 32) - 1, 1 << 32)
_WIDE = (*_EDGES, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096)
_WORDS = (
    *(b"", b"\0", b"\n", b"-1", b"1e999", b"9" * 30, b"null", b"true", b"[]", b"{}", b'""', b"NaN"),
    *(
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\\ud800",
        b"\\u0000",
        b"@",
        b"=",
        b":",
        b",",
        b"..",
        b"[",
    ),
)


def mutated(random: Random, seeds: Sequence[bytes], size: int) -> bytes:
    """Return an input: one in eight is up to `size` bytes at random, others come from the seeds."""
    if not seeds or random.random() < 0.125:
        return random.randbytes(random.randrange(size + 1))
    data = bytearray(random.choice(seeds))
    for _ in range(random.choice((0, 1, 1, 1, 2, 2, 4, 8))):
        kind = random.randrange(9)
        at = random.randrange(len(data) + 1)
        # The beginning has the headers.
        if random.random() < 0.5:
            at = min(at, random.randrange(128))
        if kind == 0 and data:
            data[at - 1] ^= 1 << random.randrange(8)
        elif kind == 1 and data:
            data[at - 1] = random.getrandbits(8)
        elif kind == 2:
            edge = struct.pack("<Q", random.choice(_WIDE))[: random.choice((1, 2, 4, 8))]
            data[at : at + len(edge)] = edge
        elif kind == 3:
            edge = struct.pack(">I", random.choice(_EDGES) & 0xFFFF_FFFF)
            data[at : at + 4] = edge
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            del data[at : at + random.randrange(1, 17)]
        elif kind == 6:
            data[at:at] = random.choice(_WORDS)
        elif kind == 7:
            other = random.choice(seeds)
            start = random.randrange(len(other) + 1)
            data[at:at] = other[start : start + random.randrange(1, 65)]
        else:
            data[at:at] = data[at : at + random.randrange(1, 33)] * random.choice((1, 2, 20))
        if len(data) > SIZE_MAX:
            del data[SIZE_MAX:]
    return bytes(data)
