"""The table in Markdown, from what each engine has shown: ``{engine: {row: seen}}``."""

from __future__ import annotations

from collections.abc import Mapping

from rows import ROWS, Row
from talk import TARGETS, Target

Seen = Mapping[str, Mapping[str, str]]


def _numbers() -> dict[tuple[str, Target], int]:
    """Number the differences from 1, in the order of the rows."""
    found: dict[tuple[str, Target], int] = {}
    number = 0
    for row in ROWS:
        for difference in row.differences:
            number += 1
            found |= {(row.name, target): number for target in difference.targets}
    return found


def _text(text: str) -> str:
    return text.replace("|", "\\|")


def _cell(row: Row, target: Target, seen: str | None, number: int | None) -> str:
    """Return a cell: "yes" for what is expected of all, else what was seen."""
    if seen is None:
        return "not run"
    if not row.holds(target, seen):
        return f"**WRONG**: {_text(seen)}"
    return "yes" if number is None else f"{_text(seen)} [{number}]"


def table(seen: Seen) -> str:
    """Return a line for each row, a column for each engine, and below them the differences."""
    numbers = _numbers()
    lines = [
        " | ".join(["| What is observed", "expected", *(f"`{target}`" for target in TARGETS)])
        + " |",
        "|---" * (2 + len(TARGETS)) + "|",
    ]
    for row in ROWS:
        cells = [
            _cell(
                row,
                target,
                seen.get(str(target), {}).get(row.name),
                numbers.get((row.name, target)),
            )
            for target in TARGETS
        ]
        lines.append(f"| {' | '.join([row.name, _text(row.expected), *cells])} |")
    lines += ["", "The differences:", ""]
    for row in ROWS:
        for difference in row.differences:
            target = difference.targets[0]
            lines.append(f"{numbers[row.name, target]}. {row.name}, `{target}`: {difference.why}")
    return "\n".join(lines) + "\n"
