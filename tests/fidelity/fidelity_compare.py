"""An engine's answers beside Hafnium's: what differs and is not listed, what is listed and does not differ."""

from __future__ import annotations

import re
from collections.abc import Sequence

from differences import ARM64, DIFFERENCES, SCRIPT, UNICORN
from probescript import Answer, Kind, Row, Scenario, State

_ABORTS = (0x20, 0x21, 0x24, 0x25)  # classes of exceptions that set FAR


def shared(target: str, scenario: Scenario, row: Row) -> bool:
    """Whether an engine has such a row at all."""
    if scenario.waits and target != UNICORN:
        return False
    if target in ARM64:
        return True
    missing = {Kind.INSTRUCTION, Kind.ENTRY} | ({Kind.EXECUTE} if target == SCRIPT else set())
    return row.kind not in missing


def text(target: str, row: Row, answer: Answer) -> str:
    """Write an answer as far as it means something: a syndrome is arm64's, an address an abort's."""
    if answer.state is State.FAULT:
        syndrome, address, *rest = answer.regs
        if target not in ARM64:
            syndrome = 0
        elif syndrome >> 26 not in _ABORTS:
            address = 0
        answer = Answer(State.FAULT, (syndrome, address, *rest))
    return answer.text(row)


def compare(
    target: str, scenario: Scenario, recorded: Sequence[Answer], came: Sequence[Answer]
) -> list[str]:
    """Return what is wrong, in lines: a difference that is not listed, or a listed one that is none."""
    wrong = []
    rules = [d for d in DIFFERENCES if d.concerns(target, scenario)]
    for row, theirs, ours in zip(scenario.rows, recorded, came, strict=True):
        if not shared(target, scenario, row):
            continue
        named = [d for d in rules if d.names(str(row), theirs.text(row))]
        if text(target, row, theirs) != text(target, row, ours):
            here = text(target, row, ours)
            if not any(re.fullmatch(d.ours, here) for d in named):
                there = text(target, row, theirs)
                wrong.append(f"{scenario.name}: {row}: Hafnium {there}, here {here}")
            continue
        wrong += [
            f"{scenario.name}: {row}: {theirs.text(row)}: equal, but listed: {d.why}"
            for d in named
            if not d.varies
        ]
    return wrong
