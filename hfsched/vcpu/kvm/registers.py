"""Registers by name, through the C core: all are read at once, and those that are given written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.registers import ARM64, Registers, decode, encode, split_sp, stack_pointer

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["RegisterFile"]

_ISTATUS = 4  # of CNTV_CTL_EL0: read-only, and it follows the counter


class RegisterFile:
    """The registers of one vCPU; call from its owner, outside `enter`."""

    def __init__(self, core: Any, cpu: Any) -> None:
        self._lib, self._cpu = core.lib, cpu
        self._index: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        while (entry := core.lib.hfs_register(len(self._index))) != core.ffi.NULL:
            name = core.ffi.string(entry.name).decode()
            self._index[name], self._sizes[name] = len(self._index), entry.size
        self._arm64 = "pstate" in self._index
        self._slot = core.lib.HFS_REGISTER_SLOT
        self._values = bytearray(len(self._index) * self._slot)
        self._mask = bytearray(len(self._index))
        self._value_pointer = core.ffi.from_buffer("uint8_t[]", self._values)
        self._mask_pointer = core.ffi.from_buffer("uint8_t[]", self._mask)

    def read(self) -> Registers:
        """Return all registers that the CPU has."""
        error = self._lib.hfs_get_registers(self._cpu, self._value_pointer, self._mask_pointer)
        if error:
            raise InternalError(f"engine kvm: the registers: {os.strerror(-error)}")
        found: Registers = {}
        for name, index in self._index.items():
            if self._mask[index]:
                start = index * self._slot
                found[name] = decode(self._values[start : start + self._sizes[name]])
        if self._arm64:
            pstate = found["pstate"]
            assert isinstance(pstate, int)
            found["sp"] = found[stack_pointer(pstate)]
            control = found["cntv_ctl_el0"]
            assert isinstance(control, int)
            found["cntv_ctl_el0"] = control & ~_ISTATUS
        return found

    def write(self, values: Mapping[str, int | bytes]) -> None:
        """Write registers; raises UserError for an unknown name or a value that is refused."""
        stored = encode(values, ARM64 if self._arm64 else self._sizes)
        if "sp" in stored:
            pstate = values.get("pstate", self.read()["pstate"])
            assert isinstance(pstate, int)
            stored = split_sp(stored, pstate)
        self._mask[:] = bytes(len(self._mask))
        for name, raw in stored.items():
            index = self._index[name]
            self._mask[index] = 1
            start = index * self._slot
            self._values[start : start + self._slot] = raw.ljust(self._slot, b"\0")
        error = self._lib.hfs_set_registers(self._cpu, self._value_pointer, self._mask_pointer)
        if error:
            raise UserError(f"engine kvm: {', '.join(stored)}: {os.strerror(-error)}")
