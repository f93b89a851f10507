"""Registers of an arm64 KVM vCPU that its guest has used and that have no name here: no other engine knows them.

Of those that the kernel lists (KVM_GET_REG_LIST) they are the system registers with another value than a vCPU has at
its start.  Identification registers, which a guest cannot write, are left out, and so are counters, which advance.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from hfsched.errors import InternalError
from hfsched.vcpu.arm64_names import register_name
from hfsched.vcpu.registers import ARM64_SYSTEM

__all__ = ["beyond", "first_values"]

_HEADER = struct.Struct("<8sQ")  # as arm64_state.c saves them
_ENTRY = struct.Struct("<Q16s")
_GROUP, _SYSTEM = 0x0FFF_0000, 0x0013_0000  # KVM_REG_ARM_COPROC_MASK, KVM_REG_ARM64_SYSREG

_CNTP_CTL = (3, 3, 14, 2, 1)
_ENABLE = 1
_LEFT_OUT = {
    *ARM64_SYSTEM.values(),
    (3, 0, 4, 0, 0),  # SPSR_EL1, ELR_EL1 and the stack pointers have names of their own
    (3, 0, 4, 0, 1),
    (3, 0, 4, 1, 0),
    (3, 4, 4, 1, 0),
    # OSLSR_EL1, the lock of debug registers, which are not left out; MDCCINT_EL1, interrupts of an external debugger's
    # channel, which a guest has not.
    (2, 0, 1, 1, 4),
    (2, 0, 0, 2, 0),
}


def beyond(saved: bytes, first: Mapping[int, bytes]) -> tuple[str, ...]:
    """Return the names of such registers in what `hfs_save` returned, compared with `first_values`, by their numbers."""
    return tuple(_used(saved, first))


def _used(saved: bytes, first: Mapping[int, bytes]) -> Iterator[str]:
    for number, value in sorted(_registers(saved)):
        key = _key(number)
        if number & _GROUP != _SYSTEM or key in _LEFT_OUT or not any(value):
            continue
        op0, op1, crn, _, _ = key
        if (op0, crn) == (3, 0):
            continue  # it identifies the CPU
        if (op1, crn) == (3, 14):
            # The timer of the virtual counter has names; the other one matters while it is on.
            if key == _CNTP_CTL and value[0] & _ENABLE:
                yield register_name(key)
        elif first.get(number) != value:
            yield register_name(key)


def _registers(saved: bytes) -> Iterator[tuple[int, bytes]]:
    _, count = _HEADER.unpack_from(saved)
    for index in range(count):
        yield _ENTRY.unpack_from(saved, _HEADER.size + index * _ENTRY.size)


def _key(number: int) -> tuple[int, int, int, int, int]:
    """Return {op0, op1, CRn, CRm, op2} of KVM's number of a system register."""
    return number >> 14 & 3, number >> 11 & 7, number >> 7 & 15, number >> 3 & 15, number & 7


@cache
def first_values(core: Any, kvm: int, run_size: int) -> Mapping[int, bytes]:
    """Return what a vCPU's registers are at its start, by KVM's numbers: those of one that is made for this.

    Raises InternalError where none can be made.
    """
    lib = core.lib
    vm = lib.hfs_ioctl(kvm, lib.KVM_CREATE_VM, 0)
    if vm < 0:
        raise InternalError(f"engine kvm: a VM to compare with: {os.strerror(-vm)}")
    cpu = core.ffi.gc(core.ffi.new("struct hfs_cpu *"), lib.hfs_free)
    try:
        size = lib.hfs_saved_size()
        out = core.ffi.new("uint8_t[]", size)
        error = lib.hfs_open(cpu, kvm, vm, 0, run_size)
        if not error:
            error = lib.hfs_save(cpu, out, size)
            lib.hfs_close(cpu)
        if error:
            raise InternalError(f"engine kvm: a vCPU to compare with: {os.strerror(-error)}")
        return dict(_registers(bytes(core.ffi.buffer(out))))
    finally:
        os.close(vm)
