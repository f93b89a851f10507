"""RUN's loop: enter a claimed vCPU, answer its hypercalls and exits, publish its state.

Which vCPU may run, and what it is given, `hfsched.hypervisor.primary` decides under the VM's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.abi.dialect import Regs
from hfsched.abi.ffa import Intid
from hfsched.errors import InternalError
from hfsched.hypervisor.calls import Calls
from hfsched.hypervisor.console import Console
from hfsched.hypervisor.context import Context
from hfsched.hypervisor.interface import (
    Aborted,
    Invalid,
    Preempted,
    PrimaryInterface,
    RunResult,
    WaitForInterrupt,
    WaitForMessage,
)
from hfsched.hypervisor.mmio import Window
from hfsched.hypervisor.pl011 import PL011_BASE, PL011_SIZE, Pl011
from hfsched.hypervisor.primary import PrimaryCalls
from hfsched.hypervisor.registry import Registry
from hfsched.hypervisor.reply import Switch
from hfsched.hypervisor.vm import Vcpu, VcpuState
from hfsched.vcpu.engine import (
    Failed,
    Fault,
    Hypercall,
    Kicked,
    Mmio,
    Permissions,
    Timer,
    Wfi,
)

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Exit

__all__ = ["Hypervisor"]

_BLOCKED = (VcpuState.BLOCKED_MAILBOX, VcpuState.BLOCKED_INTERRUPT)
_WAITS = (WaitForMessage, WaitForInterrupt)


class Hypervisor:
    """The hypervisor of one machine.  `primary` is what the host's scheduler sees of it.

    `log(vm name, line)` gets each line that a guest prints, `notice(vm name, text)` what the user may
    want to know of a VM; neither may block.  `calls` makes what answers hypercalls.
    """

    def __init__(
        self,
        runtime: Runtime,
        log: Callable[[str, bytes], None],
        calls: Callable[[Context], Calls] = Calls,
        notice: Callable[[str, str], None] | None = None,
    ) -> None:
        self._runtime = runtime
        self.console = Console(log)
        self.registry = Registry(runtime, [Window(Pl011(self.console), PL011_BASE, PL011_SIZE)])
        self._calls = calls(Context(runtime, self.registry, self.console, notice))
        self.primary: PrimaryInterface = PrimaryCalls(
            self.registry, self.resume, self.registry.primary
        )

    def start(self, vm: int, entry: int, argument: int, vcpu: int = 0) -> None:
        """Turn a vCPU of a VM on: its first RUN begins at `entry` with x0 = `argument`."""
        record = self.registry.vms[vm]
        with record.lock:
            boot = record.vcpus[vcpu]
            boot.start = (entry, argument)
            boot.state = VcpuState.READY

    def resume(self, vcpu: Vcpu, start: tuple[int, int] | None, regs: Regs | None) -> RunResult:
        """Set the registers of a claimed vCPU and run it until the scheduler is concerned.

        `start` is {entry, argument} of a vCPU that begins, `regs` the answer to the call that it
        waits in.  No lock is held while the guest runs; state and "registers saved" are published
        together.
        """
        cpu = vcpu.cpu
        if start is not None:
            cpu.reset(*start)
        elif cpu.timer_remaining() == 0:
            self._timer_fired(vcpu)
        if regs is not None:
            cpu.reply(regs)
        answer = self._calls.dispatch
        retain_only = self._runtime.retain_only
        while True:
            retain_only(level=1)
            event = cpu.enter()
            if type(event) is Hypercall:
                vcpu.exits += 1
                reply = answer(vcpu, event)
                if type(reply) is not Switch:
                    cpu.reply(reply)  # type: ignore[arg-type]  # Regs, then
                    continue
                cpu.reply(reply.regs)
                result, state = reply.result, reply.state
                if state in _BLOCKED:
                    result = self._with_timer(vcpu, result)
                break
            switch = self._handle(vcpu, event)
            if switch is not None:
                result, state = switch
                break
        with vcpu.vm.lock:
            vcpu.state = state
            vcpu.claimed = False
        return result

    def _timer_fired(self, vcpu: Vcpu) -> None:
        """Make the timer's interrupt pending, and mask it, or it would fire again at every entry."""
        with vcpu.vm.lock:
            vcpu.interrupts.inject(Intid.VIRTUAL_TIMER)
            vcpu.update_line()
        vcpu.cpu.mask_timer()

    def _handle(self, vcpu: Vcpu, event: Exit) -> tuple[RunResult, VcpuState] | None:
        """Handle an exit that is no hypercall; None: the guest continues."""
        match event:
            case Kicked() | Timer():
                return Preempted(), VcpuState.READY
            case Wfi():
                vcpu.exits += 1
                with vcpu.vm.lock:
                    if vcpu.interrupts.up:
                        return None
                result = self._with_timer(vcpu, WaitForInterrupt(None))
                return result, VcpuState.BLOCKED_INTERRUPT
            case Mmio() | Fault():
                vcpu.exits += 1
                self._stage_2_fault(vcpu, event)
                return None
            case Failed(reason):
                with vcpu.vm.lock:
                    if vcpu.vm.aborting:  # another vCPU's exit was reported
                        return Invalid(), VcpuState.ABORTED
                    vcpu.vm.aborting = True
                    vcpu.vm.abort_reason = reason
                return Aborted(reason), VcpuState.ABORTED
            case _:
                raise InternalError(f"vm {vcpu.vm.name}: no such exit: {event!r}")

    def _with_timer(self, vcpu: Vcpu, result: RunResult) -> RunResult:
        """Put the time left of a running timer into a result that says the vCPU waits.

        A timer that has fired makes it no wait at all; a direct response goes out first.
        """
        if isinstance(result, _WAITS):
            timer = vcpu.cpu.timer_remaining()
            if timer is not None:
                return Preempted() if timer == 0 else type(result)(timer)
        return result

    def _stage_2_fault(self, vcpu: Vcpu, event: Mmio | Fault) -> None:
        """Let a device answer; reply any other access outside what the VM has with an abort."""
        if isinstance(event, Mmio):
            value = vcpu.vm.mmio.access(vcpu, event)
            if value is not None:
                vcpu.cpu.complete_mmio(value)
                return
        wanted = Permissions.WRITE if event.write else Permissions.READ
        if isinstance(event, Fault) and event.fetch:
            wanted = Permissions.EXECUTE
        pages = vcpu.vm.pages
        with vcpu.vm.lock:
            allowed = pages.allows(event.address, wanted)
            fault = (event, pages.changes)
            again = vcpu.fault == fault
            if allowed:
                vcpu.fault = fault  # another vCPU changed the page before we looked: try once more
        if not allowed:
            vcpu.cpu.inject_abort()
        elif again:
            raise InternalError(
                f"vm {vcpu.vm.name}: {event.address:#x} faults, and the VM may access it"
            )
