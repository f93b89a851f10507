"""What a scheduler VM may do: RUN, messages, interrupts, waiters.

The *caller* is the party whose mailbox and id the operations use: the primary for the host's
scheduler, a VM for a guest that is scheduler itself.  Source: TF-Hafnium/hafnium f0701679c0, api.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hfsched.abi.dialect import Regs
from hfsched.abi.ffa import MAILBOX_SIZE
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    Injection,
    Invalid,
    RunResult,
    SendResult,
    VmInfo,
    WaitForInterrupt,
    WaitForMessage,
)
from hfsched.hypervisor.vm import Vcpu, VcpuState
from hfsched.mailbox.mailbox import Header

if TYPE_CHECKING:
    from hfsched.hypervisor.party import Party
    from hfsched.hypervisor.registry import Registry

__all__ = ["PrimaryCalls"]

# Finding an enumeration's member takes as long as a call, and every RUN comes by these.
_OFF, _READY, _RUNNING = VcpuState.OFF, VcpuState.READY, VcpuState.RUNNING
_BLOCKED_MAILBOX = VcpuState.BLOCKED_MAILBOX

Resume = Callable[[Vcpu, tuple[int, int] | None, Regs | None], RunResult]


class PrimaryCalls:
    """The operations of one caller; `resume` runs a vCPU that they have claimed."""

    def __init__(self, registry: Registry, resume: Resume, caller: Party) -> None:
        self._registry = registry
        self._resume = resume
        self._caller = caller

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
            if target.state is _BLOCKED_MAILBOX:
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
            if target.state is not _BLOCKED_MAILBOX:
                return Busy()
            target.direct_origin = self._caller.id
            start = self._claim(target)
        regs = target.vm.dialect.direct_request(self._caller.id, vm, words)
        return self._resume(target, start, regs)

    def send(self, to: int, message: bytes, *, notify: bool) -> SendResult:
        """See `PrimaryInterface.send`."""
        target = self._registry.vms.get(to)
        if target is None or len(message) > MAILBOX_SIZE:
            return SendResult.INVALID
        with target.lock:
            if not target.mailbox.writable:
                if notify:
                    target.mailbox.refuse(self._caller.id)
                return SendResult.BUSY
            target.store(message)
            target.mailbox.write(Header(self._caller.id, len(message)))
        return SendResult.SENT

    def rx_take(self) -> tuple[int, bytes] | None:
        """See `PrimaryInterface.rx_take`."""
        caller = self._caller
        with caller.lock:
            header = caller.mailbox.message
            return None if header is None else (header.sender, caller.load(header.size))

    def rx_release(self) -> bool:
        """See `PrimaryInterface.rx_release`."""
        caller = self._caller
        with caller.lock:
            return caller.mailbox.release() and bool(caller.mailbox.waiters)

    def waiter(self, vm: int) -> int | None:
        """See `PrimaryInterface.waiter`."""
        target = self._registry.find(vm)
        if target is None:
            return None
        with target.lock:
            number = target.mailbox.take_waiter()
        waiter = None if number is None else self._registry.find(number)
        if waiter is None:
            return None
        with waiter.lock:
            waiter.mailbox.became_writable(vm)
        return waiter.id

    def writable(self) -> int | None:
        """See `PrimaryInterface.writable`."""
        caller = self._caller
        with caller.lock:
            return caller.mailbox.take_ready()

    def inject(self, vm: int, vcpu: int, intid: int) -> Injection:
        """See `PrimaryInterface.inject`."""
        target = self._vcpu(vm, vcpu)
        if target is None or not target.interrupts.valid(intid):
            return Injection.INVALID
        with target.vm.lock:
            rose = target.interrupts.inject(intid)
            target.update_line()
            return target.injection(intid, rose=rose)

    def preempt(self, vm: int, vcpu: int) -> None:
        """See `PrimaryInterface.preempt`."""
        target = self._vcpu(vm, vcpu)
        if target is not None:
            target.cpu.kick()

    def keep_out(self, vm: int, vcpu: int) -> bool:
        """See `PrimaryInterface.keep_out`."""
        target = self._vcpu(vm, vcpu)
        return target is not None and target.cpu.keep_out()

    def let_in(self, vm: int, vcpu: int) -> None:
        """See `PrimaryInterface.let_in`."""
        target = self._vcpu(vm, vcpu)
        if target is not None:
            target.cpu.let_in()

    def info(self, vm: int) -> VmInfo | None:
        """See `PrimaryInterface.info`."""
        record = self._registry.vms.get(vm)
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

    # Under the VM's lock.

    def _vcpu(self, vm: int, vcpu: int) -> Vcpu | None:
        record = self._registry.vms.get(vm)
        if record is None or not 0 <= vcpu < len(record.vcpus):
            return None
        return record.vcpus[vcpu]

    def _refusal(self, vcpu: Vcpu) -> RunResult | None:
        if vcpu.claimed:
            return Busy()
        if vcpu.vm.aborting:
            vcpu.state = VcpuState.ABORTED
            return Invalid()
        return Invalid() if vcpu.state is _OFF else None

    def _still_blocked(self, vcpu: Vcpu) -> RunResult | None:
        if vcpu.state is _READY or vcpu.interrupts.up:
            return None
        timer = vcpu.cpu.timer_remaining()
        if timer == 0:
            return None
        if vcpu.state is _BLOCKED_MAILBOX:
            return WaitForMessage(timer)
        return WaitForInterrupt(timer)

    def _claim(self, vcpu: Vcpu) -> tuple[int, int] | None:
        """Claim a vCPU; return {entry, argument} where it has been turned on."""
        vcpu.claimed = True
        vcpu.state = _RUNNING
        vcpu.vm.entries += 1
        start, vcpu.start = vcpu.start, None
        return start
