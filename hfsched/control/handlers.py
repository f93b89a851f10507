"""What each command of a group does, without sockets; `hfsched.control.commands` has their types.

The group `events`, and taking a snapshot, concern a connection: `hfsched.control.command_session` answers them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from hfsched import __version__
from hfsched.control import commands
from hfsched.control.commands import (
    Answer,
    CommandError,
    Done,
    MachineReport,
    MachineRequest,
    Suspension,
    SwapFaults,
    SwapReport,
    SwapRequest,
)
from hfsched.control.guest_handlers import ServingMachine, serve_guest_request
from hfsched.control.guest_messages import GuestRequest
from hfsched.control.snapshot_messages import SnapshotCancel, SnapshotReport, SnapshotStatus
from hfsched.control.snapshot_turn import layer_of
from hfsched.errors import HfschedError
from hfsched.memory.ram import PAGE_SIZE
from hfsched.swap.report.picture import cell_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hfsched.scheduler.userhold import UserHold
    from hfsched.vmm.attempt import Underway
    from hfsched.vmm.report import SwapFault, VmState
    from hfsched.vmm.snapshots import Snapshots
    from hfsched.vmm.swapping import MachineSwap

__all__ = ["CommandMachine", "carry_out"]


class CommandMachine(ServingMachine, Protocol):
    """What the commands need of a machine."""

    name: str
    swap: MachineSwap | None
    user_hold: UserHold
    snapshots: Snapshots

    def discard(self, name: str, ipa: int, size: int, deadline: int | None = None) -> None:
        """Make a range of a VM's memory zero, and give it back."""

    def faults(self, since: int = 0) -> list[SwapFault]:
        """Return the last faults on memory that was out, oldest first."""

    def vm_states(self) -> list[VmState]:
        """Return the state of each VM."""


def carry_out(
    machine: CommandMachine,
    request: MachineRequest | SwapRequest | SnapshotStatus | SnapshotCancel | GuestRequest,
    deadline: int,
) -> Answer:
    """Carry a request out by the deadline (ns); raises HfschedError for what cannot be done."""
    if isinstance(request, GuestRequest):
        return serve_guest_request(machine, request, deadline)
    match request:
        case commands.MachineStatus():
            return _machine_status(machine)
        case commands.MachineSuspend():
            return _suspension(machine, changed=machine.user_hold.suspend(deadline))
        case commands.MachineResume():
            return _suspension(machine, changed=machine.user_hold.resume(deadline))
        case (
            commands.SwapEnable()
            | commands.SwapTrim()
            | commands.SwapOut()
            | commands.SwapDisable()
            | commands.SwapDiscard()
            | commands.SwapLog()
            | commands.SwapStatus()
        ):
            return _swap(machine, request, deadline)
        case SnapshotStatus():
            return _snapshot(machine, machine.snapshots.look())
        case SnapshotCancel():
            cancelled = machine.snapshots.cancel()
            if cancelled is None:
                raise HfschedError(f"machine {machine.name}: no snapshot is under way")
            return _snapshot(machine, cancelled)


def _snapshot(machine: CommandMachine, underway: Underway | None) -> Answer:
    base = layer_of(machine.snapshots.base)
    if underway is None:
        return SnapshotReport(name=None, base=base)
    return SnapshotReport(
        name=underway.name,
        written=underway.written,
        done=underway.done,
        total=underway.total,
        base=base,
    )


def _machine_status(machine: CommandMachine) -> Answer:
    lacking = () if machine.swap is not None else ("swap",)
    report = MachineReport(
        name=machine.name,
        versions={"hfsched": __version__, "protocol": str(commands.VERSION)},
        groups=tuple(name for name in commands.GROUPS if name not in lacking),
        suspended_by=machine.suspended_by(),
        vms=tuple(machine.vm_states()),
    )
    return _fitting(report, "the machine has too many vCPUs for one reply")


def _suspension(machine: CommandMachine, *, changed: bool) -> Answer:
    return Suspension(name=machine.name, changed=changed, suspended_by=machine.suspended_by())


def _swap(machine: CommandMachine, request: SwapRequest, deadline: int) -> Answer:
    swap = machine.swap
    if swap is None:
        raise CommandError("no-group", "this machine has no swap: start it with --swap-dir DIR")
    names = machine.vm_names()
    if request.vm is not None and request.vm not in names:
        text = f"no VM {request.vm!r} in machine {machine.name}: {', '.join(names)}"
        raise CommandError("no-vm", text)
    match request:
        case commands.SwapEnable():
            return Done(pages=swap.enable(deadline))
        case commands.SwapTrim():
            swap.client.trim(deadline)
            return Done()
        case commands.SwapOut():
            swap.client.swap_out(deadline)
            return Done()
        case commands.SwapDisable(slow_file_cleanup=slow):
            swap.client.disable(slow_file_cleanup=slow, deadline=deadline)
            return Done()
        case commands.SwapDiscard(vm=vm, address=address, size=size):
            if vm is None:
                raise CommandError("no-vm", f"name the VM, one of {', '.join(names)}")
            machine.discard(vm, address, size, deadline)
            return Done(pages=size // PAGE_SIZE)
        case commands.SwapLog(vm=vm, since=since):
            there = machine.faults(since)
            some = [fault for fault in there if vm in (None, fault.vm)][: commands.FAULTS_MAX]
            last = some[-1] if len(some) == commands.FAULTS_MAX else there[-1] if there else None
            return SwapFaults(faults=tuple(some), next=since if last is None else last.number + 1)
        case commands.SwapStatus(vm=vm, fine=fine):
            return _swap_status(swap, names if vm is None else [vm], deadline, fine=fine)


def _swap_status(swap: MachineSwap, names: Sequence[str], deadline: int, *, fine: bool) -> Answer:
    cell = cell_size([swap.sizes[name] for name in names], commands.CELLS_MAX, fine=fine)
    status, memory = swap.status(deadline), swap.footprint.measure()
    metrics = status.metrics
    there = memory.guests // PAGE_SIZE - metrics.staged - metrics.busy
    report = SwapReport(
        status=status,
        memory=memory,
        empty=max(0, metrics.resident - max(0, there)),
        cell=cell * PAGE_SIZE,
        pictures=swap.pictures(names, cell),
    )
    return _fitting(report, "this is too much for one reply: ask for one VM")


def _fitting(report: Answer, otherwise: str) -> Answer:
    if len(commands.encode(report)) > commands.ANSWER_MAX:
        raise HfschedError(otherwise)
    return report
