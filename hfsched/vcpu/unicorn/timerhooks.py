"""Accesses to counters and timers, which Unicorn does not emulate usefully.

Unicorn drops what a guest writes to CNTV_CTL and CNTV_CVAL and reads the host's clock.  So each new
block of translated code is searched for the instructions that name a counter or a timer, and these
few are hooked; all others run at full speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.vcpu.unicorn import sysregs
from hfsched.vcpu.unicorn.library import CpReg, Reg
from hfsched.vcpu.unicorn.machine import Sys
from hfsched.vcpu.unicorn.timer import VirtualTimer

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.vcpu.unicorn.machine import BlockHandler, Machine, TimerHandler

__all__ = ["TimerHooks"]


class TimerHooks:
    """The hooks of one CPU, called inside `Machine.run` by the thread that runs it.

    `now` returns the guest's clock in ns.  `discard_code` is called when translated code has to be
    made again before it runs.  `make` is given both handlers and returns the machine.  `blocks_left`
    new blocks are translated before the machine is stopped: each takes 20 us, and a slice may
    consist of them.
    """

    def __init__(
        self,
        timer: VirtualTimer,
        now: Callable[[], int],
        discard_code: Callable[[], None],
        make: Callable[[BlockHandler, TimerHandler], Machine],
    ) -> None:
        self._timer = timer
        self._now = now
        self._discard_code = discard_code
        self.blocks_left = 0
        self.machine = make(self._on_block, self._on_timer)

    def _on_block(self, pc: int, size: int) -> None:
        machine = self.machine
        fresh = False
        for offset, read in sysregs.timer_instructions(machine.code(pc, size)):
            fresh |= machine.hook_timer(pc + offset, read=read)
        if fresh:
            self._discard_code()  # this block was translated without the hook
        self.blocks_left -= 1
        if fresh or not self.blocks_left:
            machine.stop()

    def _on_timer(self, register: int, access: CpReg, *, read: bool) -> bool:
        """Perform a counter or timer access; False makes Unicorn perform it, or refuse it."""
        if (access.op0, access.op1, access.crn) != (3, 3, 14):
            return False
        machine = self.machine
        counter = read and access.crm == 0 and access.op2 == 2
        frequency = read and access.crm == 0 and access.op2 == 0
        # The physical counter and timer are not here: they trap, and as in Hafnium the guest gets an
        # exception of unknown reason.
        if not counter and not frequency and (access.crm != 3 or access.op2 > 2):
            return False
        if not machine.read(Reg.PSTATE) & 0xC:
            # CNTKCTL_EL1: EL0VCTEN for the counter, it or EL0PCTEN for the frequency, EL0VTEN for the timer.
            bits = 0b10 if counter else 0b11 if frequency else 1 << 8
            if not machine.read_system(Sys.CNTKCTL_EL1) & bits:
                return False
        now = self._now()
        if not read:
            self._timer.write(access.op2, access.val, now)
            machine.stop()  # the slice may have become too long
        elif register != Reg.XZR:
            target = register - Reg.X0 if register >= Reg.X0 else register - Reg.X29 + 29
            if frequency:
                machine.x[target] = self._timer.frequency
            else:
                machine.x[target] = (
                    self._timer.count(now) if counter else self._timer.read(access.op2, now)
                )
        return True
