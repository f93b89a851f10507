"""The table of docs/swap.md, "After an error", against the enumeration of `bench/swap_recovery.py`."""

from __future__ import annotations

from pathlib import Path

import pytest
from swap_recovery import CASES, Case, header, row

DOCS = Path(__file__).resolve().parent.parent.parent / "docs" / "swap.md"
# The others take a minute of processor time: `bench/swap_recovery.py --check`.
QUICK = [case for case in CASES if case.scenario.bugs < 2 and not case.scenario.deaths]


def test_the_table_has_a_row_for_each_error() -> None:
    lines = DOCS.read_text().splitlines()
    first = lines.index(header()[0])
    table = lines[first : lines.index("", first)]
    assert table[:2] == header()
    assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == [
        case.what for case in CASES
    ]


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.what)
def test_the_table_says_what_brings_everything_in(case: Case) -> None:
    assert row(case) in DOCS.read_text().splitlines()
