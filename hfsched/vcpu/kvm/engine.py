"""The engine: /dev/kvm, and the machines made with it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hfsched.errors import ConfigError
from hfsched.vcpu.kvm import device
from hfsched.vcpu.kvm.space import KvmSpace
from hfsched.vcpu.kvm.tables import FirstTables

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["KvmEngine"]


class KvmEngine:
    """See `hfsched.vcpu.engine.Engine`.

    Raises ConfigError where KVM cannot be used, with the remedy.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.name = "kvm"
        self._runtime = runtime
        why_not = device.problem()
        if why_not is not None:
            raise ConfigError(f"engine kvm: {why_not}")
        self._core = device.core()
        error = self._core.lib.hfs_prepare()
        if error:
            raise ConfigError(f"engine kvm: no signal is left for kicks: {os.strerror(-error)}")
        self._fd = os.open(device.DEVICE, os.O_RDWR | os.O_CLOEXEC)
        self._run_size = self._core.lib.hfs_ioctl(
            self._fd, self._core.lib.KVM_GET_VCPU_MMAP_SIZE, 0
        )
        self._first_tables = FirstTables()
        self._spaces: set[KvmSpace] = set()  # not closed

    def space(self, name: str, vcpus: int) -> KvmSpace:
        """Return the machine of VM `name` with `vcpus` CPUs and no memory."""
        space = KvmSpace(
            self._runtime,
            self._core,
            self._fd,
            self._run_size,
            self._first_tables,
            name,
            vcpus,
            self._spaces.discard,
        )
        self._spaces.add(space)
        return space

    def close(self) -> None:
        """Close every space that is still open; no vCPU may be inside `enter`."""
        for space in list(self._spaces):
            space.close()
        self._first_tables.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
