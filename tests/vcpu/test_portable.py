"""A portable record from anybody: complete and within what a guest can have, or refused by the register's name."""

from __future__ import annotations

import msgspec
import pytest

from hfsched.errors import UserError
from hfsched.vcpu.portable import (
    OPTIONAL,
    PORTABLE_REGISTERS,
    PortableCpu,
    checked,
    missing_here,
    portable_of,
)
from hfsched.vcpu.registers import ARM64, Registers

FIRST: Registers = {
    **{name: 0 if size <= 8 else bytes(size) for name, size in ARM64.items()},
    "pstate": 0x3C5,
}


def state(**values: int | bytes) -> PortableCpu:
    return portable_of({**FIRST, **values})


def without(*names: str) -> PortableCpu:
    registers = state().registers
    return PortableCpu({name: registers[name] for name in registers if name not in names})


def test_all_registers_but_sp_go_over_and_through_an_encoding() -> None:
    made = state(sp=5, sp_el1=5, x3=(1 << 64) - 1, v31=bytes(range(16)), fpcr=1 << 22)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=PortableCpu)
    assert again == made
    found = checked(again)
    assert list(found) == list(PORTABLE_REGISTERS)
    assert found == {name: made.registers[name] for name in PORTABLE_REGISTERS}
    assert (found["sp_el1"], found["x3"], found["v31"]) == (5, (1 << 64) - 1, bytes(range(16)))


def test_a_cpu_without_pointer_authentication_has_no_keys() -> None:
    assert len(OPTIONAL) == 10
    found = checked(without(*OPTIONAL))
    assert {found[name] for name in OPTIONAL} == {0}
    known = frozenset(found) - OPTIONAL
    assert missing_here(found, known) == []
    assert missing_here({**found, "apiakeylo_el1": 1}, known) == ["apiakeylo_el1"]


@pytest.mark.parametrize("pstate", [0, 0x3C4, 0x3C5, 0xF000_0005, 0x0040_0005])
def test_every_state_of_el0_and_el1_is_taken(pstate: int) -> None:
    assert checked(state(pstate=pstate))["pstate"] == pstate


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (state(x0=1 << 64), "register x0: 0x10000000000000000: it has 64 bits"),
        (state(x0=-1), "register x0: -0x1: it has 64 bits"),
        (state(fpsr=1 << 32), "register fpsr: 0x100000000: it has 32 bits"),
        (state(x0=b"12345678"), "register x0: 8 bytes: it has 64 bits"),
        (state(v2=7), "register v2: 0x7: it has 128 bits"),
        (state(v2=bytes(10_000)), "register v2: 10000 bytes: it has 128 bits"),
        (without("x7", "v3"), "registers are missing: x7, v3"),
        (without(*(f"x{n}" for n in range(10))), "registers are missing: x0, x1, x2, x3, x4, x5, x6, x7 and 2 more"),
        (PortableCpu({**state().registers, "rax": 0}), "unknown registers: rax"),
        (PortableCpu({**state().registers, "sp": 0}), "unknown registers: sp"),
        (
            PortableCpu({**state().registers, "\x1b[2J" + "a" * 1000: 0}),
            r"unknown registers: \x1b[2Jaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...",
        ),
        (
            PortableCpu(state().registers, ("MDSCR_EL1", "CNTP_CTL_EL0")),
            "it uses what no other engine has: MDSCR_EL1, CNTP_CTL_EL0",
        ),
        (state(pstate=0x3C9), "register pstate: 0x3c9: not of EL0 or EL1 in AArch64 state"),
        (state(pstate=0x3CD), "register pstate: 0x3cd: not of EL0 or EL1 in AArch64 state"),
        (state(pstate=0x1D3), "register pstate: 0x1d3: not of EL0 or EL1 in AArch64 state"),
        (state(pstate=1 << 25 | 5), "register pstate: 0x2000005: unknown bits 0x2000000"),
        (state(csselr_el1=16), "register csselr_el1: 0x10: no cache has this number"),
    ],
)  # fmt: skip
def test_what_no_guest_can_have_is_refused_by_name(broken: PortableCpu, reason: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(broken)
    assert str(caught.value) == reason
