"""Why a guest under KVM cannot run on, in words.

Sources: KVM_EXIT_* of Linux, include/uapi/linux/kvm.h; Intel SDM volume 3, 6.15 (vectors) and 4.7 (the
error code of a page fault).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hfsched.vcpu.arm64_names import instruction_text

__all__ = ["Describer"]

_TRIPLE_FAULT = 8
_REASONS = {
    0: "the CPU cannot be run",
    9: "the CPU could not be entered",
    17: "KVM cannot emulate the instruction",
    24: "the kernel ended the machine",
}

_PAGE_FAULT = 14
_VECTORS = {
    0: "division error",
    1: "debug exception",
    3: "breakpoint",
    4: "overflow",
    5: "bound range exceeded",
    6: "undefined instruction",
    7: "no floating-point unit",
    8: "double fault",
    10: "invalid task state segment",
    11: "segment not present",
    12: "stack fault",
    13: "general protection fault",
    _PAGE_FAULT: "page fault",
    16: "floating-point exception",
    17: "misaligned access",
    18: "machine check",
    19: "SIMD floating-point exception",
}
_SHOWN = 8  # bytes of an x86 instruction, whose length is unknown here


class Describer:
    """Describes one CPU outside `enter`.

    `load(address, size)` returns so much guest-physical memory, or less where there is none.
    """

    def __init__(
        self, core: Any, cpu: Any, load: Callable[[int, int], bytes], *, arm64: bool
    ) -> None:
        self._core, self._cpu, self._load, self._arm64 = core, cpu, load, arm64

    def failure(self) -> str:
        """Describe the exit HFS_FAILED that the CPU has just had."""
        said = self._cpu.exit
        place = self.place(said.address)
        if said.reason == _TRIPLE_FAULT:
            what = _exception(self._core, self._cpu, self._code(said.address))
            return f"unhandled {what}, {place}; no handler can be entered (a triple fault)"
        if said.reason == self._core.lib.HFS_REASON_ERRNO:
            why = os.strerror(said.detail)
        else:
            why = _REASONS.get(said.reason, f"exit {said.reason}")
            if said.detail:
                why += f" ({said.detail:#x})"
        return f"engine kvm: {why}, {place}"

    def place(self, address: int) -> str:
        """Return a virtual address of an instruction, and the instruction where it can be read."""
        code = self._code(address)
        if not self._arm64:
            return f"rip {address:#x}" + (f", instruction bytes {code.hex(' ')}" if code else "")
        text = f"pc {address:#x}"
        if len(code) >= 4:
            text += f", instruction {instruction_text(int.from_bytes(code[:4], 'little'))}"
        return text

    def _code(self, address: int) -> bytes:
        physical = self._core.ffi.new("uint64_t *")
        if self._core.lib.hfs_translate(self._cpu, address, physical):
            return b""
        return self._load(physical[0], _SHOWN)


def _exception(core: Any, cpu: Any, code: bytes) -> str:
    """Name the exception that began a triple fault: the last that KVM has queued.

    KVM may have seen none of those that the CPU delivers by itself.
    """
    found = core.ffi.new("struct hfs_exception *")
    if core.lib.hfs_last_exception(cpu, found):
        return "exception"
    name = _VECTORS.get(found.vector, f"exception {found.vector}")
    if found.vector == _PAGE_FAULT:
        access = "fetch" if found.error & 1 << 4 else "write" if found.error & 1 << 1 else "read"
        return f"{name} ({access}) at {found.address:#x}"
    if not found.vector and not _divides(code):  # 0 is also what KVM says if it queued none
        return "exception"
    return name


def _divides(code: bytes) -> bool:
    """Return whether x86 code begins with DIV or IDIV."""
    code = code.lstrip(bytes((0x66, 0x67, *range(0x40, 0x50))))  # prefixes
    return len(code) > 1 and code[0] in (0xF6, 0xF7) and code[1] >> 3 & 7 in (6, 7)
