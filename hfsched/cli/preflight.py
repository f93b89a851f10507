"""What a machine takes of the process's limits, looked at before anything is made.

The figures are a little more than a run was seen to take; a run that they let pass and that has too little
names the error's cause.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched import limits
from hfsched.errors import UserError

if TYPE_CHECKING:
    from hfsched.vmm.manifest import MachineSpec

__all__ = ["check_limits"]

_MIB = 1 << 20
_FILES, _FILES_VM, _FILES_VCPU, _FILES_SWAP = 22, 4, 2, 16
_SPACE, _SPACE_VCPU, _SPACE_SWAP = 160 * _MIB, 48 * _MIB, 32 * _MIB


def check_limits(spec: MachineSpec) -> None:
    """Raise UserError, which names the limit, if a machine cannot run within those of this process."""
    vcpus = sum(vm.vcpus for vm in spec.vm)
    files = _FILES + _FILES_VM * len(spec.vm) + _FILES_VCPU * vcpus
    memory = [vm.memory_bytes for vm in spec.vm]
    space = _SPACE + sum(memory) + _SPACE_VCPU * vcpus
    largest = max(memory)
    if spec.swap is not None:
        files += _FILES_SWAP
        space += _SPACE_SWAP
        largest = sum(memory)
    limits.raise_files(files)
    limits.save_space()
    problem = (
        limits.files_problem(files) or limits.space_problem(space) or limits.size_problem(largest)
    )
    if problem is not None:
        raise UserError(problem)
