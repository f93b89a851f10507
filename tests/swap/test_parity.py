"""The table of crosvm's swap beside ours names tests that exist, and reasons where there is none."""

from __future__ import annotations

import ast
import functools
import re
from collections import Counter
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "swap-crosvm.md"
NAME = re.compile(r"`([\w/]+\.py)::(\w+)`")
# How many tests crosvm has (f1e797a6) in the files of each section.
SECTIONS = {
    "swap/tests/page_handler.rs": 16,
    "swap/tests/main.rs": 6,
    "swap/src/uffd_list.rs, processes.rs": 11,
    "swap/src/worker.rs, file_truncator.rs": 13,
    "swap/src/file.rs": 23,
    "swap/src/staging.rs": 11,
    "swap/src/present_list.rs, pagesize.rs": 27,
    "e2e_tests/tests/swap.rs": 7,
}


def rows() -> list[tuple[str, list[str]]]:
    """Return each row with its section."""
    found, section = [], ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:].removeprefix("Tests: ")
        elif line.startswith("| ") and not line.startswith("| crosvm |"):
            found.append((section, [cell.strip() for cell in line.strip("|").split("|")]))
    return found


@functools.cache
def names_in(file: str) -> set[str]:
    names: set[str] = set()
    for node in ast.parse((TESTS / file).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names.add(node.targets[0].id)
    return {name for name in names if name.lower().startswith("test")}


@pytest.mark.parametrize(("section", "cells"), rows(), ids=lambda value: str(value)[:60])
def test_a_row_names_tests_that_exist_or_a_reason(section: str, cells: list[str]) -> None:
    assert len(cells) == 3, section
    named = NAME.findall(cells[2])
    assert named or cells[1].startswith("- "), "neither a test nor a reason"
    assert NAME.sub("", cells[2]).strip(", ") == ""
    for file, name in named:
        assert name in names_in(file)


def test_every_test_of_crosvm_has_one_row() -> None:
    sections = Counter(section for section, _ in rows())
    assert {name: sections[name] for name in SECTIONS} == SECTIONS
    for section in SECTIONS:
        names = Counter(cells[0] for found, cells in rows() if found == section)
        assert not [name for name, times in names.items() if times > 1]
