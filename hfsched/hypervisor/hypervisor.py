"""RUN, and the rest of what the primary may do.

RUN claims the vCPU, sets its registers, enters it and answers its hypercalls until one of them (or
an exit) concerns the scheduler; then it publishes the state and lets the vCPU go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.abi.dialect import Regs
from hfsched.abi.ffa import MAILBOX_SIZE, PRIMARY_ID, Intid
from hfsched.errors import InternalError
from hfsched.hypervisor.calls import Calls
from hfsched.hypervisor.console import Console
from hfsched.hypervisor.context import Context
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    Injection,
    Invalid,
    Preempted,
    RunResult,
    SendResult,
    VmInfo,
    WaitForInterrupt,
    WaitForMessage,
)
from hfsched.hypervisor.registry import Registry
from hfsched.hypervisor.reply import Switch
from hfsched.hypervisor.vm import Vcpu, VcpuState
from hfsched.mailbox.mailbox import Header
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


class Hypervisor:
    """The hypervisor, seen by the scheduler VM through `PrimaryInterface`.

    `log(vm name, line)` gets each line that a guest prints; it must not block.
    """

    def __init__(
        self,
        runtime: Runtime,
        log: Callable[[str, bytes], None],
        calls: Callable[[Context], Calls] = Calls,
    ) -> None:
        self._runtime = runtime
        self.registry = Registry(runtime)
        self.console = Console(log)
        self._calls = calls(Context(runtime, self.registry, self.console))

    def start(self, vm: int, entry: int, argument: int, vcpu: int = 0) -> None:
        """Turn a vCPU of a VM on: its first RUN begins at `entry` with x0 = `argument`."""
        record = self.registry.vms[vm]
        with record.lock:
            boot = record.vcpus[vcpu]
            boot.start = (entry, argument)
            boot.state = VcpuState.READY

    # The primary's interface.

    def run(self, vm: int, vcpu: int) -> RunResult:
        """See `PrimaryInterface.run`."""
        target = self._vcpu(vm, vcpu)
        if target is None:
            return Invalid()
        regs: Regs | None = None
        with target.vm.lock:
            refusal = self._refusal(target)
            if refusal is not None:
                return refusal
            if target.state is VcpuState.BLOCKED_MAILBOX:
                header = target.vm.mailbox.read()
                if header is not None:
                    dialect = target.vm.dialect
                    regs = dialect.message(header.sender, target.vm.id, header.size)
            if regs is None:
                blocked = self._still_blocked(target)
                if blocked is not None:
                    target.vm.spurious += 1
                    return blocked
            start = self._claim(target)
        return self._resume(target, start, regs)

    def direct_request(self, vm: int, vcpu: int, words: tuple[int, ...]) -> RunResult:
        """See `PrimaryInterface.direct_request`."""
        target = self._vcpu(vm, vcpu)
        if target is None:
            return Invalid()
        with target.vm.lock:
            if target.direct_origin is not None or target.claimed:
                return Busy()
            if target.vm.aborting:
                target.state = VcpuState.ABORTED
                return Aborted(target.vm.abort_reason or "aborted")
            if target.state is not VcpuState.BLOCKED_MAILBOX:
                return Busy()
            target.direct_origin = PRIMARY_ID
            start = self._claim(target)
        regs = target.vm.dialect.direct_request(PRIMARY_ID, vm, words)
        return self._resume(target, start, regs)

    def send(self, to: int, message: bytes, *, notify: bool) -> SendResult:
        """See `PrimaryInterface.send`."""
        target = self.registry.vms.get(to)
        if target is None or len(message) > MAILBOX_SIZE:
            return SendResult.INVALID
        with target.lock:
            if not target.mailbox.writable:
                if notify:
                    target.mailbox.refuse(PRIMARY_ID)
                return SendResult.BUSY
            target.store(message)
            target.mailbox.write(Header(PRIMARY_ID, len(message)))
        return SendResult.SENT

    def rx_take(self) -> tuple[int, bytes] | None:
        """See `PrimaryInterface.rx_take`."""
        primary = self.registry.primary
        with primary.lock:
            header = primary.mailbox.message
            return None if header is None else (header.sender, primary.message)

    def rx_release(self) -> bool:
        """See `PrimaryInterface.rx_release`."""
        primary = self.registry.primary
        with primary.lock:
            return primary.mailbox.release() and bool(primary.mailbox.waiters)

    def waiter(self, vm: int) -> int | None:
        """See `PrimaryInterface.waiter`."""
        target = self.registry.find(vm)
        if target is None:
            return None
        with target.lock:
            number = target.mailbox.take_waiter()
        waiter = None if number is None else self.registry.find(number)
        if waiter is None:
            return None
        with waiter.lock:
            waiter.mailbox.became_writable(vm)
        return waiter.id

    def writable(self) -> int | None:
        """See `PrimaryInterface.writable`."""
        primary = self.registry.primary
        with primary.lock:
            return primary.mailbox.take_ready()

    def inject(self, vm: int, vcpu: int, intid: int) -> Injection:
        """See `PrimaryInterface.inject`."""
        target = self._vcpu(vm, vcpu)
        if target is None or not target.interrupts.valid(intid):
            return Injection.INVALID
        with target.vm.lock:
            rose = target.interrupts.inject(intid)
            target.update_line()
            if target.state is VcpuState.OFF or not target.interrupts.enabled >> intid & 1:
                return Injection.DISABLED
            return Injection.WAKE if rose else Injection.PENDING

    def preempt(self, vm: int, vcpu: int) -> None:
        """See `PrimaryInterface.preempt`."""
        target = self._vcpu(vm, vcpu)
        if target is not None:
            target.cpu.kick()

    def info(self, vm: int) -> VmInfo | None:
        """See `PrimaryInterface.info`."""
        record = self.registry.vms.get(vm)
        if record is None:
            return None
        with record.lock:
            return VmInfo(
                record.id,
                record.name,
                len(record.vcpus),
                record.mailbox.state,
                len(record.mailbox.waiters),
                record.abort_reason,
                tuple(vcpu.state.value for vcpu in record.vcpus),
            )

    # Before the guest runs; under its VM's lock.

    def _vcpu(self, vm: int, vcpu: int) -> Vcpu | None:
        record = self.registry.vms.get(vm)
        if record is None or not 0 <= vcpu < len(record.vcpus):
            return None
        return record.vcpus[vcpu]

    def _refusal(self, vcpu: Vcpu) -> RunResult | None:
        if vcpu.claimed:
            return Busy()
        if vcpu.vm.aborting:
            vcpu.state = VcpuState.ABORTED
            return Invalid()
        return Invalid() if vcpu.state is VcpuState.OFF else None

    def _still_blocked(self, vcpu: Vcpu) -> RunResult | None:
        if vcpu.state is VcpuState.READY or vcpu.interrupts.up:
            return None
        timer = vcpu.cpu.timer_remaining()
        if timer == 0:
            return None
        if vcpu.state is VcpuState.BLOCKED_MAILBOX:
            return WaitForMessage(timer)
        return WaitForInterrupt(timer)

    def _claim(self, vcpu: Vcpu) -> tuple[int, int] | None:
        """Claim a vCPU; return {entry, argument} where it starts anew."""
        vcpu.claimed = True
        vcpu.state = VcpuState.RUNNING
        vcpu.vm.entries += 1
        start, vcpu.start = vcpu.start, None
        return start

    # While it runs; no lock.

    def _resume(self, vcpu: Vcpu, start: tuple[int, int] | None, regs: Regs | None) -> RunResult:
        """Set the registers of a claimed vCPU and run it until the scheduler is concerned."""
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
        """Deal with an exit that is no hypercall; None: the guest goes on."""
        match event:
            case Kicked() | Timer():
                return Preempted(), VcpuState.READY
            case Wfi():
                with vcpu.vm.lock:
                    if vcpu.interrupts.up:
                        return None
                result = self._with_timer(vcpu, WaitForInterrupt(None))
                return result, VcpuState.BLOCKED_INTERRUPT
            case Mmio() | Fault():
                self._stage_2_fault(vcpu, event)
                return None
            case Failed(reason):
                with vcpu.vm.lock:
                    if vcpu.vm.aborting:  # another vCPU's exit has said it
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
        if isinstance(result, WaitForMessage | WaitForInterrupt):
            timer = vcpu.cpu.timer_remaining()
            if timer is not None:
                return Preempted() if timer == 0 else type(result)(timer)
        return result

    def _stage_2_fault(self, vcpu: Vcpu, event: Mmio | Fault) -> None:
        """Reply an access outside what the VM has with an abort, the PL011's with its register."""
        if isinstance(event, Mmio):
            value = self.console.mmio(vcpu, event)
            if value is not None:
                vcpu.cpu.complete_mmio(value)
                return
        wanted = Permissions.WRITE if event.write else Permissions.READ
        if isinstance(event, Fault) and event.fetch:
            wanted = Permissions.EXECUTE
        pages = vcpu.vm.pages
        with vcpu.vm.lock:
            allowed = pages.allows(event.address, wanted)
            seen = (event, pages.changes)
        if not allowed:
            vcpu.cpu.inject_abort()
        elif vcpu.fault == seen:
            raise InternalError(
                f"vm {vcpu.vm.name}: {event.address:#x} faults, and the VM may access it"
            )
        else:
            vcpu.fault = seen  # another vCPU changed the page before we looked: try once more
