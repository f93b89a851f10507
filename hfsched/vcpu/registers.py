"""Registers by architectural name, as every engine reads and writes them.

A value is an unsigned integer, or for registers of more than 8 bytes (SIMD, x87) the bytes as the
CPU stores them: little-endian.  The tables give the size of each register in bytes, in the order of
the architecture's manual.  Engines leave out what their CPU has not (pointer authentication keys).

arm64: `sp` is the stack pointer in use, `sp_el0` or `sp_el1` by `pstate`.  Counters are no registers
here; `cntv_cval_el0` is in the units of the engine's counter, and `cntv_ctl_el0`
is without ISTATUS, which follows from it.  x86-64: a segment register is its
selector.  Script guests have x0 to x17, and `pc`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from hfsched.errors import UserError

__all__ = [
    "ARGUMENTS",
    "ARM64",
    "ARM64_ARGUMENTS",
    "ARM64_SYSTEM",
    "SCRIPT",
    "X86_64",
    "Registers",
    "decode",
    "encode",
    "split_sp",
    "stack_pointer",
]

Registers: TypeAlias = dict[str, int | bytes]

ARGUMENTS = 8
"""Argument registers that every engine has, and reads at each hypercall: x0 to x7."""

ARM64_ARGUMENTS = 18
"""Argument registers of arm64 and of script guests: x0 to x17 (SMCCC 1.2)."""

# By (op0, op1, CRn, CRm, op2): Arm ARM D17.2.
ARM64_SYSTEM: dict[str, tuple[int, int, int, int, int]] = {
    "sctlr_el1": (3, 0, 1, 0, 0),
    "cpacr_el1": (3, 0, 1, 0, 2),
    "ttbr0_el1": (3, 0, 2, 0, 0),
    "ttbr1_el1": (3, 0, 2, 0, 1),
    "tcr_el1": (3, 0, 2, 0, 2),
    **{
        f"ap{key}key{half}_el1": (3, 0, 2, 1 + number // 4, number % 4)
        for number, (key, half) in enumerate(
            (key, half) for key in ("ia", "ib", "da", "db", "ga") for half in ("lo", "hi")
        )
    },
    "esr_el1": (3, 0, 5, 2, 0),
    "far_el1": (3, 0, 6, 0, 0),
    "par_el1": (3, 0, 7, 4, 0),
    "mair_el1": (3, 0, 10, 2, 0),
    "amair_el1": (3, 0, 10, 3, 0),
    "vbar_el1": (3, 0, 12, 0, 0),
    "contextidr_el1": (3, 0, 13, 0, 1),
    "tpidr_el1": (3, 0, 13, 0, 4),
    "cntkctl_el1": (3, 0, 14, 1, 0),
    "csselr_el1": (3, 2, 0, 0, 0),
    "tpidr_el0": (3, 3, 13, 0, 2),
    "tpidrro_el0": (3, 3, 13, 0, 3),
}

ARM64: dict[str, int] = {
    **{f"x{number}": 8 for number in range(31)},
    **dict.fromkeys(("sp", "pc", "pstate"), 8),
    **{f"v{number}": 16 for number in range(32)},
    "fpsr": 4,
    "fpcr": 4,
    **dict.fromkeys(("sp_el0", "sp_el1", "elr_el1", "spsr_el1"), 8),
    **dict.fromkeys(ARM64_SYSTEM, 8),
    **dict.fromkeys(("cntv_ctl_el0", "cntv_cval_el0"), 8),
}

X86_64: dict[str, int] = {
    **dict.fromkeys(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"), 8),
    **{f"r{number}": 8 for number in range(8, 16)},
    **dict.fromkeys(("rip", "rflags"), 8),
    **dict.fromkeys(("cs", "ss", "ds", "es", "fs", "gs"), 2),
    **dict.fromkeys(("fs_base", "gs_base"), 8),
    **{f"st{number}": 10 for number in range(8)},
    "fctrl": 2,
    "fstat": 2,
    "ftag": 1,
    "fop": 2,
    "fip": 8,
    "fdp": 8,
    **{f"xmm{number}": 16 for number in range(16)},
    "mxcsr": 4,
    **dict.fromkeys(("cr0", "cr2", "cr3", "cr4", "cr8", "efer"), 8),
    "gdtr_base": 8,
    "gdtr_limit": 2,
    "idtr_base": 8,
    "idtr_limit": 2,
    **dict.fromkeys(("kernel_gs_base", "star", "lstar", "cstar", "sfmask"), 8),
    **dict.fromkeys(("sysenter_cs", "sysenter_esp", "sysenter_eip"), 8),
}

SCRIPT: dict[str, int] = {**{f"x{number}": 8 for number in range(ARM64_ARGUMENTS)}, "pc": 8}

_EL1H = 5  # PSTATE.M of EL1 with its own stack pointer


def decode(raw: bytes | bytearray) -> int | bytes:
    """Return the value of a register that is stored as `raw`, as many bytes as its size."""
    return bytes(raw) if len(raw) > 8 else int.from_bytes(raw, "little")


def encode(values: Mapping[str, int | bytes], sizes: Mapping[str, int]) -> dict[str, bytes]:
    """Return values as they are stored.

    Raises UserError for a name that is not in `sizes`, and for a value that does not fit it.
    """
    stored = {}
    for name, value in values.items():
        size = sizes.get(name)
        if size is None:
            raise UserError(f"no register {name!r}")
        if size > 8:
            if not isinstance(value, bytes) or len(value) != size:
                raise UserError(f"register {name}: {size} bytes, not {value!r}")
            stored[name] = value
        elif isinstance(value, bytes) or not 0 <= value < 1 << 8 * size:
            shown = repr(value) if isinstance(value, bytes) else f"{value:#x}"
            raise UserError(f"register {name}: an unsigned number of {8 * size} bits, not {shown}")
        else:
            stored[name] = value.to_bytes(size, "little")
    return stored


def stack_pointer(pstate: int) -> str:
    """Return which register `sp` is on arm64."""
    return "sp_el1" if pstate & 0xF == _EL1H else "sp_el0"


def split_sp(stored: dict[str, bytes], pstate: int) -> dict[str, bytes]:
    """Return arm64 values with `sp` as the register that it is under `pstate`.

    Raises UserError where both are given and differ.
    """
    if "sp" not in stored:
        return stored
    name = stack_pointer(pstate)
    rest = {key: value for key, value in stored.items() if key != "sp"}
    if rest.setdefault(name, stored["sp"]) != stored["sp"]:
        raise UserError(f"register sp: it is {name} here, and both are given")
    return rest
