"""Registers by name, in a machine of Unicorn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.vcpu.registers import (
    ARM64,
    ARM64_SYSTEM,
    Registers,
    encode,
    split_sp,
    stack_pointer,
)
from hfsched.vcpu.unicorn.library import Reg
from hfsched.vcpu.unicorn.machine import Sys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hfsched.vcpu.unicorn.machine import Machine
    from hfsched.vcpu.unicorn.timer import VirtualTimer

__all__ = ["read", "write"]

# Those that Unicorn has under an id of its own; the other system registers go by their encoding.
_BY_ID = {
    "elr_el1": Reg.ELR_EL1,
    "esr_el1": Reg.ESR_EL1,
    "far_el1": Reg.FAR_EL1,
    "vbar_el1": Reg.VBAR_EL1,
    "fpcr": Reg.FPCR,
    "fpsr": Reg.FPSR,
}
_BY_ENCODING = {
    "spsr_el1": Sys.SPSR_EL1,
    **{name: key for name, key in ARM64_SYSTEM.items() if name not in _BY_ID},
}


def _stack_pointers(machine: Machine, pstate: int) -> dict[str, int]:
    """Return both; the banked copy of the one in use is stale."""
    pointers = {"sp_el0": machine.read(Reg.SP_EL0), "sp_el1": machine.read(Reg.SP_EL1)}
    pointers[stack_pointer(pstate)] = machine.x[31]
    return pointers


def read(machine: Machine, timer: VirtualTimer) -> Registers:
    """Return all registers of `hfsched.vcpu.registers.ARM64`."""
    pstate = machine.read(Reg.PSTATE)
    found: Registers = {
        **{f"x{number}": machine.x[number] for number in range(31)},
        "sp": machine.x[31],
        "pc": machine.pc[0],
        "pstate": pstate,
        **{f"v{number}": machine.read_vector(number) for number in range(32)},
        **_stack_pointers(machine, pstate),
        **{name: machine.read(number) for name, number in _BY_ID.items()},
        **{name: machine.read_system(key) for name, key in _BY_ENCODING.items()},
        "cntv_ctl_el0": timer.ctl,
        "cntv_cval_el0": timer.cval,
    }
    for name in ("fpcr", "fpsr"):
        found[name] = machine.read(_BY_ID[name]) & 0xFFFF_FFFF
    return {name: found[name] for name in ARM64}


def write(machine: Machine, timer: VirtualTimer, values: Mapping[str, int | bytes]) -> None:
    """Write registers; raises UserError for an unknown name or a value out of range.

    Translations of code and of addresses may depend on them: the caller discards both.
    """
    stored = encode(values, ARM64)
    before = machine.read(Reg.PSTATE)
    pointers = _stack_pointers(machine, before)
    pstate = int.from_bytes(stored.pop("pstate", before.to_bytes(8, "little")), "little")
    stored = split_sp(stored, pstate)
    numbers = {name: int.from_bytes(raw, "little") for name, raw in stored.items()}
    for name, number in numbers.items():
        if name in pointers:
            pointers[name] = number
        elif name == "pc":
            machine.pc[0] = number
        elif name in _BY_ID:
            machine.write(_BY_ID[name], number)
        elif name in _BY_ENCODING:
            machine.write_system(_BY_ENCODING[name], number)
        elif name.startswith("x"):
            machine.x[int(name[1:])] = number
        elif name.startswith("v"):
            machine.write_vector(int(name[1:]), stored[name])
    timer.set(numbers.get("cntv_ctl_el0", timer.ctl), numbers.get("cntv_cval_el0", timer.cval))
    machine.write(Reg.SP_EL0, pointers["sp_el0"])
    machine.write(Reg.SP_EL1, pointers["sp_el1"])
    machine.write(Reg.PSTATE, pstate)
    machine.x[31] = pointers[stack_pointer(pstate)]
    machine.apply_pstate()
