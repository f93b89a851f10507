"""The page map of one VM while a layer is written."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from hfsched.errors import InternalError
from hfsched.snapshot.index import ZERO, packed

__all__ = ["PageMap"]


class PageMap:
    """The page map of one VM while it grows; pages may come in any order."""

    def __init__(self) -> None:
        self.firsts, self.counts, self.positions = array("I"), array("I"), array("I")

    def add(self, first: int, count: int, position: int) -> None:
        """Add pages that are stored from a position on, or are zero (`ZERO`)."""
        if self.firsts:
            before, at = self.counts[-1], self.positions[-1]
            follows = position == ZERO if at == ZERO else position == at + before
            if follows and first == self.firsts[-1] + before:
                self.counts[-1] += count
                return
        self.firsts.append(first)
        self.counts.append(count)
        self.positions.append(position)

    def runs(self) -> bytes:
        """Return it as in the index; raises InternalError for a page that came twice."""
        order: Sequence[int] = range(len(self.firsts))
        after = 0
        if any(b <= a for a, b in zip(self.firsts, self.firsts[1:], strict=False)):
            order = sorted(order, key=self.firsts.__getitem__)
        for run in order:
            if self.firsts[run] < after:
                raise InternalError(f"page {self.firsts[run]} was written twice")
            after = self.firsts[run] + self.counts[run]
        columns = (self.firsts, self.counts, self.positions)
        return packed(*(map(column.__getitem__, order) for column in columns))
