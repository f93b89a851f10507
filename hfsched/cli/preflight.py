"""What a machine takes of the process's limits, looked at before anything is made.

The figures are a little more than a run was seen to take; a run that they let pass and that has too little
names the error's cause.  A guest for whose services there is too little goes on without them, as a line says.  Of descriptors a *reserve* is left, which no client gets: for refusing clients,
for the end of the run, and for replacing swap's monitor and the process that starts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hfsched import limits
from hfsched.errors import UserError

if TYPE_CHECKING:
    from hfsched.vmm.manifest import MachineSpec

__all__ = ["Clients", "check_limits", "clients_within", "spare_for_clients"]

_MIB = 1 << 20
_FILES, _FILES_VM, _FILES_VCPU, _FILES_SWAP = 16, 4, 2, 16
_FILES_SERVICES = 20  # of a VM whose guest offers utility services, which is not known before
_FILES_DEVICE = 10  # of a device with one queue; another queue takes two more
_RESERVE, _RESERVE_SWAP = 8, 16
_OWN = 8  # at the start, with the standard streams; what is more was inherited
_SPACE, _SPACE_VCPU, _SPACE_SWAP = 160 * _MIB, 48 * _MIB, 32 * _MIB
_PORT_FILES, _COMMAND_FILES = 3, 2  # of a client


class Clients(NamedTuple):
    """How many clients may be connected to the ports, be there without a hello, and at a control socket."""

    ports: int
    silent: int
    commands: int


MOST = Clients(256, 16, 16)


def clients_within(spare: int, control_sockets: int) -> Clients:
    """Return how many clients `spare` descriptors are enough for; half of them are for the ports."""
    commands = min(MOST.commands, spare // 2 // (_COMMAND_FILES * control_sockets))
    spare -= commands * _COMMAND_FILES * control_sockets
    silent = min(MOST.silent, spare // 4)
    return Clients(min(MOST.ports, (spare - silent) // _PORT_FILES), silent, commands)


def spare_for_clients(spare: int, vms: int) -> int:
    """Return how many of `spare` descriptors clients may have: those of guests' services are left, but at most half."""
    return max(spare - _FILES_SERVICES * vms, spare // 2)


def check_limits(spec: MachineSpec, control_sockets: int, *, served: bool = False) -> Clients:
    """Raise this process's limit on descriptors as far as needed; return the clients that it is enough for.

    `served`: its page faults are, without a swap file too.  Raises UserError, which names the limit, if the machine
    cannot run within those of this process.
    """
    vcpus = sum(vm.vcpus for vm in spec.vm)
    files = _FILES + _FILES_VM * len(spec.vm) + _FILES_VCPU * vcpus + _RESERVE
    files += _FILES_DEVICE * sum(len(vm.device) for vm in spec.vm)
    files += max(0, limits.open_files() - _OWN)
    memory = [vm.memory_bytes for vm in spec.vm]
    space = _SPACE + sum(memory) + _SPACE_VCPU * vcpus
    largest = max(memory)
    if spec.swap is not None or served:
        files += _FILES_SWAP + _RESERVE_SWAP
        space += _SPACE_SWAP
        largest = sum(memory)
    for_clients = (
        MOST.ports * _PORT_FILES + MOST.silent + MOST.commands * _COMMAND_FILES * control_sockets
    )
    vms = len(spec.vm)
    allowed = limits.raise_files(files + for_clients + _FILES_SERVICES * vms)
    limits.save_space()
    problem = (
        limits.files_problem(files) or limits.space_problem(space) or limits.size_problem(largest)
    )
    if problem is not None:
        raise UserError(problem)
    spare = spare_for_clients(allowed - files, vms)
    return clients_within(min(spare, for_clients), control_sockets)
