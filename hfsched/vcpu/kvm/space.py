"""One VM's machine under KVM: its memory slots and its CPUs.

Slots are changed while no CPU is in the guest: a change deletes a slot before it adds another in its
place, and a guest must not see the state in between.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING, Any

from hfsched.errors import ConfigError, InternalError
from hfsched.runtime.base import guards_nothing
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.kvm import tables
from hfsched.vcpu.kvm.cpu import ARGUMENT_REGISTERS, KvmVcpu
from hfsched.vcpu.kvm.device import MACHINE
from hfsched.vcpu.kvm.gate import Gate
from hfsched.vcpu.kvm.slots import Region, Slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from hfsched.memory.ram import Ram
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.engine import Vcpu

__all__ = ["KvmSpace"]

_COUNTER = (1 << 64) - 1


class KvmSpace:
    """See `hfsched.vcpu.engine.Space`."""

    def __init__(
        self,
        runtime: Runtime,
        core: Any,
        kvm: int,
        run_size: int,
        first_tables: tables.FirstTables,
        name: str,
        vcpus: int,
        on_close: Callable[[KvmSpace], None] = lambda _space: None,
    ) -> None:
        self.name = name
        self.argument_registers = ARGUMENT_REGISTERS
        self._core = core
        self._kvm = kvm
        self._run_size = run_size
        self._first_tables = first_tables
        self._on_close = on_close
        self._vcpus: list[KvmVcpu | None] = [None] * vcpus
        self._slots = Slots()
        self._lock = runtime.lock(f"{name}.slots", state=guards_nothing)  # but what the kernel has
        self._gate = Gate(runtime, name)
        self._first: tuple[int, int] | None = None  # the first page tables: host address, size
        self.changes = 0
        self._frozen: list[KvmVcpu] = []
        self.closed = False
        self._vm = core.lib.hfs_ioctl(kvm, core.lib.KVM_CREATE_VM, 0)
        if self._vm < 0:
            why = os.strerror(-self._vm)
            self.closed = True
            self._gate.close()
            raise ConfigError(f"vm {name}: engine kvm: no machine can be made: {why}")
        error = core.lib.hfs_prepare_vm(self._vm)
        if error:
            self.close()
            raise ConfigError(f"vm {name}: engine kvm: {os.strerror(-error)}")

    def vcpu(self, index: int) -> Vcpu:
        """Return CPU `index`, made at the first call."""
        self._check_open()
        if not 0 <= index < len(self._vcpus):
            raise InternalError(f"{self.name} has {len(self._vcpus)} vCPUs, there is no {index}")
        with self._lock:  # a memory change keeps only the CPUs out that exist
            vcpu = self._vcpus[index]
            if vcpu is None:
                vcpu = KvmVcpu(self._core, self._kvm, self._vm, index, self._run_size, self)
                vcpu.set_tables(tables.ADDRESS)
                self._vcpus[index] = vcpu
            return vcpu

    def map(self, ipa: int, ram: Ram, offset: int, size: int, permissions: Permissions) -> None:
        """Map `size` bytes of `ram` at `ipa`, replacing what was there."""
        self._check_open()
        if offset < 0 or offset % 4096 or offset + size > ram.size:
            raise InternalError(f"{self.name}: [{offset:#x}, +{size:#x}) is not in {ram.name}")
        with self._lock:
            if MACHINE == "x86_64":
                self._map_tables(ipa, ipa + size)
            self._slots.map(Region(ipa, size, ram.address + offset, permissions))
            self._apply()

    def unmap(self, ipa: int, size: int) -> None:
        """Unmap `size` bytes at `ipa`: accesses fault."""
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

    def freeze(self) -> None:
        """Stop the guests' counters and timers."""
        with self._lock:
            if not self.closed and not self._frozen:
                self._frozen = self._made()
                for vcpu in self._frozen:
                    vcpu.freeze(self._frozen[0].clock())

    def thaw(self) -> None:
        """Resume them; does nothing once the machine is closed."""
        with self._lock:
            frozen, self._frozen = self._frozen, []
            for vcpu in frozen:
                if not self.closed:
                    vcpu.thaw(frozen[0])

    def set_back(self, ns: int) -> None:
        """Set them back while they are stopped."""
        with self._lock:
            if self._frozen and not self.closed:
                count = self._frozen[0].count_before(ns)
                for vcpu in self._frozen:
                    vcpu.freeze(count)

    @property
    def counter_hz(self) -> int:
        """See `engine.Space`."""
        self.vcpu(0)  # made, if it was not
        return self._made()[0].counter_hz

    def set_counter_hz(self, frequency: int) -> None:
        """Refuse another frequency than the host's: raises UserError."""
        if frequency != self.counter_hz:
            raise ConfigError(
                f"vm {self.name}: engine kvm: its counter has {frequency} Hz, this host's {self.counter_hz}"
            )

    def counter(self) -> int:
        """Return what they show while they are stopped (arm64: ticks, x86-64: ns)."""
        with self._lock:
            return self._frozen[0].clock() if self._frozen else 0

    def set_counter(self, count: int) -> None:
        """Make them show `count` while they are stopped."""
        with self._lock:
            if not self.closed:
                for vcpu in self._frozen:
                    vcpu.freeze(count)

    def ticks(self) -> int:
        """Return what they show while they are stopped."""
        return self.counter()

    def set_ticks(self, ticks: int) -> None:
        """Make them show `ticks` while they are stopped; raises UserError for more than 64 bits."""
        if not 0 <= ticks <= _COUNTER:
            raise ConfigError(f"vm {self.name}: a counter of 64 bits cannot be at {ticks:#x}")
        self.set_counter(ticks)

    def close(self) -> None:
        """Free the machine."""
        with self._lock:  # another thread may be in freeze or thaw
            if self.closed:
                return
            self.closed = True
            for vcpu in self._made():
                vcpu.close()
            os.close(self._vm)
            self._gate.close()
        self._on_close(self)

    # For a CPU

    def wait(self) -> None:
        """Wait until CPUs may be in the guest."""
        self._gate.wait()

    def has(self, ipa: int) -> bool:
        """Return whether the guest may read and execute there."""
        with self._lock:
            region = self._slots.find(ipa)
            return region is not None and Permissions.READ in region.permissions

    def store(self, ipa: int, data: bytes) -> bool:
        """Write for the guest, inside one page; return whether the guest may write there."""
        with self._lock:
            region = self._slots.find(ipa)
            if region is None or Permissions.RW not in region.permissions:
                return False
            ctypes.memmove(region.host + ipa - region.ipa, data, len(data))
            return True

    def load(self, ipa: int, size: int) -> bytes:
        """Return so many bytes of the guest's memory, less where it ends, none where there is none."""
        with self._lock:
            region = self._slots.find(ipa)
            if region is None or Permissions.READ not in region.permissions:
                return b""
            size = min(size, region.ipa + region.size - ipa)
            return ctypes.string_at(region.host + ipa - region.ipa, size)

    def _map_tables(self, start: int, end: int) -> None:
        """Make the first page tables, which reach as far as the memory does, [start, end) too."""
        memory = [each for each in self._slots.top() if each[0] != tables.ADDRESS]
        memory.append((start, end))
        made = host, size = self._first_tables.get(memory)
        for first, last in memory:
            if first < tables.ADDRESS + size and last > tables.ADDRESS:
                raise ConfigError(
                    f"vm {self.name}: memory [{first:#x}, {last:#x}) overlaps the first page tables"
                    f" at {tables.ADDRESS:#x}: give it another base"
                )
        if made == self._first:
            return
        if self._first is not None:
            self._slots.unmap(tables.ADDRESS, self._first[1])
        self._first = made
        self._slots.map(Region(tables.ADDRESS, size, host, Permissions.RX))

    def _apply(self) -> None:
        """Apply the changes to the kernel's slots, with every CPU out of the guest."""
        changes = self._slots.changes()
        if not changes:
            return
        made = self._made()
        with self._gate.closed():
            for vcpu in made:
                vcpu.force_exit()
            for vcpu in made:
                vcpu.wait_outside()
            for change in changes:
                self._set(change.slot, change.region, read_only=change.read_only)
            self.changes += 1

    def _set(self, slot: int, region: Region | None, *, read_only: bool) -> None:
        lib = self._core.lib
        flags = lib.KVM_MEM_READONLY if read_only else 0
        where = (0, 0, 0) if region is None else (region.ipa, region.size, region.host)
        error = lib.hfs_set_memory(self._vm, slot, 0 if region is None else flags, *where)
        if error:
            raise InternalError(f"{self.name}: memory slot {slot}: {os.strerror(-error)}")

    def _made(self) -> list[KvmVcpu]:
        return [vcpu for vcpu in self._vcpus if vcpu is not None]

    def _check_open(self) -> None:
        if self.closed:
            raise InternalError(f"the machine of {self.name} is closed")
