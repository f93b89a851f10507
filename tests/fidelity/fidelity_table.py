"""The table: what real Hafnium f0701679c0 answered, recorded once by `bench/fidelity.py`."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

from probescript import Answer, Recorded, Scenario, parsed, read, written

TABLE = Path(__file__).with_name("hafnium-f0701679c0.txt")
_HEAD = """\
# What TF-Hafnium/hafnium f0701679c0 answers, under QEMU's machine `virt` with a Cortex-A57.
# Written by bench/fidelity.py --record. A scenario begins with its name and the vCPUs of VM 2, VM 3, ...
# A row is: VM.vCPU, what it does, its registers -> the registers after it, hexadecimal, without trailing
# zeros; "kept" is x1 to x7 as they were.
"""


def write(scenarios: Iterable[tuple[Scenario, Sequence[Answer]]]) -> None:
    """Write the table anew."""
    TABLE.write_text(_HEAD + "\n".join(written(scenarios)) + "\n")


@functools.cache
def table() -> Recorded:
    """Read it."""
    return read(TABLE.read_text())


def recorded(scenario: Scenario) -> list[Answer]:
    """Return Hafnium's answers to a scenario, whose rows must be the recorded ones."""
    rows = table()[scenario.name]
    assert [row for row, _ in rows] == [str(row) for row in scenario.rows], (
        f"{scenario.name}: not as recorded: python bench/fidelity.py --record"
    )
    return [parsed(row, answer) for row, (_, answer) in zip(scenario.rows, rows, strict=True)]
