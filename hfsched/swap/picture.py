"""Where guest memory is, as a picture: a character for each 2 MiB."""

from __future__ import annotations

from collections import Counter

from hfsched.swap.entries import State

__all__ = ["LEGEND", "picture"]

CHUNK = 512  # pages: 2 MiB
_STATES: dict[int, str] = {
    State.RESIDENT: ".",
    State.STAGED: "s",
    State.WRITING: "w",
    State.PUNCHING: "w",
    State.FILE: "F",
    State.COMPRESSED: "C",
    State.ZERO: "0",
    State.MOVING: "w",
    State.TAKING: "w",
}
LEGEND = ". in memory  s staged  w on the way  F in the file  C compressed  0 zero"


def picture(entries: bytes) -> str:
    """Return what most pages of each 2 MiB are; of `entries`, the lowest byte of each."""
    return "".join(_most(entries[first : first + CHUNK]) for first in range(0, len(entries), CHUNK))


def _most(entries: bytes) -> str:
    counts: Counter[str] = Counter()
    for byte, number in Counter(entries).items():
        counts[_STATES.get(byte & 15, "?")] += number
    return counts.most_common(1)[0][0]
