"""What a handler of a hypercall returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from hfsched.abi.dialect import Regs
from hfsched.hypervisor.vm import VcpuState

if TYPE_CHECKING:
    from hfsched.hypervisor.interface import RunResult

__all__ = ["Reply", "Switch"]


class Switch(Struct, frozen=True):
    """The call ends the RUN: its `result`, the vCPU's state, and what the guest sees when it continues."""

    regs: Regs
    result: RunResult
    state: VcpuState = VcpuState.READY


Reply: TypeAlias = Regs | Switch
"""Registers alone: the guest continues at once."""
