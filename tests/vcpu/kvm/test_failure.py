"""Why a guest under KVM cannot run on, in words, on either architecture."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hfsched.vcpu.kvm.failure import Describer

PC = 0x4000_1000
ERRNO = 0xFFFF_FFFF


def described(reason: int, detail: int, code: bytes, *, arm64: bool, found: Any = None) -> str:
    """Describe an exit at `PC`; `found` is the last exception, None where KVM does not tell."""

    def last_exception(_cpu: Any, out: Any) -> int:
        if found is None:
            return -2
        out.vector, out.error, out.address = found
        return 0

    def translate(_cpu: Any, address: int, out: Any) -> int:
        out[0] = address + 0x1000
        return 0 if code else -2

    def load(address: int, size: int) -> bytes:
        assert address == PC + 0x1000
        return code[:size]

    lib = SimpleNamespace(
        HFS_REASON_ERRNO=ERRNO, hfs_translate=translate, hfs_last_exception=last_exception
    )
    ffi = SimpleNamespace(
        new=lambda kind: [0] if "*" in kind and "64" in kind else SimpleNamespace()
    )
    said = SimpleNamespace(address=PC, reason=reason, detail=detail)
    core, cpu = SimpleNamespace(lib=lib, ffi=ffi), SimpleNamespace(exit=said)
    return Describer(core, cpu, load, arm64=arm64).failure()


def test_arm64_names_the_register_of_the_instruction() -> None:
    code = (0xD510_0240).to_bytes(4, "little") + bytes(4)
    assert described(24, 0, code, arm64=True) == (
        "engine kvm: the kernel ended the machine, pc 0x40001000,"
        " instruction 0xd5100240 (MSR MDSCR_EL1, X0)"
    )


@pytest.mark.parametrize("arm64", [True, False])
def test_without_the_instruction_the_address_is_left(*, arm64: bool) -> None:
    where = "pc" if arm64 else "rip"
    assert described(ERRNO, 14, b"", arm64=arm64) == f"engine kvm: Bad address, {where} 0x40001000"


@pytest.mark.parametrize(
    ("found", "code", "what"),
    [
        ((6, 0, 0), "0f0b", "undefined instruction"),
        ((13, 8, 0), "ff20", "general protection fault"),
        ((14, 0x4000, 0x123), "488b00", "page fault (read) at 0x123"),
        ((14, 0x4002, 0x123), "488900", "page fault (write) at 0x123"),
        ((14, 0x4010, 0x123), "90", "page fault (fetch) at 0x123"),
        ((0, 0, 0), "48f7f1", "division error"),
        ((0, 0, 0), "48f7e1", "exception"),  # MUL: KVM has queued nothing
        ((0, 0, 0), "", "exception"),
        ((31, 0, 0), "90", "exception 31"),
        (None, "90", "exception"),
    ],
)
def test_a_triple_fault_names_the_exception(found: Any, code: str, what: str) -> None:
    words = described(8, 0, bytes.fromhex(code), arm64=False, found=found)
    shown = f", instruction bytes {bytes.fromhex(code).hex(' ')}" if code else ""
    assert words == (
        f"unhandled {what}, rip 0x40001000{shown}; no handler can be entered (a triple fault)"
    )
