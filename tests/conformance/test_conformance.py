"""Every engine here shows its guests, and the host, what the table says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rows import ROWS, Difference, Row
from table import table
from talk import KVM_X86, TARGETS, UNICORN, Target

DOCS = Path(__file__).resolve().parents[2] / "docs" / "engines.md"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target).replace(" ", "-"))
@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", row.name).strip("-"))
def test_it_is_as_the_table_says(row: Row, target: Target) -> None:
    why_not = target.why_not()
    if why_not is not None:
        pytest.skip(f"{target}: {why_not}")
    seen = row.see(target)
    difference = row.difference(target)
    if difference is None:
        assert seen == row.expected
    elif difference.seen is not None:
        assert seen == difference.seen


def test_every_row_has_a_name_of_its_own_and_no_difference_that_is_none() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.expected not in [difference.seen for difference in row.differences]


def test_a_table_tells_right_from_wrong() -> None:
    row = next(row for row in ROWS if row.differences and row.difference(UNICORN) is None)
    other = row.difference(KVM_X86)
    assert other is not None
    assert other.seen is not None
    made = table({str(UNICORN): {row.name: row.expected}, str(KVM_X86): {row.name: other.seen}})
    line = next(line for line in made.splitlines() if line.startswith(f"| {row.name} |"))
    assert line == f"| {row.name} | {row.expected} | yes | not run | {other.seen} [1] |"
    assert "WRONG" not in made
    assert "**WRONG**: nonsense" in table({str(UNICORN): {row.name: "nonsense"}})


def test_anything_may_be_seen_where_the_difference_says_so() -> None:
    row = Row("clock", lambda _: "", "1 Hz", (Difference((UNICORN,), None, "the host's"),))
    assert row.holds(UNICORN, "2 Hz")
    assert not row.holds(KVM_X86, "2 Hz")


@pytest.mark.skipif(not DOCS.exists(), reason="the documents are not here")
def test_the_documents_have_this_table() -> None:
    written = DOCS.read_text()
    assert "WRONG" not in written
    for row in ROWS:
        assert f"| {row.name} | {row.expected} |" in written
        for difference in row.differences:
            assert f"{row.name}, `{difference.targets[0]}`: {difference.why}" in written
