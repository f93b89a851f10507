"""What lasts too long in a running machine: messages that no vCPU takes or reads, and vCPUs that spin.

A message that stays unread although nothing runs is what a lost wake-up looks like, or a guest that
waits for something else.  Both are found by looking twice, a second apart, at what may not have changed
meanwhile; nothing here takes part in running the guests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.abi.ffa import HYPERVISOR_ID, INTERRUPT_IDS, PRIMARY_ID, Intid
from hfsched.hypervisor.vm import VcpuState
from hfsched.mailbox.mailbox import RxState
from hfsched.mailbox.mirror import VcpuActivity

if TYPE_CHECKING:
    from hfsched.hypervisor.vm import Vcpu
    from hfsched.mailbox.mailbox import Header, Mailbox
    from hfsched.vmm.assembly import AssembledVm

__all__ = ["STALL", "StallWatch"]

STALL = 1_000_000_000  # ns for which it lasts before it is reported
_INTERVAL = STALL // 2  # ns between two looks, while something runs

_WAITS = {
    VcpuState.OFF: "is off",
    VcpuState.READY: "could run",
    VcpuState.RUNNING: "runs",
    VcpuState.BLOCKED_MAILBOX: "waits for a message",
    VcpuState.BLOCKED_INTERRUPT: "waits for an interrupt",
    VcpuState.ABORTED: "has aborted",
}
_NAMES: dict[int, str] = {
    Intid.MAILBOX_READABLE: " mailbox readable",
    Intid.MAILBOX_WRITABLE: " mailbox writable",
    Intid.VIRTUAL_TIMER: " timer",
}


_NOT_MAPPED = "RX is not mapped (FFA_RXTX_MAP)"
_NOT_RELEASED = "RX is not released (FFA_RX_RELEASE)"


class _Unread(Struct):
    what: object  # the message's header, this very object: each has its own; or why none is taken
    claims: int
    since: int
    reported: bool = False


class _Spin(Struct):
    exits: int
    since: int
    ran: int | None = None  # the processor time of its thread then
    reported: bool = False


class StallWatch:
    """Looks at the VMs of one machine; for one task.

    `program_counter(vcpu)` returns where a vCPU is, named "VM.INDEX", None if that cannot be found out.
    `processor_time(vm id, index)` is the ns for which a vCPU's thread has run, None if that is unknown:
    among a thousand that start, a vCPU waits much longer for its turn than a second.
    """

    def __init__(
        self,
        vms: Sequence[AssembledVm],
        program_counter: Callable[[str], int | None],
        processor_time: Callable[[int, int], int | None] = lambda _vm, _index: None,
    ) -> None:
        self._vms = vms
        self._names = {vm.id: f"vm {vm.name}" for vm in vms}
        self._program_counter = program_counter
        self.processor_time = processor_time
        self._unread: dict[int, _Unread] = {}
        self._spins: dict[tuple[int, int], _Spin] = {}
        self._looked: int | None = None
        self.next: int | None = None
        """When to look again, in ns on the runtime's clock; None: not before something happens."""

    def look(self, now: int) -> list[str]:
        """Return what has lasted for a second, in words, each once; looks no sooner than at `next`.

        Call it at `next`, and whenever something may have happened.
        """
        if self.next is None:
            self.next = now if self._looked is None else max(now, self._looked + _INTERVAL)
        if now < self.next:
            return []
        self._looked = now
        found: list[str] = []
        due: list[int] = []
        for vm in self._vms:
            self._look_unread(vm, now, found, due)
            for vcpu in vm.record.vcpus:
                self._look_spin(vm, vcpu, now, found, due)
        self.next = min(due, default=None)
        return found

    def restart(self) -> None:
        """Count from now on: the machine was suspended."""
        self._unread.clear()
        for spin in self._spins.values():
            spin.exits = -1

    def _look_unread(self, vm: AssembledVm, now: int, found: list[str], due: list[int]) -> None:
        mirror = vm.driven.mirror
        claims = mirror.quiet().claims
        asleep = all(
            mirror.activity(vcpu.index) is not VcpuActivity.RUNNING for vcpu in vm.record.vcpus
        )
        waiting = vm.outbox.waiting() > 0
        with vm.record.lock:
            what, ended = _unread_in(vm.record.mailbox, waiting=waiting), vm.record.aborting
        if what is None:
            self._unread.pop(vm.id, None)
            return
        if not asleep or ended:
            return
        seen = self._unread.get(vm.id)
        if seen is None or seen.what is not what:
            seen = self._unread[vm.id] = _Unread(what, claims, now)
        elif seen.claims != claims:
            seen.claims, seen.since = claims, now
        if seen.reported:
            return
        if now < seen.since + STALL:
            due.append(seen.since + STALL)
            return
        seen.reported = True
        found.append(self._unread_text(vm, what))

    def _unread_text(self, vm: AssembledVm, what: Header | str) -> str:
        with vm.record.lock:
            waits = "; ".join(_wait_text(vcpu) for vcpu in vm.record.vcpus)
        if isinstance(what, str):
            return (
                f"vm {vm.name}: a message from the host has waited for 1 s: {what}, and no vCPU runs:"
                f" {waits}"
            )
        return (
            f"vm {vm.name}: a message of {what.size} bytes from {self._sender(what.sender)} has been"
            f" unread for 1 s, and no vCPU runs: {waits}"
        )

    def _sender(self, number: int) -> str:
        if number == PRIMARY_ID:
            return "the host"
        if number == HYPERVISOR_ID:
            return "the hypervisor"
        return self._names.get(number, f"VM {number:#x}")

    def _look_spin(
        self, vm: AssembledVm, vcpu: Vcpu, now: int, found: list[str], due: list[int]
    ) -> None:
        where = (vm.id, vcpu.index)
        if not vm.driven.mirror.in_run(vcpu.index) or vcpu.cpu.waits():
            spin = self._spins.get(where)
            if spin is not None:
                spin.exits = -1
            return
        due.append(now + _INTERVAL)
        spin = self._spins.setdefault(where, _Spin(-1, now))
        if spin.exits != vcpu.exits:
            spin.exits, spin.since = vcpu.exits, now
            spin.ran = self.processor_time(*where)
        elif now >= spin.since + STALL and not spin.reported and self._has_run(where, spin):
            spin.reported = True
            counter = self._program_counter(f"{vm.name}.{vcpu.index}")
            at = "" if counter is None else f"; pc {counter:#x}"
            text = f"vm {vm.name}: vCPU {vcpu.index} has run for 1 s without a hypercall or WFI{at}"
            found.append(text)

    def _has_run(self, where: tuple[int, int], spin: _Spin) -> bool:
        """Return whether a vCPU has had a processor for a second, as far as that is known."""
        ran = self.processor_time(*where)
        return ran is None or spin.ran is None or ran - spin.ran >= STALL


def _unread_in(mailbox: Mailbox, *, waiting: bool) -> Header | str | None:
    """Return the header of the unread message, or why none that is `waiting` is taken; under the VM's lock."""
    if mailbox.state is RxState.RECEIVED:
        return mailbox.message
    if not waiting:
        return None
    return _NOT_MAPPED if mailbox.rx is None else _NOT_RELEASED


def _wait_text(vcpu: Vcpu) -> str:
    """Say what a vCPU waits for, and which interrupts could end that; under the VM's lock."""
    text = f"vCPU {vcpu.index} {_WAITS[vcpu.state]}"
    if vcpu.state is VcpuState.OFF:
        return text
    interrupts = vcpu.interrupts
    pending = _ids(interrupts.pending | interrupts.high)
    return f"{text} (enabled: {_ids(interrupts.enabled)}; pending: {pending})"


def _ids(bits: int) -> str:
    ids = [intid for intid in range(INTERRUPT_IDS) if bits >> intid & 1]
    return ", ".join(f"{intid}{_NAMES.get(intid, '')}" for intid in ids) or "none"
