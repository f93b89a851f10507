"""What a portable record is on an arm64 engine; its tests import these, and give `pair`.

`pair(*items)` returns two CPUs of two machines with the same program, both at its first instruction at EL1h with the MMU
off; the second one's registers are none of a fresh CPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import a64
import msgspec
import pytest

from hfsched.errors import UserError
from hfsched.vcpu.engine import Hypercall, Space, Timer, Vcpu
from hfsched.vcpu.portable import PortableCpu
from hfsched.vcpu.registers import ARM64

__all__ = [
    "Pair",
    "test_a_computation_goes_on_from_the_portable_record",
    "test_a_pending_interrupt_is_taken_where_it_is_unmasked",
    "test_a_refused_record_is_named",
    "test_a_timer_goes_on_from_where_it_was",
    "test_every_register_goes_over",
]

Pair: TypeAlias = Callable[..., tuple[tuple[Space, Vcpu], tuple[Space, Vcpu]]]
TPIDR_EL0 = a64.sysreg(3, 3, 13, 0, 2)
STORE_V3, LOAD_V3 = 0x3D80_0023, 0x3DC0_0023  # of [x1]


def sent(cpu: Vcpu) -> PortableCpu:
    """Return a CPU's record as another process gets it."""
    made = cpu.portable()
    assert made is not None
    return msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=PortableCpu)


def args(cpu: Vcpu) -> tuple[int, ...]:
    stop = cpu.enter()
    assert isinstance(stop, Hypercall), stop
    return stop.args


def test_every_register_goes_over(pair: Pair) -> None:
    (_, first), (_, second) = pair(a64.hvc())
    wanted: dict[str, int | bytes] = {
        name: (7 * number + 1 if size <= 8 else bytes([number]) * size)
        for number, (name, size) in enumerate(ARM64.items())
        if name[0] in "xv" and name[1:].isdigit()
    }
    wanted |= dict.fromkeys(("elr_el1", "far_el1", "tpidr_el0", "tpidrro_el0", "tpidr_el1"), 0x5A5A)
    wanted |= {"sp_el0": 0x1000, "sp_el1": 0x2000, "pstate": 0x6000_03C4, "spsr_el1": 0x8000_03C5}
    wanted |= {"fpcr": 1 << 22, "fpsr": 1 << 27, "ttbr0_el1": 0x3000, "ttbr1_el1": 0x5000}
    wanted |= {"mair_el1": 0xFF04, "vbar_el1": 0x4000_0800, "cpacr_el1": 3 << 20}
    wanted |= {"esr_el1": 0x5600_0001, "cntkctl_el1": 3, "contextidr_el1": 9, "csselr_el1": 1}
    wanted |= {"cntv_ctl_el0": 3, "cntv_cval_el0": (1 << 64) - 2}
    first.set_registers(wanted)
    before = first.registers()
    state = sent(first)
    assert state.beyond == ()
    second.adopt(state)
    assert second.registers() == before
    assert {name: before[name] for name in wanted} == wanted
    assert sent(second) == state


def test_a_computation_goes_on_from_the_portable_record(pair: Pair) -> None:
    (_, first), (_, second) = pair(
        *a64.mov(1, 0), *a64.mov(2, 1), "l:",
        0x8B02_0023,  # add x3, x1, x2
        a64.movr(1, 2), a64.movr(2, 3), a64.msr(TPIDR_EL0, 3), a64.mrs(4, TPIDR_EL0), a64.hvc(),
        a64.b("l"),
    )  # fmt: skip
    for _ in range(25):
        args(first)
    second.adopt(sent(first))
    rest = [args(second) for _ in range(25)]
    assert rest == [args(first) for _ in range(25)]
    assert rest[-1][1] == 12586269025  # the 50th Fibonacci number


def test_a_timer_goes_on_from_where_it_was(pair: Pair) -> None:
    second_ns = 1_000_000_000
    (space, first), (other, second) = pair(
        a64.mrs(1, a64.CNTFRQ), a64.msr(a64.CNTV_TVAL, 1), *a64.mov(1, 1), a64.msr(a64.CNTV_CTL, 1),
        a64.hvc(), "l:", a64.b("l"),
    )  # fmt: skip
    args(first)
    space.freeze()
    left, state, ticks = first.timer_remaining(), sent(first), space.ticks()
    assert left is not None
    assert 0 < left <= second_ns
    other.freeze()
    other.set_counter_hz(space.counter_hz)
    other.set_ticks(ticks)
    second.adopt(state)
    after = second.timer_remaining()
    assert after is not None
    assert abs(left - after) <= 1 + second_ns // space.counter_hz
    assert other.ticks() == ticks
    other.set_back(-(left - second_ns // 100))  # a hundredth of a second is left
    other.thaw()
    space.thaw()
    assert second.enter() == Timer()


def test_a_pending_interrupt_is_taken_where_it_is_unmasked(pair: Pair) -> None:
    """The line is the hypervisor's, and stays as it is."""
    (_, first), (_, second) = pair(
        a64.hvc(), a64.IRQ_ON, a64.NOP, a64.hvc(1), a64.hvc(2), vectors=True
    )
    args(first)
    first.set_irq(True)
    second.set_irq(True)
    second.adopt(sent(first))
    assert args(second)[0] == args(first)[0] == 0x280


@pytest.mark.parametrize("name", ["x7", "pstate", "sctlr_el1", "v0"])
def test_a_refused_record_is_named(pair: Pair, name: str) -> None:
    (_, first), (_, second) = pair(a64.hvc())
    state = sent(first)
    rest = {key: value for key, value in state.registers.items() if key != name}
    for broken in (
        rest,
        {**rest, name: -1},
        {**rest, name: 1 << 63 if name == "pstate" else bytes(3)},
    ):
        with pytest.raises(UserError, match=rf"registers? (are missing: )?{name}\b"):
            second.adopt(PortableCpu(broken))
    second.adopt(state)
    args(second)
