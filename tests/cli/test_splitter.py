"""Lines out of chunks, cut where none can be sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hfsched.cli.splitter import Splitter

LIMIT = 5


@given(st.lists(st.text("ab\n", max_size=20).map(str.encode), max_size=8))
def test_any_chunks_are_their_lines(chunks: list[bytes]) -> None:
    splitter = Splitter(LIMIT)
    found: list[tuple[bytes, bool]] = []
    for chunk in chunks:
        found += splitter.feed(chunk)
        assert len(splitter._begun) <= LIMIT
    found += splitter.end()
    *lines, last = b"".join(chunks).split(b"\n")
    lines += [last] * bool(last)
    assert found == [(line[:LIMIT], len(line) <= LIMIT) for line in lines]


def test_a_line_that_is_too_long_is_given_before_its_end() -> None:
    splitter = Splitter(LIMIT)
    assert list(splitter.feed(b"abcdefgh")) == [(b"abcde", False)]
    assert list(splitter.feed(b"ij" * 1000)) == []
    assert list(splitter.feed(b"\nab")) == []
    assert list(splitter.end()) == [(b"ab", True)]
