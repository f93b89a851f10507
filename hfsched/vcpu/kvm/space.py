"""One VM's machine under KVM: its memory slots and its CPUs.

Slots are changed while no CPU is in the guest: a change takes a slot away before it puts another in
its place, and a guest must not see what is between.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from typing import TYPE_CHECKING, Any

from hfsched.errors import ConfigError, InternalError
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.kvm import tables
from hfsched.vcpu.kvm.cpu import KvmVcpu
from hfsched.vcpu.kvm.device import MACHINE
from hfsched.vcpu.kvm.slots import Region, Slots

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Vcpu

__all__ = ["KvmSpace"]


class KvmSpace:
    """See `hfsched.vcpu.engine.Space`."""

    def __init__(
        self, runtime: Runtime, core: Any, kvm: int, run_size: int, name: str, vcpus: int
    ) -> None:
        self.name = name
        self._core = core
        self._kvm = kvm
        self._run_size = run_size
        self._vcpus: list[KvmVcpu | None] = [None] * vcpus
        self._slots = Slots()
        self._lock = runtime.lock(f"{name}.slots")
        self._gate = runtime.event(f"{name}.gate")  # set: CPUs may enter the guest
        self._gate.set()
        self._first: mmap.mmap | None = None  # the first page tables
        self.closed = False
        self._vm = core.lib.hf_ioctl(kvm, core.lib.KVM_CREATE_VM, 0)
        if self._vm < 0:
            why = os.strerror(-self._vm)
            self.closed = True
            self._gate.close()
            raise ConfigError(f"vm {name}: engine kvm: no machine can be made: {why}")
        error = core.lib.hf_prepare_vm(kvm, self._vm)
        if error:
            self.close()
            raise ConfigError(f"vm {name}: engine kvm: {os.strerror(-error)}")

    def vcpu(self, index: int) -> Vcpu:
        """Return CPU `index`, made at the first call."""
        self._check_open()
        if not 0 <= index < len(self._vcpus):
            raise InternalError(f"{self.name} has {len(self._vcpus)} vCPUs, there is no {index}")
        vcpu = self._vcpus[index]
        if vcpu is None:
            vcpu = KvmVcpu(self._core, self._kvm, self._vm, index, self._run_size, self._wait)
            vcpu.set_tables(tables.ADDRESS)
            self._vcpus[index] = vcpu
        return vcpu

    def map(self, ipa: int, ram: Ram, offset: int, size: int, permissions: Permissions) -> None:
        """Let the guest see `size` bytes of `ram` at `ipa`, instead of what was there."""
        self._check_open()
        if offset < 0 or offset % 4096 or offset + size > ram.size:
            raise InternalError(f"{self.name}: [{offset:#x}, +{size:#x}) is not in {ram.name}")
        with self._lock:
            self._slots.map(Region(ipa, size, ram.address + offset, permissions))
            if MACHINE == "x86_64":
                self._map_tables()
            self._apply()

    def unmap(self, ipa: int, size: int) -> None:
        """Let accesses to `size` bytes at `ipa` fault."""
        self._check_open()
        with self._lock:
            self._slots.unmap(ipa, size)
            self._apply()

    def protect(self, ipa: int, size: int, permissions: Permissions) -> None:
        """Change what the guest may do with what is mapped in `size` bytes at `ipa`."""
        self._check_open()
        with self._lock:
            self._slots.protect(ipa, size, permissions)
            self._apply()

    def close(self) -> None:
        """Free the machine."""
        if self.closed:
            return
        self.closed = True
        for vcpu in self._made():
            vcpu.close()
        os.close(self._vm)
        if self._first is not None:
            self._first.close()
        self._gate.close()

    def _wait(self) -> None:
        self._gate.wait()

    def _map_tables(self) -> None:
        """Make the first page tables, which reach as far as the memory does."""
        old = None if self._first is None else len(self._first)
        if old is not None:
            self._slots.unmap(tables.ADDRESS, old)
        data = tables.identity(self._slots.top())
        for start, end in self._slots.top():
            if start < tables.ADDRESS + len(data) and end > tables.ADDRESS:
                raise ConfigError(
                    f"vm {self.name}: memory [{start:#x}, {end:#x}) overlaps the first page tables"
                    f" at {tables.ADDRESS:#x}: give it another base"
                )
        if old == len(data) and self._first is not None:
            self._first[:] = data
        else:
            # The old ones stay until the machine has gone: a slot still points there.
            self._first = mmap.mmap(-1, len(data))
            self._first.madvise(mmap.MADV_DONTFORK)
            self._first[:] = data
        host = ctypes.addressof(ctypes.c_char.from_buffer(self._first))
        self._slots.map(Region(tables.ADDRESS, len(data), host, Permissions.RX))

    def _apply(self) -> None:
        """Tell the kernel what has changed, with every CPU out of the guest."""
        changes = self._slots.changes()
        if not changes:
            return
        made = self._made()
        self._gate.clear()
        try:
            for vcpu in made:
                vcpu.poke()
            for vcpu in made:
                vcpu.wait_out()
            for change in changes:
                self._set(change.slot, change.region, read_only=change.read_only)
        finally:
            self._gate.set()

    def _set(self, slot: int, region: Region | None, *, read_only: bool) -> None:
        lib = self._core.lib
        flags = lib.KVM_MEM_READONLY if read_only else 0
        where = (0, 0, 0) if region is None else (region.ipa, region.size, region.host)
        error = lib.hf_set_memory(self._vm, slot, 0 if region is None else flags, *where)
        if error:
            raise InternalError(f"{self.name}: memory slot {slot}: {os.strerror(-error)}")

    def _made(self) -> list[KvmVcpu]:
        return [vcpu for vcpu in self._vcpus if vcpu is not None]

    def _check_open(self) -> None:
        if self.closed:
            raise InternalError(f"the machine of {self.name} is closed")
