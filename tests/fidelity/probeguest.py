"""What `guests/probe` does, as a guest of the engine `script`: the rows that this engine has."""

from __future__ import annotations

from collections.abc import Generator

from probescript import Answer, Kind, Regs, Row, Scenario, State

from hfsched.abi.ffa import INVALID_INTID, HfId, PsciId
from hfsched.vcpu.script import Abort, Action, Cpu, Guest, Hvc, Load, Smc, Step, Store

# No instructions, no registers but those of a call, and nothing is executed from memory.
MISSING = frozenset({Kind.EXECUTE, Kind.INSTRUCTION, Kind.ENTRY})


def _regs(*words: int) -> Regs:
    return words + (0,) * (8 - len(words))


class ScriptedGuest:
    """One VM; what comes of its rows goes into the list that it is given."""

    def __init__(self, vm: int, scenario: Scenario, came: list[Answer]) -> None:
        self._scenario = scenario
        self._rows = scenario.of(vm)
        self._came = came
        self._taken: list[int] = []
        self._begun: set[int] = set()

    def program(self, cpu: Cpu) -> Guest:
        """Do the rows of a vCPU, then turn it off."""
        cpu.handler = self._interrupt
        for index in self._rows.get(cpu.index, []):
            row = self._scenario.rows[index]
            if row.kind in MISSING or index in self._begun:
                continue
            self._begun.add(index)
            try:
                regs = yield from self._do(cpu, row)
            except Abort as abort:
                self._came[index] = Answer(State.FAULT, _regs(0, abort.address))
            else:
                self._came[index] = Answer(State.DONE, regs)
        while True:
            yield Smc(PsciId.CPU_OFF)

    def _interrupt(self, _: Cpu) -> Guest:
        (intid, *_rest) = yield Hvc(HfId.INTERRUPT_GET)
        if intid != INVALID_INTID:
            self._taken.append(intid)

    def _do(self, cpu: Cpu, row: Row) -> Generator[Action, tuple[int, ...], Regs]:
        x = row.regs
        match row.kind:
            case Kind.HVC:
                return (yield Hvc(*x))
            case Kind.SMC:
                return (yield Smc(*x))
            case Kind.LOAD:
                words: list[int] = []
                for offset in range(0, 64, 8):
                    words += yield Load(x[0] + offset)
                return (*words,)
            case Kind.STORE:
                yield Store(x[0], x[1], 4)
                for index in range(x[2]):
                    yield Store(x[0] + 8 * index, x[1] + index)
                return x
            case Kind.WORDS:
                for index in range(7):
                    yield Store(x[0] + 8 * index, x[1 + index])
                return x
            case Kind.INTERRUPTS:
                self._taken = []
                cpu.masked = False
                yield Step()
                cpu.masked = True
                return _regs(len(self._taken), *self._taken[:7])
            case Kind.START:
                entry = cpu.address_of(self.program)
                (result, *_rest) = yield Smc(PsciId.CPU_ON | 1 << 30, x[0], entry, x[0])
                return _regs(result & 0xFFFF_FFFF)
            case _:
                raise AssertionError(row)
