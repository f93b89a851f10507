"""Splits input into lines, and stores no more of a line than can be sent."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["Splitter"]


class Splitter:
    """Takes chunks; gives (line, whether it is whole) for each line, without its newline.

    A line of more than `limit` bytes is given at once, cut there, and the rest of it is dropped.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._begun = b""
        self._dropping = False  # the rest of a line that was cut

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bool]]:
        """Take the next chunk."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            if not self._dropping:
                # The slice is bounded first: a chunk may be much longer than a line may be.
                line = self._begun + data[start : min(end, start + self._limit + 1)]
                yield self._bounded(line)
            self._begun = b""
            self._dropping = False
            start = end + 1
        if self._dropping:
            return
        self._begun += data[start : start + self._limit + 1]
        if len(self._begun) > self._limit:
            yield self._bounded(self._begun)
            self._begun = b""
            self._dropping = True

    def end(self) -> Iterator[tuple[bytes, bool]]:
        """Give a last line that has no newline."""
        if self._begun:
            yield self._begun, True
            self._begun = b""

    def _bounded(self, line: bytes) -> tuple[bytes, bool]:
        return line[: self._limit], len(line) <= self._limit
