"""A vCPU on Unicorn: enters the guest, and does what EL2 and the exception entry to EL1 do.

How an interrupt is taken: the line is HCR_EL2.VI, and Unicorn (unlike for the exceptions that an
instruction raises) enters the vector by itself, at the very instruction that unmasks it.

How timers work: Unicorn drops what a guest writes to CNTV_CTL and CNTV_CVAL and reads the host's
clock.  So each new block of translated code is searched for the instructions that name a counter
or a timer, and these few are hooked; all others run at full speed.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.vcpu.engine import Conduit, Exit, Fault, Hypercall, Kicked, Mmio, Off, Timer, Wfi
from hfsched.vcpu.unicorn import exceptions, sysregs
from hfsched.vcpu.unicorn.exceptions import MASKED, Ec
from hfsched.vcpu.unicorn.library import ERR_EXCEPTION, ERR_OK, CpReg, Reg
from hfsched.vcpu.unicorn.machine import BlockHandler, Machine, Sys, TimerHandler
from hfsched.vcpu.unicorn.state import digest
from hfsched.vcpu.unicorn.timer import TICK, VirtualTimer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hfsched.runtime.base import Lock, Runtime
    from hfsched.vcpu.unicorn.space import UnicornSpace

__all__ = ["SLICE", "UnicornVcpu"]

SLICE = 100_000  # instructions: how long a lost stop may last, and another vCPU wait
NEW_BLOCKS = 500  # translated blocks a slice: these take 20 us each, and a slice may be all new

_KICKED = Kicked()
_TIMER = Timer()
_WFI = Wfi()

# ctl, cval, pending syndrome, address, IPA; then the register image.
_HEADER = struct.Struct("<8sQQQQQ")
_MAGIC = b"hfs-uc1\0"


class UnicornVcpu:
    """See `hfsched.vcpu.engine.Vcpu`."""

    def __init__(
        self,
        runtime: Runtime,
        turn: Lock,
        space: UnicornSpace,
        index: int,
        make: Callable[[BlockHandler, TimerHandler], Machine],
    ) -> None:
        self.index = index
        self._space = space
        self._now = space.clock.read
        self._turn = turn
        # Keeps `stop` and the end of the machine apart; held for a microsecond.
        self._mutex = runtime.lock(f"unicorn {space.name}/{index}")
        self._timer = VirtualTimer()
        # Written by others: a flag first, then a stop if the CPU runs; read again before each slice.
        self._kicked = False
        self._irq = False
        self._changed = False  # the line, or one of the two below
        self._stale_tlb = False
        self._stale_code = False
        self._running = False
        self._line = False  # what the machine was told of `_irq`
        self._blocks_left = 0
        # How many instructions the next slice may have; None: SLICE.  For explorers.
        self.cut: Callable[[], int] | None = None
        self._off: Off | None = None
        self._pending: tuple[int, int, int] | None = None  # ESR, virtual address, IPA of an abort
        self._machine = make(self._on_block, self._on_timer)
        self._has_pan = bool(self._machine.read_system(Sys.MMFR1_EL1) >> 20 & 15)

    # The protocol, any thread

    def kick(self) -> None:
        """Make the running or the next `enter` return `Kicked`."""
        self._kicked = True
        self._stop()

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        """Raise or lower the interrupt line."""
        self._irq = level
        self._changed = True
        self._stop()

    def _stop(self) -> None:
        if self._running:
            with self._mutex:
                if self._running:
                    self._machine.stop()

    # The protocol, the owner

    def reset(self, pc: int, arg: int) -> None:
        """Put the CPU in its initial state."""
        self._load(None)
        self.invalidate(code=True)
        self._timer.set(0, 0)
        self._pending = None
        self._machine.pc[0] = pc
        self._machine.x[0] = arg

    def enter(self) -> Exit:
        """Run to the next exit, a slice at a time; others have their turn between slices."""
        if self._off is not None:
            return self._off
        turn = self._turn
        while True:
            with turn:
                stop = self._slice()
            if stop is not None:
                return stop

    def reply(self, values: Sequence[int]) -> None:
        """Write x0, x1, ..."""
        self._machine.x[: len(values)] = list(values)

    def complete_mmio(self, value: int) -> None:
        """Finish the last `Mmio` exit."""
        esr, _, _ = self._take_pending()
        access = exceptions.decode_access(esr)
        if access is None:
            raise InternalError("complete_mmio without an Mmio exit")
        machine = self._machine
        if not access.write and access.target != 31:
            machine.x[access.target] = exceptions.sign_extend(access, value)
        machine.pc[0] += 4

    def inject_abort(self) -> None:
        """Deliver the last `Mmio` or `Fault` exit as an abort to EL1."""
        esr, address, _ = self._take_pending()
        from_el0 = not self._machine.read(Reg.PSTATE) & 0xC
        syndrome = exceptions.abort_syndrome(esr, from_el0=from_el0)
        self._off = self._enter_el1(syndrome, address, injected=True)

    def timer_remaining(self) -> int | None:
        """Time in ns until the virtual timer fires."""
        return self._timer.remaining(self._now())

    def waits(self) -> bool:
        """Return False: WFI is an exit."""
        return False

    def mask_timer(self) -> None:
        """Set the mask bit of the virtual timer."""
        self._timer.mask()

    def save(self) -> bytes:
        """Return every register; only this version of Unicorn can use it."""
        timer = self._timer
        return (
            _HEADER.pack(_MAGIC, timer.ctl, timer.cval, *(self._pending or (0, 0, 0)))
            + self._machine.image()
        )

    def restore(self, data: bytes) -> None:
        """Put back what `save` returned; raises `InternalError` when it is nothing like it."""
        self._restore(data)
        self.invalidate(code=True)

    def rewind(self, data: bytes, *, irq: bool) -> None:
        """Put back what this very CPU has saved; the guest's code must be what it was.

        Nobody may be using the CPU.  Kicks are forgotten, and the line is `irq`.
        """
        self._kicked = False
        self._irq = irq
        self._restore(data)

    def _restore(self, data: bytes) -> None:
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise InternalError("engine unicorn: no saved CPU state")
        _, ctl, cval, *pending = _HEADER.unpack_from(data)
        self._load(data[_HEADER.size :])
        self._timer.set(ctl, cval)
        self._pending = (pending[0], pending[1], pending[2]) if pending[0] else None

    def state_key(self) -> object:
        """Return a digest of the registers that the architecture defines, and of the timer."""
        timer = self._timer
        return digest(self._machine, (timer.ctl, timer.cval, self._off is not None))

    # The space's

    def invalidate(self, *, code: bool) -> None:
        """Forget translated addresses, and (`code`) instructions, before the next slice."""
        self._stale_tlb = True
        self._stale_code |= code
        self._changed = True

    def belong(self, runtime: Runtime, turn: Lock) -> None:
        """Serve another runtime from here on, with its turn."""
        self._turn = turn
        self._mutex = runtime.lock(f"unicorn {self._space.name}/{self.index}")

    def map(self, physical: int, size: int, host: int) -> None:
        """Let host memory be at a physical address."""
        self._machine.map(physical, size, host)

    def close(self) -> None:
        """Free the machine; later kicks do nothing."""
        with self._mutex:
            self._off = Off("the machine is closed")
            self._machine.close()

    # Running

    def _load(self, image: bytes | None) -> None:
        self._off = None
        self._line = self._irq
        self._machine.load(image, irq=self._line)

    def _slice(self) -> Exit | None:
        machine = self._machine
        # From here on a kick or a changed line stops the machine; before, it is seen below.
        self._running = True
        try:
            if self._kicked:
                self._kicked = False
                return _KICKED
            if self._changed:
                self._update()
            count = SLICE if self.cut is None else self.cut()
            if self._timer.armed:
                left = self._timer.remaining(self._now())
                if not left:
                    return _TIMER
                # A tenth of an instruction a ns is slower than any host: the end comes near in
                # steps, and is hardly ever passed.
                count = min(count, 100 + left // 10)
            self._blocks_left = NEW_BLOCKS
            error = machine.run(count)
        finally:
            self._running = False
        if error != ERR_EXCEPTION:
            return None if error == ERR_OK else self._failed(error)
        esr = machine.exception.syndrome
        ec = esr >> 26
        if ec == Ec.HVC:
            return Hypercall(Conduit.HVC, tuple(machine.x[:8]))
        if ec == Ec.SMC:
            return Hypercall(Conduit.SMC, tuple(machine.x[:8]))
        stop = self._exception(esr, machine.exception.address)
        if isinstance(stop, Off):
            self._off = stop
        return stop

    def _update(self) -> None:
        """Tell the machine what changed outside."""
        machine = self._machine
        self._changed = False  # first: what comes from now on is seen the next time
        if self._line != self._irq:
            self._line = not self._line
            machine.set_irq(self._line)
        if self._stale_code:
            self._stale_code = False
            machine.flush_code()
        if self._stale_tlb:
            self._stale_tlb = False
            machine.flush_tlb()

    def _failed(self, error: int) -> Off:
        reason = self._machine.describe(error)
        self._off = Off(f"engine unicorn: {reason} at {self._machine.pc[0]:#x}")
        return self._off

    def _take_pending(self) -> tuple[int, int, int]:
        pending, self._pending = self._pending, None
        if pending is None:
            raise InternalError("no Mmio or Fault exit to answer")
        return pending

    def _exception(self, esr: int, address: int) -> Exit | None:
        """Handle an exception other than a hypercall."""
        machine = self._machine
        if not machine.aarch64[0]:
            return Off("the guest went to AArch32, which engine unicorn does not run")
        ec = esr >> 26
        if machine.exception.target == 1:
            return self._enter_el1(esr, address if ec in Ec.WITH_ADDRESS else None)
        if ec in (Ec.DATA_LOWER, Ec.FETCH_LOWER):
            return self._abort(esr, address)
        if ec == Ec.WFX:
            machine.pc[0] += 4
            return None if self._irq else _WFI
        if ec == Ec.SYSREG and self._system(sysregs.decode_trap(esr)):
            machine.pc[0] += 4
            return None
        # As Hafnium does with all that a VM may not touch.
        return self._enter_el1(esr & 1 << 25, 0, injected=True)

    def _abort(self, esr: int, address: int) -> Exit:
        """Turn a stage-2 abort into an exit."""
        machine = self._machine
        ipa = machine.read_system(Sys.HPFAR_EL2) >> 4 << 12 | address & 0xFFF
        self._pending = (esr, address, ipa)
        if esr >> 26 == Ec.FETCH_LOWER:
            return Fault(ipa, address, write=False, fetch=True)
        access = exceptions.decode_access(esr)
        if access is None or exceptions.is_permission(esr):
            return Fault(ipa, address, write=exceptions.is_write(esr), fetch=False)
        value = 0
        if access.write and access.target != 31:
            value = machine.x[access.target] & ((1 << 8 * access.size) - 1)
        return Mmio(ipa, access.size, access.write, value)

    def _enter_el1(self, esr: int, address: int | None, *, injected: bool = False) -> Off | None:
        """Let EL1 take a synchronous exception; `address` is for FAR_EL1, None leaves it."""
        machine = self._machine
        pstate = machine.read(Reg.PSTATE)
        pc = machine.pc[0]
        vector = exceptions.entry(pstate, machine.read(Reg.VBAR_EL1))
        ec = esr >> 26
        # No instruction was executed since the last time, and none ever will be.
        if pc == vector and pstate & 0x3CF == MASKED and (ec in Ec.FETCHES or ec == Ec.UNKNOWN):
            what = "fetched" if ec in Ec.FETCHES else "executed"
            return Off(
                f"the guest's exception vector at {pc:#x} cannot be {what}, after"
                f" {exceptions.describe(machine.read(Reg.ESR_EL1), machine.read(Reg.FAR_EL1))}"
                f" at pc {machine.read(Reg.ELR_EL1):#x}"
            )
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
        machine.set_irq(self._line)  # and PSTATE takes effect
        return None

    def _system(self, access: sysregs.SysAccess) -> bool:
        """Do a trapped access; tell whether the guest may do that."""
        machine = self._machine
        if access.is_tlb:
            machine.flush_tlb()
            if access.is_broadcast:
                self._space.invalidate(code=False)
            return True
        if access.is_cache:
            if access.is_code:
                self._space.invalidate(code=True)
            return True
        if access.is_id and access.read:
            if access.target != 31:
                value = machine.read_system(access.key) & sysregs.id_mask(access.key)
                machine.x[access.target] = value
            return True
        return False

    # Hooks: called inside `run`, by the thread that runs it

    def _on_block(self, pc: int, size: int) -> None:
        machine = self._machine
        fresh = False
        for offset, read in sysregs.timer_instructions(machine.code(pc, size)):
            fresh |= machine.hook_timer(pc + offset, read=read)
        if fresh:
            # This block was translated without the hook: again, before it runs.
            self._stale_code = self._changed = True
        self._blocks_left -= 1
        if fresh or not self._blocks_left:
            machine.stop()

    def _on_timer(self, register: int, access: CpReg, *, read: bool) -> bool:
        """Do a counter or timer access; False lets Unicorn do it, or refuse it."""
        if (access.op0, access.op1, access.crn) != (3, 3, 14):
            return False
        machine = self._machine
        counter = read and access.crm == 0 and access.op2 in (1, 2)
        # The physical timer is no part of it: it traps, and as in Hafnium the guest gets an
        # exception of unknown reason.
        if not counter and (access.crm != 3 or access.op2 > 2):
            return False
        if not machine.read(Reg.PSTATE) & 0xC:
            # CNTKCTL_EL1: EL0PCTEN and EL0VCTEN for the counters, EL0VTEN for the timer.
            bit = access.op2 - 1 if counter else 8
            if not machine.read_system(Sys.CNTKCTL_EL1) >> bit & 1:
                return False
        now = self._now()
        if not read:
            self._timer.write(access.op2, access.val, now)
            machine.stop()  # the slice may have become too long
        elif register != Reg.XZR:
            target = register - Reg.X0 if register >= Reg.X0 else register - Reg.X29 + 29
            machine.x[target] = now // TICK if counter else self._timer.read(access.op2, now)
        return True
