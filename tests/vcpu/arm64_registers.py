"""What registers by name are on an arm64 engine; its tests import these, and give `start`.

`start(*items)` returns a CPU at the first of these instructions, at EL1h with the MMU off.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias

import a64
import pytest

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.engine import Hypercall, Kicked, Vcpu
from hfsched.vcpu.registers import ARM64

__all__ = [
    "Start",
    "test_a_call_reads_and_writes_eighteen_registers",
    "test_a_guest_sees_what_was_written",
    "test_a_kick_tells_the_pc_of_a_guest_that_spins",
    "test_all_that_was_read_can_be_written",
    "test_floating_point_and_system_registers_are_seen",
    "test_it_continues_at_a_written_pc",
    "test_sp_is_the_one_in_use",
    "test_the_start_is_seen",
    "test_what_is_no_register_or_value_is_refused",
    "test_what_was_written_is_read",
]

Start: TypeAlias = Callable[..., Vcpu]
KEYS = {name for name in ARM64 if name.startswith("ap") and "key" in name}  # not on every CPU
V3 = bytes(range(1, 17))
# ldr and str of the vector register 3 at [x1]: q3.
LOAD_V3, STORE_V3 = 0x3DC00023, 0x3D800023
SP_TO_X5 = a64.mov_sp(5, 31)


def args(cpu: Vcpu) -> tuple[int, ...]:
    stop = cpu.enter()
    assert isinstance(stop, Hypercall), stop
    return stop.args


def test_the_start_is_seen(start: Start) -> None:
    cpu = start(a64.hvc())
    found = cpu.registers()
    assert set(ARM64) - KEYS <= set(found) <= set(ARM64)
    assert found["pc"] == cpu.program_counter()
    # Hafnium zeroes all but PSTATE (EL1h, all masked), the PC and x0.
    assert found["pstate"] == 0x3C5
    others = {name: value for name, value in found.items() if name not in ("pc", "pstate", "x0")}
    assert [name for name, value in others.items() if value not in (0, bytes(16))] == []


def test_what_was_written_is_read(start: Start) -> None:
    cpu = start(a64.hvc())
    wanted: dict[str, int | bytes] = {
        **{f"x{n}": (n + 1) << 56 | n for n in range(31)},
        **{f"v{n}": bytes([n]) * 16 for n in range(32)},
        "elr_el1": 0x1234_5678_9ABC_DEF0,
        "vbar_el1": 0x4000_0800,
        "tpidr_el0": 1 << 63 | 5,
        "spsr_el1": 0x3C5,
        "ttbr0_el1": 0x4000_3000,
        "far_el1": 77,
        "mair_el1": 0xFF,
        "sp_el0": 0x1000,
        "sp_el1": 0x2000,
        "fpcr": 1 << 22,
        "fpsr": 0x1F,
        "pstate": 1 << 31 | 0x3C5,
        "cntv_cval_el0": (1 << 64) - 2,
    }
    cpu.set_registers(wanted)
    found = cpu.registers()
    assert {name: found[name] for name in wanted} == wanted
    assert found["sp"] == 0x2000


def test_all_that_was_read_can_be_written(start: Start) -> None:
    cpu = start([*a64.mov(3, 0xABC), a64.hvc(), a64.hvc()])
    args(cpu)
    before = cpu.registers()
    cpu.set_registers(before)
    assert cpu.registers() == before
    assert args(cpu)[3] == 0xABC


def test_a_guest_sees_what_was_written(start: Start) -> None:
    cpu = start([SP_TO_X5, a64.mrs(6, a64.TPIDR), a64.movr(7, 29), a64.hvc()])
    cpu.set_registers({"x0": 11, "sp": 0x5000, "tpidr_el1": 22, "x29": 33})
    assert args(cpu) == (11, 0, 0, 0, 0, 0x5000, 22, 33)


def test_it_continues_at_a_written_pc(start: Start) -> None:
    cpu = start([*a64.mov(1, 1)[:1], a64.hvc(), *a64.mov(1, 2)[:1], a64.hvc()])
    base = cpu.program_counter()
    assert args(cpu)[1] == 1
    assert cpu.program_counter() == base + 8
    assert args(cpu)[1] == 2
    cpu.set_registers({"pc": base})
    assert args(cpu)[1] == 1


def test_floating_point_and_system_registers_are_seen(start: Start) -> None:
    words = [*a64.mov(2, 3 << 20), a64.msr(a64.sysreg(3, 0, 1, 0, 2), 2), a64.ISB]  # CPACR_EL1.FPEN
    cpu = start([*words, a64.hvc(), STORE_V3, LOAD_V3, a64.ldr(4, 1), a64.hvc()])
    base = cpu.program_counter()
    args(cpu)
    assert cpu.registers()["cpacr_el1"] == 3 << 20
    cpu.set_registers({"v3": V3, "x1": base + 0x800})
    assert args(cpu)[4] == int.from_bytes(V3[:8], "little")
    assert cpu.registers()["v3"] == V3


def test_sp_is_the_one_in_use(start: Start) -> None:
    cpu = start([SP_TO_X5, a64.hvc()])
    cpu.set_registers({"sp_el0": 0x1000, "sp_el1": 0x2000, "pstate": 0x3C4})
    found = cpu.registers()
    assert (found["sp"], found["sp_el0"], found["sp_el1"]) == (0x1000, 0x1000, 0x2000)
    with pytest.raises(UserError, match="sp_el0 here"):
        cpu.set_registers({"sp": 1, "sp_el0": 2})
    cpu.set_registers({"sp": 0x3000})
    assert args(cpu)[5] == 0x3000
    found = cpu.registers()
    assert (found["sp_el0"], found["sp_el1"]) == (0x3000, 0x2000)


@pytest.mark.parametrize(
    "values",
    [
        *({"x31": 0}, {"rax": 0}, {"x0": -1}, {"x0": 1 << 64}, {"fpcr": 1 << 32}),
        *({"v0": 0}, {"v0": b"short"}, {"x0": b"12345678"}),
    ],
)
def test_what_is_no_register_or_value_is_refused(
    start: Start, values: dict[str, int | bytes]
) -> None:
    cpu = start(a64.hvc())
    before = cpu.registers()
    with pytest.raises(UserError, match=f"register '?{next(iter(values))}"):
        cpu.set_registers({"x1": 5, **values})
    assert cpu.registers() == before


def test_a_kick_tells_the_pc_of_a_guest_that_spins(start: Start) -> None:
    cpu = start([a64.hvc(), "l:", a64.add(1, 1, 1), a64.b("l")])
    args(cpu)
    loop = cpu.program_counter()
    threading.Timer(0.05, cpu.kick).start()
    assert isinstance(cpu.enter(), Kicked)
    assert cpu.program_counter() in (loop, loop + 4)
    found = cpu.registers()
    assert found["pc"] == cpu.program_counter()
    assert int(found["x1"]) > 0


def test_a_call_reads_and_writes_eighteen_registers(start: Start) -> None:
    moves = [each for n in range(18) for each in a64.mov(n, (n + 1) << 56 | n)]
    cpu = start([*moves, a64.hvc(), a64.hvc()])
    first = args(cpu)
    wanted = tuple((n + 1) << 56 | n for n in range(18))
    assert first == wanted[:8]
    assert (cpu.arguments(18), cpu.arguments(8), cpu.arguments(0)) == (wanted, wanted[:8], ())
    cpu.reply([n << 48 for n in range(18)])
    args(cpu)
    assert cpu.arguments(18) == tuple(n << 48 for n in range(18))
    with pytest.raises(InternalError):
        cpu.arguments(19)
    with pytest.raises(InternalError):
        cpu.reply([0] * 19)
