"""The loop of each vCPU's thread, and the delivery of messages and wake-ups.

Written against `Runtime` and `PrimaryInterface`: production runs it on threads over the hypervisor, the
explorer under every interleaving.  The mirror's text says why no wake-up is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hfsched.abi.ffa import PRIMARY_ID, Intid
from hfsched.errors import InternalError
from hfsched.hypervisor.interface import (
    Aborted,
    Busy,
    DirectResponse,
    Injection,
    Invalid,
    Message,
    NotifyWaiters,
    Preempted,
    PrimaryInterface,
    RunResult,
    WaitForInterrupt,
    WaitForMessage,
    WakeUp,
    Yield,
)
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import Mirror
from hfsched.observe.counters import VcpuCounters
from hfsched.scheduler.owners import VcpuOwners

if TYPE_CHECKING:
    from hfsched.mailbox.ports import Ports
    from hfsched.runtime.base import Cell, Runtime

__all__ = ["DirectRequest", "DrivenVm", "Driver"]


class DirectRequest:
    """A direct request on its way: w3..w7, and its result when `done` is set."""

    def __init__(self, runtime: Runtime, words: tuple[int, ...]) -> None:
        self.words = words
        self.result: RunResult = Invalid()
        self.done = runtime.event("direct-request.done")

    def key(self) -> object:
        """Return its state, hashable."""
        return self.words

    def finish(self, result: RunResult) -> None:
        """Publish the result."""
        self.result = result
        self.done.set()


def _request_cell(runtime: Runtime, name: str) -> Cell[DirectRequest | None]:
    return runtime.cell(name, None)


class DrivenVm:
    """The scheduler's record of one VM."""

    def __init__(
        self, runtime: Runtime, number: int, name: str, vcpus: int, mirror: Mirror
    ) -> None:
        self.id = number
        self.name = name
        self.mirror = mirror
        self.requests = [_request_cell(runtime, f"{name}.{index}.direct") for index in range(vcpus)]
        self.counters = [VcpuCounters() for _ in range(vcpus)]
        # For each vCPU, what its thread calls before and after it waits for room in a port.
        self.waits = [
            (partial(mirror.block, index), partial(mirror.unblock, index)) for index in range(vcpus)
        ]
        # Set when the VM's mailbox became writable for the host, or never will again.
        self.writable = runtime.event(f"{name}.writable")


