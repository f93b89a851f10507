"""Texts of others, as they are shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hfsched.text import (
    count,
    integer,
    meant,
    nearest,
    one_line,
    one_of,
    printable,
    printable_bytes,
    safe_repr,
    there_are,
)

LIMIT = 500


@given(st.text(max_size=2 * LIMIT))
def test_a_text_is_one_short_printable_line(text: str) -> None:
    line = one_line(text, LIMIT)
    assert line.isprintable()
    assert len(line) <= LIMIT


def test_a_text_keeps_what_a_terminal_can_show() -> None:
    assert one_line("vm a: \x1b[2J gr\u00fcn\n", LIMIT) == "vm a: \\x1b[2J gr\u00fcn\\n"


def test_what_was_cut_by_escaping_ends_in_dots() -> None:
    assert one_line("\0" * 10, 10) == "\\x00\\x0..."
    assert one_line("a" * 11, 10) == "a" * 10


def test_a_kept_character_is_not_escaped() -> None:
    assert printable("a\tb\n", keep="\t") == "a\tb\\n"


@given(st.binary(max_size=200))
def test_bytes_are_printable_text(data: bytes) -> None:
    assert printable_bytes(data).replace("\t", "").isprintable()


def test_bytes_keep_tabs_and_show_what_is_no_text() -> None:
    assert printable_bytes(b"a\tb\xff\x1b") == "a\tb\\xff\\x1b"


class Unshown:
    def __repr__(self) -> str:
        raise ValueError


def test_a_value_that_cannot_be_shown_is_named_by_its_type() -> None:
    assert safe_repr(Unshown()) == "a Unshown that cannot be shown"
    assert safe_repr("x" * 999) == "'" + "x" * 199


@pytest.mark.parametrize(
    ("value", "form", "shown"),
    [(12, "d", "12"), (-1, "x", "-0x1"), (1 << 9999, "d", "of 10000 bits")],
)
def test_numbers(value: int, form: str, shown: str) -> None:
    assert integer(value, form) == shown


def test_counts() -> None:
    assert (count(0, "line"), count(1, "line"), count(2, "line")) == (
        "0 lines",
        "1 line",
        "2 lines",
    )


def test_words_that_are_near() -> None:
    known = ("run", "memory", "vcpus")
    assert (nearest("rum", known), nearest("Memroy", known)) == ("run", "memory")
    assert nearest("colour", known) is nearest("", known) is None
    assert nearest("x" * 10**7, known) is None
    assert (meant("vcpu", known), meant("colour", known)) == (": did you mean 'vcpus'?", "")


def test_lists_of_one_and_of_many() -> None:
    assert there_are(["a"]) == "there is a"
    assert there_are(["a", "b"]) == "there are a, b"
    assert there_are(["a", "b", "c"], 2) == "there are a, b and 1 more"
    assert one_of("ab", ["abc"]) == ": only abc is known"
    assert one_of("abd", ["abc", "x"]) == ": one of abc, x: did you mean 'abc'?"
