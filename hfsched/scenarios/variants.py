"""Schedulers and hypervisors with historical faults.

Modelled on TF-Hafnium/hafnium-driver-linux (`main.c`, cc100f6) and on Hafnium before the fixes; each
differs from the production code only in the fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from hfsched.abi.ffa import PRIMARY_ID, Intid
from hfsched.explore.registry import Variant
from hfsched.hypervisor.calls import Calls
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    Injection,
    Invalid,
    Message,
    NotifyWaiters,
    RunResult,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
    Yield,
)
from hfsched.hypervisor.reply import Reply, Switch
from hfsched.hypervisor.vm import Vcpu, VcpuState
from hfsched.mailbox.mailbox import Mailbox
from hfsched.scheduler.driver import DrivenVm, Driver
from hfsched.vmm.assembly import Parts

if TYPE_CHECKING:
    from hfsched.hypervisor.context import Context
    from hfsched.runtime.base import Cell, Event
    from hfsched.vcpu.engine import Hypercall

__all__ = ["PARTS", "VARIANTS"]


class _Thread:
    """The upstream driver's state of one vCPU's thread."""

    waiting: Cell[bool]  # waiting_for_message
    abort_sleep: Cell[bool]
    wake: Event


class Upstream(Driver):
    """The Linux driver: a flag marks a vCPU that waits for a message, and is set after RUN has returned.

    A sender in between finds no waiting vCPU, falls back to an interrupt of vCPU 0, and does nothing
    more if that is not enabled or already pending (b/131434148).
    """

    first_flags = (False, False, False, False)  # waiting_for_message, before it is first set

    def _thread(self, vm: DrivenVm, index: int) -> _Thread:
        if not hasattr(self, "_threads"):
            self._threads: dict[tuple[int, int], _Thread] = {}
        found = self._threads.get((vm.id, index))
        if found is None:
            found = self._threads[vm.id, index] = _Thread()
            name = f"{vm.name}.{index}"
            found.waiting = self._runtime.cell(f"{name}.waiting", self.first_flags[index])
            found.abort_sleep = self._runtime.cell(f"{name}.abort_sleep", value=False)
            found.wake = self._runtime.event(f"{name}.thread")
        return found

    def start(self) -> None:
        """See `Driver.start`."""
        for vm in self.vms:
            for index in range(len(vm.counters)):
                self._thread(vm, index)
        super().start()

    def vcpu(self, vm: DrivenVm, index: int) -> None:
        """See `Driver.vcpu`."""
        me = self._thread(vm, index)
        while True:
            self._runtime.retain_only()
            me.abort_sleep.set(False)
            result = self._interface.run(vm.id, index)
            self._runtime.retain_only(result)
            if not self._after(vm, index, result):
                return

    def _after(self, vm: DrivenVm, index: int, result: RunResult) -> bool:
        me = self._thread(vm, index)
        match result:
            case WaitForMessage():
                me.waiting.set(True)
                self._sleep(me)
                me.waiting.set(False)
            case WaitForInterrupt():
                self._sleep(me)
            case Message(_, receiver, _):
                if receiver == PRIMARY_ID:
                    self.to_host(vm, index)
                else:
                    self.deliver(receiver)
            case NotifyWaiters():
                self.notify_waiters(vm.id)
            case WakeUp(number, other):
                self._wake(self._vms[number], other)
            case Yield() | Busy():
                self._runtime.checkpoint("yield")
            case Aborted():
                self.end_vm(vm, index)
                for other in range(len(vm.counters)):
                    self._wake(vm, other)
                return False
            case Invalid():
                return False
        return True

    def _sleep(self, me: _Thread) -> None:
        """Clear the wake-up event, check abort_sleep, block."""
        me.wake.clear()
        if not me.abort_sleep.get():
            me.wake.wait()

    def _wake(self, vm: DrivenVm, index: int) -> None:
        me = self._thread(vm, index)
        me.abort_sleep.set(True)
        me.wake.set()

    def deliver(self, number: int, *, ends_send: bool = False) -> None:
        """See `Driver.deliver`."""
        vm = self._vms[number]
        if ends_send:
            vm.mirror.end_send()
        for index in range(len(vm.counters)):
            if self._thread(vm, index).waiting.get():
                self._wake(vm, index)
                return
        self._interrupt(vm, Intid.MAILBOX_READABLE)

    def _interrupt(self, vm: DrivenVm, intid: int) -> None:
        if self._interface.inject(vm.id, 0, intid) is Injection.WAKE:
            self._wake(vm, 0)


class Uninitialised(Upstream):
    """The same with a flag that is initialised only for vCPU 0: the others may have any value."""

    first_flags = (False, True, True, True)


class WakeVcpu0(Driver):
    """Wakes vCPU 0 in any case, although another vCPU waits for the message."""

    def deliver(self, number: int, *, ends_send: bool = False) -> None:
        """See `Driver.deliver`."""
        mirror = self._vms[number].mirror
        if ends_send:
            mirror.end_send()
        mirror.wake(0)


class FixedTarget(Driver):
    """The mirror, but only vCPU 0 is interrupted for a message."""

    def _interrupt(self, vm: DrivenVm, intid: int) -> None:
        if self._interface.inject(vm.id, 0, intid) is Injection.WAKE:
            vm.mirror.wake(0)


class AlwaysHandsOut(Mailbox):
    """Waiters are returned although the mailbox is full again."""

    def take_waiter(self) -> int | None:
        """See `Mailbox.take_waiter`."""
        return self.waiters.pop(0) if self.waiters else None


class EarlyCalls(Calls):
    """A vCPU's state is published as waiting before its registers are saved."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._runtime = context.runtime

    def dispatch(self, vcpu: Vcpu, call: Hypercall) -> Reply:
        """See `Calls.dispatch`."""
        reply = super().dispatch(vcpu, call)
        if isinstance(reply, Switch) and reply.state is VcpuState.BLOCKED_MAILBOX:
            with vcpu.vm.lock:
                vcpu.state = reply.state
                vcpu.claimed = False
            self._runtime.checkpoint("registers are about to be saved")
        return reply


PARTS: Mapping[str, Parts] = {
    "": Parts(),
    "upstream": Parts(driver=Upstream),
    "uninitialised": Parts(driver=Uninitialised),
    "wake-vcpu0": Parts(driver=WakeVcpu0),
    "fixed-target": Parts(driver=FixedTarget),
    "waiter-livelock": Parts(mailbox=AlwaysHandsOut),
    "early-run": Parts(calls=EarlyCalls),
}

VARIANTS: Mapping[str, Variant] = {
    "upstream": Variant("the Linux driver: a wake-up is lost between RUN and its flag"),
    "uninitialised": Variant(
        "the Linux driver before its flag was initialised: the wrong vCPU is woken",
        {"receiver": "disabled", "vcpus": 2, "messages": 1, "boot": True},
    ),
    "wake-vcpu0": Variant(
        "vCPU 0 is woken in any case, also when vCPU 1 waits",
        {"receiver": "wfi-echo", "vcpus": 2, "messages": 1},
    ),
    "fixed-target": Variant(
        "only vCPU 0 is interrupted for a message",
        {"receiver": "reader-1", "vcpus": 2, "messages": 1},
    ),
    "waiter-livelock": Variant(
        "waiters are notified that a mailbox is writable although it is full again",
        {"guests": 1, "messages": 2},
    ),
    "early-run": Variant(
        "a vCPU can be RUN again before its registers are saved",
        {"runners": 1},
    ),
}
