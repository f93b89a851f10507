"""The script of `guests/probe`: rows, the table in an image, what came of them, and all that as text.

A *scenario* is a machine (secondaries from VM 2, so many vCPUs each) and rows, in the order in which
they are meant to be done; each is done by one vCPU, `1.0` being the primary's.  An *answer* is what
came of a row.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

PRIMARY = 1
FIRST = 2
SCRIPT = 0x4_0000  # of guests/probe/probe.h, as all the numbers of this file
MAGIC = 0x7472_6970_6373_66B1
VCPUS = 8
_HEAD = struct.Struct("<Q16I")
_ROW = struct.Struct("<II8Q")

_BEGUN = 4  # not over, which is no answer either

SIZE = 1 << 20  # bytes of each secondary, which Hafnium places from the end of memory down
END = 0x8000_0000
PRIMARY_BASE = 0x4028_0000  # where Hafnium puts the primary's image
# What rows may use, from the start of a VM's memory; what is below the first is the image's.
TX, RX, SPARE = 0x8_0000, 0x8_1000, 0x8_2000

Regs: TypeAlias = tuple[int, ...]
Who: TypeAlias = tuple[int, int]  # {VM, vCPU}


class Kind(IntEnum):
    """What a row does; `guests/probe/probe.h` says what its registers are."""

    HVC = 0
    SMC = 1
    LOAD = 2
    STORE = 3
    EXECUTE = 4
    INSTRUCTION = 5
    INTERRUPTS = 6
    START = 7
    ENTRY = 8
    WORDS = 9


class State(IntEnum):
    """What became of a row."""

    PENDING = 0
    DONE = 1
    FAULT = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Row:
    """One row, of one vCPU."""

    who: Who
    kind: Kind
    regs: Regs

    def __str__(self) -> str:
        vm, vcpu = self.who
        return f"{vm}.{vcpu} {self.kind.name.lower()} {_words(self.regs)}".rstrip()


@dataclass(frozen=True)
class Answer:
    """What came of a row: x0..x7, or the syndrome and the address of a fault."""

    state: State
    regs: Regs

    def text(self, row: Row) -> str:
        """Write it; `kept` stands for x1..x7 that are as they were, trailing zeros are left out."""
        if self.state is State.PENDING:
            return "pending"
        prefix = "" if self.state is State.DONE else f"{self.state.name.lower()} "
        if self.state is State.DONE and any(row.regs[1:]) and self.regs[1:] == row.regs[1:]:
            return f"{self.regs[0]:x} kept"
        return prefix + (_words(self.regs) or "0")


PENDING = Answer(State.PENDING, (0,) * 8)


@dataclass(frozen=True)
class Scenario:
    """A machine of secondaries with so many vCPUs each, and its rows."""

    name: str
    vcpus: tuple[int, ...] = (1,)
    rows: list[Row] = field(default_factory=list)
    waits: bool = False  # in a WFI, which never ends inside arm64's KVM

    def row(self, who: Who | int, kind: Kind, *regs: int) -> None:
        """Add a row; `who` may be a VM alone, for its first vCPU."""
        whose = (who, 0) if isinstance(who, int) else who
        self.rows.append(Row(whose, kind, regs + (0,) * (8 - len(regs))))

    def hvc(self, who: Who | int, *regs: int) -> None:
        """Add a hypercall by HVC."""
        self.row(who, Kind.HVC, *regs)

    def smc(self, who: Who | int, *regs: int) -> None:
        """Add a hypercall by SMC."""
        self.row(who, Kind.SMC, *regs)

    def of(self, vm: int) -> dict[int, list[int]]:
        """Return the indices of a VM's rows, by vCPU."""
        found: dict[int, list[int]] = {}
        for index, row in enumerate(self.rows):
            if row.who[0] == vm:
                found.setdefault(row.who[1], []).append(index)
        return found


def base_of(vm: int) -> int:
    """Return where a VM's memory begins; the primary's: its image."""
    return PRIMARY_BASE if vm == PRIMARY else END - (vm - FIRST + 1) * SIZE


def table(scenario: Scenario, vm: int) -> bytes:
    """Return the table of a VM's rows, as its image wants it."""
    by_vcpu = scenario.of(vm)
    head: list[int] = []
    rows = b""
    for vcpu in range(VCPUS):
        indices = by_vcpu.get(vcpu, [])
        head += [len(rows) // _ROW.size, len(indices)]
        for index in indices:
            row = scenario.rows[index]
            rows += _ROW.pack(row.kind, State.PENDING, *row.regs)
    made = _HEAD.pack(MAGIC, *head) + rows
    assert SCRIPT + len(made) <= TX, f"{scenario.name}: too many rows of VM {vm}"
    return made


def table_size(scenario: Scenario, vm: int) -> int:
    """Return the bytes that the table takes."""
    return _HEAD.size + _ROW.size * sum(len(rows) for rows in scenario.of(vm).values())


def answers(scenario: Scenario, tables: Mapping[int, bytes]) -> list[Answer]:
    """Return what came of each row, from the tables that the VMs left behind."""
    found = [PENDING] * len(scenario.rows)
    for vm, data in tables.items():
        head = _HEAD.unpack_from(data)
        for vcpu, indices in scenario.of(vm).items():
            first = head[1 + 2 * vcpu]
            for place, index in enumerate(indices):
                _, state, *regs = _ROW.unpack_from(data, _HEAD.size + (first + place) * _ROW.size)
                if state not in (State.PENDING, _BEGUN):
                    found[index] = Answer(State(state), tuple(regs))
    return found


# As text.


def _words(regs: Sequence[int]) -> str:
    kept = [*regs]
    while kept and not kept[-1]:
        kept.pop()
    return " ".join(f"{word:x}" for word in kept)


Recorded: TypeAlias = dict[str, list[tuple[str, str]]]


def written(scenarios: Iterable[tuple[Scenario, Sequence[Answer]]]) -> Iterator[str]:
    """Write scenarios with their answers, in lines."""
    for scenario, came in scenarios:
        yield f"[{scenario.name}] {' '.join(map(str, scenario.vcpus))}"
        for row, answer in zip(scenario.rows, came, strict=True):
            yield f"{row} -> {answer.text(row)}"


def read(text: str) -> Recorded:
    """Read what `written` wrote: {row, answer} in words, by scenario."""
    found: Recorded = {}
    rows: list[tuple[str, str]] = []
    for line in text.splitlines():
        if line.startswith("["):
            rows = found.setdefault(line[1:].partition("]")[0], [])
        elif line and not line.startswith("#"):
            row, _, answer = line.partition(" -> ")
            rows.append((row, answer))
    return found


def parsed(row: Row, text: str) -> Answer:
    """Read what `Answer.text` wrote of a row."""
    words = text.split()
    state = State.DONE
    if words[0].upper() in State.__members__:
        state = State[words.pop(0).upper()]
    if words[1:] == ["kept"]:
        return Answer(state, (int(words[0], 16), *row.regs[1:]))
    regs = (*(int(word, 16) for word in words),)
    return Answer(state, regs + (0,) * (8 - len(regs)))