class Driver:
    """Runs the vCPUs of all VMs.

    `on_abort(name, reason)` is called once when a VM dies, on a vCPU's thread, `on_idle` whenever a vCPU or
    a host sender may have begun to wait, on its thread; neither may block.  `mirror` makes a VM's mirror.
    """

    def __init__(
        self,
        runtime: Runtime,
        interface: PrimaryInterface,
        ports: Ports,
        on_abort: Callable[[str, str], None] = lambda _name, _reason: None,
        on_idle: Callable[[], None] = lambda: None,
        mirror: Callable[..., Mirror] = Mirror,
    ) -> None:
        self._runtime = runtime
        self._interface = interface
        self._ports = ports
        self._on_abort = on_abort
        self._on_idle = on_idle
        self._mirror = mirror
        self._vms: dict[int, DrivenVm] = {}
        self.owners = VcpuOwners(runtime, interface, ports)

    # Setup and teardown.

    def add(self, number: int, *, raw: bool) -> DrivenVm:
        """Add a VM; `raw` as `Ports.add` has it."""
        info = self._interface.info(number)
        if info is None:
            raise InternalError(f"no VM {number}")
        work = partial(self.owners.work, number)
        mirror = self._mirror(self._runtime, info.name, info.vcpus, self._on_idle, work)
        vm = DrivenVm(self._runtime, number, info.name, info.vcpus, mirror)
        self._vms[number] = vm
        self._ports.add(number, raw=raw)
        return vm

    def hold(self) -> None:
        """Before `start`: let no RUN and no send begin, until the end of a suspension that is to follow."""
        for vm in self._vms.values():
            vm.mirror.suspend()

    def start(self) -> None:
        """Start a thread for each vCPU."""
        for vm in self._vms.values():
            for index in range(len(vm.counters)):
                self.owners.start(vm, index, partial(self._own, vm, index))

    def _own(self, vm: DrivenVm, index: int) -> None:
        try:
            self.vcpu(vm, index)
        finally:
            self.owners.leave(vm.id, index)

    def stop(self, deadline: int | None = None) -> list[str]:
        """Stop every vCPU; return the names of those that did not stop before the deadline."""
        self._ports.stop()
        for vm in self._vms.values():
            for index in vm.mirror.stop():
                self._interface.preempt(vm.id, index)
            vm.writable.set()
        return self.owners.join(deadline)

    def suspend(self, deadline: int | None = None) -> bool:
        """Let no RUN begin until `resume`; return whether every RUN that executes ended before the deadline.

        One that only waits to execute lasts, and its thread sleeps on; it ends when work is posted to the thread.  Host senders wait, and none is half-way through.  A thread that holds a message for a port
        without room keeps it until `resume`.
        """
        for vm in self._vms.values():
            running = vm.mirror.suspend()
            kept_out = [each for each in running if self._interface.keep_out(vm.id, each)]
            if kept_out:
                vm.mirror.keep_out(kept_out)
        return self.wait_quiesced(deadline)

    def wait_quiesced(self, deadline: int | None = None) -> bool:
        """Wait, suspended or stopped, for RUNs and host senders to end; False at the deadline."""
        return all(vm.mirror.wait_quiesced(deadline) for vm in self._vms.values())

    def resume(self) -> None:
        """End a suspension."""
        for vm in self._vms.values():
            for index in vm.mirror.resume():
                self._interface.let_in(vm.id, index)

    @property
    def vms(self) -> list[DrivenVm]:
        """All VMs in the order of their ids."""
        return list(self._vms.values())

    def vm(self, number: int) -> DrivenVm:
        """Return one VM."""
        return self._vms[number]

    # The loop.

    def vcpu(self, vm: DrivenVm, index: int) -> None:
        """Run one vCPU until its VM is stopped or dead."""
        serving: DirectRequest | None = None
        counters = vm.counters[index]
        slot = vm.requests[index]
        try:
            while vm.mirror.before_run(index):
                request = None
                if slot.get() is not None and vm.mirror.take_direct_claim(index):
                    serving = request = slot.exchange(None)
                self._runtime.retain_only(serving, request is not None)
                if request is not None:
                    result = self._interface.direct_request(vm.id, index, request.words)
                else:
                    result = self._interface.run(vm.id, index)
                counters.runs[type(result)] += 1
                self._runtime.retain_only(serving, request is not None, result)
                if serving is not None and (
                    isinstance(result, DirectResponse | Aborted | Invalid)
                    or (request is not None and isinstance(result, Busy))
                ):
                    serving.finish(result)
                    serving = None
                if not self._react(vm, index, result):
                    return
        except BaseException:
            self.end_vm(vm, index)  # a bug of ours: the threads that wait for the VM are released
            raise
        finally:
            vm.mirror.leave(index)
            for left in (serving, slot.exchange(None)):
                if left is not None:
                    left.finish(Invalid())

    def _react(self, vm: DrivenVm, index: int, result: RunResult) -> bool:
        """React to a result of RUN; False: the thread ends."""
        match result:
            case WaitForMessage(timer=timer):
                vm.mirror.wait_for_message(index, self._deadline(timer))
            case Message(receiver=receiver):
                if receiver == PRIMARY_ID:
                    self.to_host(vm, index)
                else:
                    vm.counters[index].to_guests += 1
                    self.deliver(receiver)
            case WaitForInterrupt(timer=timer):
                vm.mirror.wait_for_interrupt(index, self._deadline(timer))
            case NotifyWaiters():
                self.notify_waiters(vm.id)
            case WakeUp(vm=number, vcpu=other):
                self._vms[number].mirror.wake(other)
            case Preempted() | DirectResponse():
                pass
            case Yield() | Busy():
                self._runtime.checkpoint("yield")
            case Aborted(reason=reason):
                self._abort(vm, index, reason)
                return False
            case Invalid():
                return vm.mirror.switched_off(index)
        return True

    def _deadline(self, timer: int | None) -> int | None:
        return None if timer is None else self._runtime.now() + timer

    def _abort(self, vm: DrivenVm, index: int, reason: str) -> None:
        if self.end_vm(vm, index):
            self._on_abort(vm.name, reason)

    def end_vm(self, vm: DrivenVm, index: int) -> bool:
        """Stop all of a VM, as vCPU `index` found it dead; False: that was known before."""
        running = vm.mirror.abort()
        if running is None:
            return False
        for other in running:
            if other != index:
                self._interface.preempt(vm.id, other)
        vm.writable.set()
        return True

    # Messages and wake-ups; any thread.

    def note_waiting(self) -> None:
        """Note that a host sender finds a mailbox full, and is about to wait."""
        self._on_idle()

    def deliver(self, number: int, *, ends_send: bool = False) -> None:
        """Deliver a message just written for VM `number`: claim a waiter, or interrupt a vCPU."""
        vm = self._vms[number]
        if not vm.mirror.deliver(ends_send=ends_send):
            self._interrupt(vm, Intid.MAILBOX_READABLE)

    def recover(self, number: int) -> None:
        """Deliver what a sender that died between send and deliver may have left.

        Harmless at any time: at worst it costs a spurious RUN.
        """
        info = self._interface.info(number)
        if info is not None and info.rx is RxState.RECEIVED:
            self.deliver(number)

    def notify_waiters(self, number: int) -> None:
        """Notify all waiters of the mailbox of `number` that it is writable."""
        while (waiter := self._interface.waiter(number)) is not None:
            if waiter == PRIMARY_ID:
                while (writable := self._interface.writable()) is not None:
                    self._vms[writable].writable.set()
            else:
                self._interrupt(self._vms[waiter], Intid.MAILBOX_WRITABLE)

    def direct_request(
        self, number: int, vcpu: int, words: tuple[int, ...], deadline: int | None = None
    ) -> RunResult | None:
        """Give a vCPU a direct request (w3..w7) and wait for its result.

        `DirectResponse`, or `Busy` when the vCPU does not wait for a message, or `Aborted` or
        `Invalid`; None at the deadline, with the request still running.
        """
        vm = self._vms.get(number)
        if vm is None or not 0 <= vcpu < len(vm.requests):
            return Invalid()
        if vm.mirror.ended():
            return Aborted("it has ended before")
        request = DirectRequest(self._runtime, words)
        slot = vm.requests[vcpu]
        if not slot.compare_and_set(None, request):
            return Busy()
        if not vm.mirror.claim_waiting(vcpu):
            slot.set(None)
            return Busy()
        return request.result if request.done.wait(deadline) else None

    def _interrupt(self, vm: DrivenVm, intid: int) -> None:
        """Interrupt the first vCPU that has the interrupt enabled."""
        for index in range(len(vm.counters)):
            self._runtime.retain_only(vm.id, index, intid, level=2)
            injection = self._interface.inject(vm.id, index, intid)
            if injection is Injection.WAKE:
                vm.mirror.wake(index)
                return
            if injection is Injection.PENDING:
                return

    def to_host(self, vm: DrivenVm, index: int) -> None:
        """Empty the primary's RX at once; this thread then waits for room in the port."""
        taken = self._interface.rx_take()
        if taken is None:
            raise InternalError(f"vm {vm.name}: a message for the host, and nothing in RX")
        if self._interface.rx_release():
            self.notify_waiters(PRIMARY_ID)
        counters = vm.counters[index]
        if self._ports.put(vm.id, taken[1], *vm.waits[index]):
            counters.to_host += 1
        else:
            counters.lost += 1
