"""What a machine has done and does: figures for summaries, `quiet`, and the policy of idle swap."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from hfsched.hypervisor.interface import Preempted
from hfsched.mailbox.mailbox import RxState

if TYPE_CHECKING:
    from hfsched.mailbox.mailbox import Mailbox
    from hfsched.mailbox.ports import Ports
    from hfsched.vmm.assembly import AssembledVm, Assembly

__all__ = [
    "QuietWatch",
    "SwapFault",
    "VmState",
    "VmSummary",
    "active_vcpus",
    "busy_vcpus",
    "runs_ended",
    "state_of",
    "summary_of",
]


class VmSummary(Struct, frozen=True):
    """What happened to one VM.

    Messages: accepted from the host, brought to the host, sent to other VMs; `rx`, "not mapped" or the
    state of RX; unread in the mailbox at the end, unread when the guest unmapped RX; for a host port that no program opened, for a connection that was closed, without a
    header, and not brought anywhere because the machine stopped.  `runs` counts RUNs by the name of
    their result, the most frequent first.  `vcpus` says what each vCPU does.
    """

    name: str
    from_host: int
    to_host: int
    to_guests: int
    rx: str
    unread: int
    unmapped: int
    unclaimed: int
    discarded: int
    malformed: int
    lost: int
    runs: dict[str, int]
    wake_ups: int
    spurious: int
    abort: str | None
    vcpus: tuple[str, ...]


class SwapFault(Struct, frozen=True):
    """A fault on memory that was out, which has been served; `number` counts those of a machine.

    `source`: mapped (it was in memory, but not mapped), staging, file, tier or zero.
    """

    number: int
    time: int  # ns, on the monotonic clock
    vm: str
    address: int  # guest-physical, of the page
    source: str
    ns: int  # from its event to the page


class VmState(Struct, frozen=True):
    """A VM as it is now: the state of each vCPU in words, and why it has ended (None: it has not)."""

    name: str
    vcpus: tuple[str, ...]
    abort: str | None


class QuietWatch:
    """Finds out, for one task, whether a machine is quiet.

    A look begins with the VM that was not at the last one, and goes round from there: it is asked at
    each VM's rest, and while many come to rest must not look at all of them every time.
    """

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._first = 0  # the index of that VM

    def look(self) -> bool:
        """Return whether every accepted message is released and nothing will happen by itself.

        All vCPUs wait with no deadline.  A look at one VM after another could miss a message that
        crosses from those not yet seen to those seen: so nothing may have been claimed meanwhile.
        """
        before = self._claims()
        return (
            before is not None and self._assembly.ports.waiting() == 0 and before == self._claims()
        )

    def _claims(self) -> int | None:
        vms, first = self._assembly.vms, self._first
        total = 0
        for number in range(first, first + len(vms)):
            index = number % len(vms)
            seen = vms[index].driven.mirror.quiet()
            if not seen.resting or not self._released(vms[index]):
                self._first = index
                return None
            total += seen.claims
        return total

    def _released(self, vm: AssembledVm) -> bool:
        info = self._assembly.interface.info(vm.id)
        assert info is not None
        return info.abort_reason is not None or (
            vm.outbox.waiting() == 0 and info.rx is RxState.EMPTY
        )


def busy_vcpus(vms: Sequence[AssembledVm]) -> dict[str, int]:
    """Return for each vCPU inside a RUN the number of its exits so far: it spins if that stays.

    A guest that waits for an interrupt inside RUN (arm64 under KVM) is left out.
    """
    return {
        f"{vm.name}.{vcpu.index}": vcpu.exits
        for vm in vms
        for vcpu in vm.record.vcpus
        if vm.driven.mirror.in_run(vcpu.index) and not vcpu.cpu.waits()
    }


def active_vcpus(vms: Sequence[AssembledVm]) -> dict[str, str]:
    """Return for each vCPU that will go on by itself why, in words.

    A guest that waits for an interrupt inside RUN is left out: whether it has a timer is not known.
    """
    found = {}
    for vm in vms:
        for vcpu in vm.record.vcpus:
            name, mirror = f"{vm.name}.{vcpu.index}", vm.driven.mirror
            if mirror.has_timer(vcpu.index):
                found[name] = "waits for its timer"
            elif mirror.in_run(vcpu.index) and not vcpu.cpu.waits():
                found[name] = "runs"
    return found


def runs_ended(vms: Sequence[AssembledVm]) -> int | None:
    """Return how many RUNs the guests have ended themselves; None while a vCPU is busy in one."""
    if busy_vcpus(vms):
        return None
    return sum(
        counters.runs.total() - counters.runs[Preempted]
        for vm in vms
        for counters in vm.driven.counters
    )


def state_of(vm: AssembledVm, assembly: Assembly) -> VmState:
    """Return the state of a VM."""
    info = assembly.interface.info(vm.id)
    assert info is not None
    return VmState(vm.name, info.states, info.abort_reason)


def summary_of(vm: AssembledVm, assembly: Assembly) -> VmSummary:
    """Return what happened to a VM so far."""
    info = assembly.interface.info(vm.id)
    assert info is not None
    ports: Ports = assembly.ports
    counters = vm.driven.counters
    runs: Counter[type] = Counter()
    for each in counters:
        runs.update(each.runs)
    with vm.record.lock:
        rx, unmapped = _rx_text(vm.record.mailbox), vm.record.unmapped
    unclaimed, discarded, malformed = ports.counts(vm.id)
    return VmSummary(
        name=vm.name,
        from_host=vm.outbox.accepted,
        to_host=sum(each.to_host for each in counters),
        to_guests=sum(each.to_guests for each in counters),
        rx=rx,
        unread=int(info.rx is RxState.RECEIVED),
        unmapped=unmapped,
        unclaimed=unclaimed,
        discarded=discarded,
        malformed=malformed,
        lost=sum(each.lost for each in counters),
        runs={result.__name__: count for result, count in runs.most_common()},
        wake_ups=vm.driven.mirror.wake_ups,
        spurious=vm.record.spurious,
        abort=info.abort_reason,
        vcpus=info.states,
    )


def _rx_text(mailbox: Mailbox) -> str:
    """Return the state of RX in words; under the VM's lock."""
    return "not mapped" if mailbox.rx is None else mailbox.state.value
