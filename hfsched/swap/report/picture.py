"""Where guest memory is, as a picture: a character for each cell, of 2 MiB by default."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hfsched.swap.pages.entries import State

__all__ = ["CELL", "KINDS", "LEGEND", "cell_size", "mark_empty", "picture", "size"]

CELL = 512  # pages: 2 MiB
FINE = 4096  # cells of a fine picture, unless they would have more than 2 MiB
KINDS = {
    ".": "in memory",
    "s": "staged",
    "w": "on the way",
    "F": "in the file",
    "C": "compressed",
    "0": "zero",
    "L": "in the snapshot",
    "-": "empty",
}
LEGEND = "  ".join(f"{kind} {what}" for kind, what in KINDS.items())
_STATES = {
    State.RESIDENT: ".",
    State.STAGED: "s",
    State.WRITING: "w",
    State.PUNCHING: "w",
    State.FILE: "F",
    State.COMPRESSED: "C",
    State.ZERO: "0",
    State.MOVING: "w",
    State.TAKING: "w",
    State.STORED: "L",
}
_EMPTY = 14  # a value beside the states: resident, but not allocated
_KNOWN = {int(state): ord(kind) for state, kind in _STATES.items()} | {_EMPTY: ord("-")}
_KIND_OF = bytes(_KNOWN.get(byte & 15, ord("?")) for byte in range(256))
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_ORDER = bytes(ord(kind) for kind in (*KINDS, "?") if kind != "-")
_EMPTIED = bytes(byte if byte & 15 else _EMPTY for byte in range(256))


def mark_empty(entries: bytes, held: Iterable[tuple[int, int]]) -> bytes:
    """Return entries for `picture`, with resident pages that take no memory marked as empty.

    `held`: the ranges of pages that the VM's memfd has, as (first, end), `end` exclusive, in order.
    """
    made, end = [], 0
    for first, after in held:
        made += [entries[end:first].translate(_EMPTIED), entries[first:after]]
        end = after
    made.append(entries[end:].translate(_EMPTIED))
    return b"".join(made)


def picture(entries: bytes, cell: int = CELL) -> str:
    """Return the most frequent kind of page of each cell of `cell` pages.

    `entries`: the lowest byte of each page's entry.  Empty pages count only if a cell has no others.
    """
    kinds = entries.translate(_KIND_OF)
    cells = (kinds[first : first + cell] for first in range(0, len(kinds), cell))
    return bytes(map(_most, cells)).decode()


def _most(kinds: bytes) -> int:
    first = kinds[0]
    if kinds.count(first) == len(kinds):  # most cells are uniform
        return first
    return max(_ORDER, key=kinds.count)


def cell_size(sizes: Sequence[int], most: int, *, fine: bool = False) -> int:
    """Return the pages of a cell, a power of two, for VMs of these sizes (in pages).

    It is 2 MiB; more if the pictures of all VMs would have more than `most` characters; less for a
    `fine` picture of few pages.
    """
    cell = 1 if fine else CELL
    while cell < CELL and _cells(sizes, cell) > FINE:
        cell *= 2
    while _cells(sizes, cell) > most:
        cell *= 2
    return cell


def _cells(sizes: Sequence[int], cell: int) -> int:
    return sum(-(-size // cell) for size in sizes)


def size(number: int) -> str:
    """Return a number of bytes in human-readable form: 2 MiB, 1.5 GiB."""
    unit = 0
    value = float(number)
    while value >= 1024 and unit < len(_UNITS) - 1:
        value /= 1024
        unit += 1
    return f"{value:.1f}".removesuffix(".0") + f" {_UNITS[unit]}"
