"""A CPU's state by register names: what a machine saved on one engine is restored from on another.

Each engine has a record of its own too (`Vcpu.save`), which has more in it and is used on the same engine.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hfsched.errors import UserError
from hfsched.text import one_line
from hfsched.vcpu.registers import ARM64, Registers

__all__ = [
    "OPTIONAL",
    "PORTABLE",
    "PORTABLE_REGISTERS",
    "VERSION",
    "PortableCpu",
    "PortableVm",
    "checked",
    "missing_here",
    "portable_of",
]

VERSION = 1

# `sp` is one of the others.
PORTABLE_REGISTERS: dict[str, int] = {name: size for name, size in ARM64.items() if name != "sp"}
"""The registers of a portable record, with their sizes in bytes."""

PORTABLE: Mapping[str, Mapping[str, int]] = {"aarch64": PORTABLE_REGISTERS}
"""By architecture: those that more than one engine runs."""

OPTIONAL = frozenset(name for name in ARM64 if name.startswith("ap") and "key" in name)
"""Pointer authentication keys: 0 on a CPU without them."""

_SHOWN = 8  # names in a message
# NZCV, DIT, UAO, PAN, SS, IL, SSBS, BTYPE, DAIF and the mode: what both engines' CPUs may have (Arm ARM C5.2).
_PSTATE = 0xF << 28 | 1 << 24 | 3 << 22 | 3 << 20 | 7 << 10 | 0xF << 6 | 0xF
_MODES = {0: "EL0t", 4: "EL1t", 5: "EL1h"}
_CSSELR = 0xF  # Level and InD; a CPU uses it as an index


class PortableCpu(msgspec.Struct, frozen=True):
    """One CPU: each of `PORTABLE_REGISTERS` that it has, the timer's in the counter's units.

    `beyond` names registers that it has used and no other engine knows.
    """

    registers: dict[str, int | bytes]
    beyond: tuple[str, ...] = ()


class PortableVm(msgspec.Struct, frozen=True, kw_only=True):
    """The CPUs of a VM, None for one whose thread had ended, and what the guests' counter showed.

    `counter` is in its own units, of which there are `counter_hz` a second.
    """

    version: int = VERSION
    counter_hz: int
    counter: int
    cpus: tuple[PortableCpu | None, ...]


def portable_of(registers: Registers, beyond: tuple[str, ...] = ()) -> PortableCpu:
    """Return the record of a CPU whose `Vcpu.registers` these are."""
    found = {name: value for name, value in registers.items() if name in PORTABLE_REGISTERS}
    return PortableCpu(found, beyond)


def checked(state: PortableCpu) -> Registers:
    """Return the registers of a record that may come from anybody, complete: `OPTIONAL` ones are 0.

    Raises UserError, which names the register, for a record of what no other engine knows, and for values that
    no guest at EL0 or EL1 can have.
    """
    if state.beyond:
        raise UserError(f"it uses what no other engine has: {_names(state.beyond)}")
    unknown = [name for name in state.registers if name not in PORTABLE_REGISTERS]
    if unknown:
        raise UserError(f"unknown registers: {_names(unknown)}")
    missing = [
        name for name in PORTABLE_REGISTERS if name not in state.registers and name not in OPTIONAL
    ]
    if missing:
        raise UserError(f"registers are missing: {_names(missing)}")
    found: Registers = {}
    for name, size in PORTABLE_REGISTERS.items():
        value = state.registers.get(name, 0)
        found[name] = value
        if isinstance(value, bytes):
            if size <= 8 or len(value) != size:
                raise UserError(f"register {name}: {len(value)} bytes: it has {8 * size} bits")
        elif size > 8 or not 0 <= value < 1 << 8 * size:
            raise UserError(f"register {name}: {value:#x}: it has {8 * size} bits")
    pstate, selected = found["pstate"], found["csselr_el1"]
    assert isinstance(pstate, int)
    assert isinstance(selected, int)
    _check_pstate(pstate)
    if selected & ~_CSSELR:
        raise UserError(f"register csselr_el1: {selected:#x}: no cache has this number")
    return found


def missing_here(registers: Registers, known: frozenset[str]) -> list[str]:
    """Return which registers a CPU that has only the `known` ones cannot take over, for they are not 0."""
    return [name for name, value in registers.items() if value and name not in known]


def _check_pstate(value: int) -> None:
    if value & 0x1F not in _MODES:
        raise UserError(f"register pstate: {value:#x}: not of EL0 or EL1 in AArch64 state")
    if value & ~_PSTATE:
        raise UserError(f"register pstate: {value:#x}: unknown bits {value & ~_PSTATE:#x}")


def _names(names: tuple[str, ...] | list[str]) -> str:
    """Return names from anybody, the first of them."""
    shown = ", ".join(one_line(name, 40) for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"
