"""The descriptors of a page store, as main hands them to each monitor: a word for each.

A monitor derives everything else from these: sizes are those of the files.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from dataclasses import dataclass

from hfsched.errors import UserError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.core.guestpages import GivenPages, Region
from hfsched.swap.core.stores import Stores, SwapFile
from hfsched.swap.pages.entries import REGIONS_MAX, Staging

__all__ = ["Resources", "pack", "unpack"]

_TABLE, _OUT, _INTO, _STAGING, _TIER, _ASIDE, _RAM, _FRAMES, _ALARM, _LAYER = (
    "table",
    "file-out",
    "file-in",
    "staging",
    "tier",
    "aside",
    "ram",
    "frames",
    "alarm",
    "layer",
)
_STORED = {_FRAMES, _ALARM, _LAYER}  # all of them, or none


@dataclass(frozen=True, slots=True)
class Resources:
    """What every monitor gets: a word and a descriptor each; main keeps the descriptors open."""

    words: tuple[str, ...] = ()
    fds: tuple[int, ...] = ()


def pack(stores: Stores, rams: Sequence[int], stored: GivenPages | None = None) -> Resources:
    """Return stores, the memfds of the VMs' memory, in the order of their pages, and stored pages, as resources."""
    if not 0 < len(rams) <= REGIONS_MAX:
        raise UserError(f"swap: VMs must be 1 to {REGIONS_MAX}, got {len(rams)}")
    given = [(_TABLE, stores.table)]
    if stores.file is not None:
        given += [(_OUT, stores.file.out), (_INTO, stores.file.into)]
    if stores.staged is not None:
        given.append((_STAGING, stores.staged))
    if stores.tier is not None:
        given.append((_TIER, stores.tier))
    if stores.aside is not None:
        given.append((_ASIDE, stores.aside))
    given += [(_RAM, fd) for fd in rams]
    if stored is not None:
        given += [(_FRAMES, stored.frames), (_ALARM, stored.alarm)]
        given += [(_LAYER, fd) for fd in stored.layers]
    return Resources(tuple(word for word, _ in given), tuple(fd for _, fd in given))


def unpack(
    words: Sequence[str], fds: Sequence[int]
) -> tuple[Stores, list[Region], GivenPages | None]:
    """Return the arguments of `pack`; raises ValueError for words that it cannot have made."""
    given = dict(zip(words, fds, strict=True))
    several = (_RAM, _LAYER)
    known = {_TABLE, _OUT, _INTO, _STAGING, _TIER, _ASIDE, _RAM, _FRAMES, _ALARM, _LAYER}
    missing = {_TABLE, _RAM} - given.keys()
    half = (_OUT in given) != (_INTO in given) or len(given.keys() & _STORED) not in (0, 3)
    twice = [word for word in given if word not in several and words.count(word) > 1]
    if missing or half or twice or given.keys() - known:
        raise ValueError(f"resources {', '.join(words)}")
    regions = [
        Region(fd, os.fstat(fd).st_size // PAGE_SIZE)
        for word, fd in zip(words, fds, strict=True)
        if word == _RAM
    ]
    file = None
    if _OUT in given:
        direct = bool(fcntl.fcntl(given[_OUT], fcntl.F_GETFL) & os.O_DIRECT)
        file = SwapFile(given[_OUT], given[_INTO], direct)
    tier = given.get(_TIER)
    stores = Stores(
        pages=sum(region.pages for region in regions),
        staging=Staging.COPY if _STAGING in given else Staging.MINOR,
        table=given[_TABLE],
        file=file,
        staged=given.get(_STAGING),
        tier=tier,
        tier_size=0 if tier is None else os.fstat(tier).st_size,
        aside=given.get(_ASIDE),
    )
    pages = None
    if _FRAMES in given:
        layers = tuple(fd for word, fd in zip(words, fds, strict=True) if word == _LAYER)
        pages = GivenPages(given[_FRAMES], given[_ALARM], layers)
    return stores, regions, pages
