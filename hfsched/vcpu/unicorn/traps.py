"""What EL2 does with a guest's exceptions: exits, trapped system registers, exceptions of EL1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.vcpu.arm64_names import instruction_text
from hfsched.vcpu.engine import Exit, Failed, Fault, Mmio, Wfi
from hfsched.vcpu.unicorn import exceptions, sysregs
from hfsched.vcpu.unicorn.exceptions import MASKED, Ec
from hfsched.vcpu.unicorn.library import Reg
from hfsched.vcpu.unicorn.machine import Sys

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.vcpu.unicorn.machine import Machine

__all__ = ["Traps"]

_WFI = Wfi()


class Traps:
    """Handles what stops one CPU's machine, except hypercalls.

    `pending` is the abort that an `Mmio` or `Fault` exit reported and that has no answer yet:
    {ESR, virtual address, IPA}.  `invalidate(code=...)` makes every CPU of the VM discard its
    translations of addresses, and with `code` of instructions.
    """

    def __init__(self, machine: Machine, invalidate: Callable[..., None]) -> None:
        self._machine = machine
        self._invalidate = invalidate
        self._has_pan = bool(machine.read_system(Sys.MMFR1_EL1) >> 20 & 15)
        self.pending: tuple[int, int, int] | None = None

    def handle(self, esr: int, address: int, *, irq: bool) -> Exit | None:
        """Handle an exception with its syndrome and virtual address; None resumes the guest.

        `irq`: whether the interrupt line is up, which ends a WFI.
        """
        machine = self._machine
        if not machine.aarch64[0]:
            return Failed(
                "the guest entered AArch32 state, which engine unicorn does not run,"
                f" pc {machine.pc[0]:#x}"
            )
        ec = esr >> 26
        if machine.exception.target == 1:
            if ec == Ec.SYSREG and machine.read(Reg.PSTATE) & 0xC:
                esr &= (
                    1 << 25
                )  # a register that EL1 has not is unknown to it; only EL0 is trapped by EL1
            return self._enter_el1(esr, address if ec in Ec.WITH_ADDRESS else None)
        if ec in (Ec.DATA_LOWER, Ec.FETCH_LOWER):
            return self._abort(esr, address)
        if ec == Ec.WFX:
            machine.pc[0] += 4
            return None if irq else _WFI
        if ec == Ec.SYSREG and self._system(sysregs.decode_trap(esr)):
            machine.pc[0] += 4
            return None
        # As Hafnium does with all that a VM may not touch.
        return self._enter_el1(esr & 1 << 25, 0, injected=True)

    def complete_mmio(self, value: int) -> None:
        """Finish the pending `Mmio` exit."""
        esr, _, _ = self._take_pending()
        access = exceptions.decode_access(esr)
        if access is None:
            raise InternalError("complete_mmio without an Mmio exit")
        machine = self._machine
        if not access.write and access.target != 31:
            machine.x[access.target] = exceptions.sign_extend(access, value)
        machine.pc[0] += 4

    def inject_abort(self) -> Failed | None:
        """Deliver the pending abort to EL1; `Failed` where EL1 cannot take it."""
        esr, address, _ = self._take_pending()
        return self._enter_el1(exceptions.abort_syndrome(esr), address, injected=True)

    def _take_pending(self) -> tuple[int, int, int]:
        pending, self.pending = self.pending, None
        if pending is None:
            raise InternalError("no Mmio or Fault exit to answer")
        return pending

    def _abort(self, esr: int, address: int) -> Exit:
        """Turn a stage-2 abort into an exit."""
        machine = self._machine
        ipa = machine.read_system(Sys.HPFAR_EL2) >> 4 << 12 | address & 0xFFF
        self.pending = (esr, address, ipa)
        if esr >> 26 == Ec.FETCH_LOWER:
            return Fault(ipa, address, write=False, fetch=True)
        access = exceptions.decode_access(esr)
        if access is None or exceptions.is_permission(esr):
            return Fault(ipa, address, write=exceptions.is_write(esr), fetch=False)
        value = 0
        if access.write and access.target != 31:
            value = machine.x[access.target] & ((1 << 8 * access.size) - 1)
        return Mmio(ipa, access.size, access.write, value)

    def _enter_el1(self, esr: int, address: int | None, *, injected: bool = False) -> Failed | None:
        """Make EL1 take a synchronous exception; `address` is for FAR_EL1, None leaves it."""
        machine = self._machine
        pstate = machine.read(Reg.PSTATE)
        pc = machine.pc[0]
        vector = exceptions.entry(pstate, machine.read(Reg.VBAR_EL1), injected=injected)
        ec = esr >> 26
        # No instruction was executed since the last time, and none ever will be.
        if pc == vector and pstate & 0x3CF == MASKED and (ec in Ec.FETCHES or ec == Ec.UNKNOWN):
            return self._unhandled(pc)
        machine.write(Reg.ELR_EL1, pc)
        machine.write(Reg.ESR_EL1, esr)
        if address is not None:
            machine.write(Reg.FAR_EL1, address)
        machine.write_system(Sys.SPSR_EL1, pstate)
        if pstate & 1:
            new_sp = machine.x[31]
        else:
            machine.write(Reg.SP_EL0, machine.x[31])
            new_sp = machine.read(Reg.SP_EL1)
        machine.x[31] = new_sp
        machine.write(
            Reg.PSTATE,
            MASKED
            if injected
            else exceptions.entry_pstate(
                pstate, machine.read_system(Sys.SCTLR_EL1), has_pan=self._has_pan
            ),
        )
        machine.pc[0] = vector
        machine.apply_pstate()
        return None

    def _unhandled(self, vector: int) -> Failed:
        """Describe the first exception of those that the vector itself raises repeatedly."""
        machine = self._machine
        esr, pc = machine.read(Reg.ESR_EL1), machine.read(Reg.ELR_EL1)
        what = exceptions.describe(esr, machine.read(Reg.FAR_EL1))
        if esr >> 26 in exceptions.Ec.RETURN_BEHIND:
            pc -= 4
        return Failed(f"unhandled {what}, {self.place(pc)}; no vector at {vector:#x}")

    def place(self, pc: int) -> str:
        """Return an address, and what instruction is there."""
        code = self._machine.code(pc, 4)
        if len(code) < 4:
            return f"pc {pc:#x}"
        return f"pc {pc:#x}, instruction {instruction_text(int.from_bytes(code, 'little'))}"

    def _system(self, access: sysregs.SysAccess) -> bool:
        """Perform a trapped access; return whether the guest may make it."""
        machine = self._machine
        if access.is_tlb:
            machine.flush_tlb()
            if access.is_broadcast:
                self._invalidate(code=False)
            return True
        if access.is_cache:
            if access.is_code:
                self._invalidate(code=True)
            return True
        if access.is_id and access.read:
            if access.target != 31:
                value = machine.read_system(access.key) & sysregs.id_mask(access.key)
                machine.x[access.target] = value
            return True
        return False
