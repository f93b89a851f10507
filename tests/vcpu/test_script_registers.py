"""Registers of script guests: x0 to x17, and pc."""

from __future__ import annotations

import pytest

from hfsched.errors import InternalError, UserError
from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Hypercall, Kicked, Permissions
from hfsched.vcpu.script import Cpu, Guest, Hvc, Program, ScriptEngine, Step

BASE = 0x8000_0000
WIDE = tuple(range(1, 19))


def start(program: Program, arg: int = 0) -> Cpu:
    space = ScriptEngine(ThreadRuntime()).space("vm", 1)
    space.map(BASE, Ram("vm", 4096), 0, 4096, Permissions.RWX)
    space.address_of(lambda _: iter(()))  # type: ignore[arg-type, return-value]  # the first address
    cpu = space.vcpu(0)
    cpu.reset(space.address_of(program), arg)
    return cpu


def calls(*actions: Hvc) -> tuple[Cpu, list[tuple[int, ...]]]:
    """Return a CPU that makes these calls, and what each got."""
    got: list[tuple[int, ...]] = []

    def guest(_: Cpu) -> Guest:
        for action in actions:
            answer = yield action
            got.append(answer)

    return start(guest), got


def test_a_call_of_eight_stays_one_of_eight() -> None:
    cpu, got = calls(Hvc(*WIDE[:8]), Hvc(1))
    assert cpu.enter() == Hypercall(Hvc.conduit, WIDE[:8])
    assert cpu.arguments(18) == (*WIDE[:8], *(0,) * 10)
    cpu.reply((9,))
    cpu.enter()
    assert got == [(9, *WIDE[1:8])]


def test_a_call_of_eighteen_is_read_on_demand_and_answered() -> None:
    cpu, got = calls(Hvc(*WIDE), Hvc(1))
    assert cpu.enter() == Hypercall(Hvc.conduit, WIDE[:8])
    assert (cpu.arguments(18), cpu.arguments(3)) == (WIDE, WIDE[:3])
    cpu.reply(tuple(range(100, 118)))
    cpu.enter()
    assert got == [tuple(range(100, 118))]


def test_an_answer_of_more_than_eight_gives_the_guest_eighteen() -> None:
    cpu, got = calls(Hvc(1), Hvc(2))
    cpu.enter()
    cpu.reply(tuple(range(9)))
    cpu.enter()
    assert got == [(*range(9), *(0,) * 9)]
    assert cpu.arguments(18) == (2, *(0,) * 17), "the next call sets all of its registers"


def test_there_are_no_more() -> None:
    cpu, _ = calls(Hvc(1))
    cpu.enter()
    with pytest.raises(InternalError):
        cpu.arguments(19)
    with pytest.raises(InternalError):
        cpu.reply((0,) * 19)
    with pytest.raises(TypeError):
        Hvc(*range(19))


def test_registers_are_read_and_written_by_name() -> None:
    cpu, got = calls(Hvc(5, 6), Hvc(1))
    assert cpu.registers() == {**{f"x{n}": 0 for n in range(18)}, "pc": BASE + 8}
    cpu.enter()
    assert (cpu.registers()["x0"], cpu.registers()["x1"]) == (5, 6)
    cpu.set_registers({"x1": 7, "x3": (1 << 64) - 1, "pc": BASE + 8})
    cpu.enter()
    assert got == [(5, 7, 0, (1 << 64) - 1, 0, 0, 0, 0)]
    cpu.set_registers({"x17": 8})
    assert cpu.registers()["x17"] == 8


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"x18": 0}, "no register 'x18'"),
        ({"sp": 0}, "no register 'sp'"),
        ({"x0": -1}, "register x0"),
        ({"x0": 1 << 64}, "register x0"),
        ({"pc": BASE}, "cannot set pc"),
    ],
)
def test_what_cannot_be_written(values: dict[str, int | bytes], reason: str) -> None:
    cpu, _ = calls(Hvc(1))
    cpu.enter()
    before = cpu.registers()
    with pytest.raises(UserError, match=reason):
        cpu.set_registers({"x1": 5, **values})
    assert cpu.registers() == before


def test_without_a_program_there_are_none_to_write() -> None:
    cpu, _ = calls()
    cpu.enter()  # it returns
    assert set(cpu.registers().values()) == {0}
    with pytest.raises(UserError, match="returned"):
        cpu.set_registers({"x0": 0})


def test_a_kick_tells_the_pc_of_a_guest_that_spins() -> None:
    def guest(cpu: Cpu) -> Guest:
        while True:
            yield Step()
            cpu.kick()

    cpu = start(guest)
    assert isinstance(cpu.enter(), Kicked)
    assert cpu.program_counter() == BASE + 8
