"""A vCPU under KVM: the C core's exits as those of the protocol."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, Any, Protocol

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.engine import Conduit, Exit, Failed, Fault, Hypercall, Kicked, Mmio, Timer, Wfi
from hfsched.vcpu.kvm.beyond import beyond, first_values
from hfsched.vcpu.kvm.device import MACHINE
from hfsched.vcpu.kvm.failure import Describer
from hfsched.vcpu.kvm.registers import RegisterFile
from hfsched.vcpu.kvm.stats import Stats
from hfsched.vcpu.portable import PortableCpu, checked, missing_here, portable_of
from hfsched.vcpu.registers import ARGUMENTS, ARM64_ARGUMENTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hfsched.vcpu.registers import Registers

__all__ = ["ARGUMENT_REGISTERS", "KvmVcpu"]

ARGUMENT_REGISTERS = ARM64_ARGUMENTS if MACHINE == "aarch64" else ARGUMENTS

# Used at every hypercall.  After an exit the caches are cold, and each lookup costs several times what
# it does in a loop.
_KICKED, _TIMER, _WFI = Kicked(), Timer(), Wfi()
_HVC, _SMC = Conduit.HVC, Conduit.SMC
_WORD = (1 << 64) - 1
_ARGS = struct.Struct("=8Q").unpack_from
_REPLIES = tuple(
    struct.Struct(f"={1 + count}Q").pack_into for count in range(ARM64_ARGUMENTS + 1)
)  # {count, values}


class Machine(Protocol):
    """What a CPU uses of its space, on the thread of its owner."""

    changes: int  # of memory, so far

    def wait(self) -> None:
        """Wait until CPUs may be in the guest."""

    def has(self, ipa: int) -> bool:
        """Return whether the guest may read and execute there."""

    def store(self, ipa: int, data: bytes) -> bool:
        """Write for the guest, inside one page; return whether the guest may write there."""

    def load(self, ipa: int, size: int) -> bytes:
        """Return so many bytes of the guest's memory, less where it ends, none where there is none."""


class KvmVcpu:
    """See `hfsched.vcpu.engine.Vcpu`."""

    def __init__(
        self, core: Any, kvm: int, vm: int, index: int, run_size: int, machine: Machine
    ) -> None:
        self.index = index
        self._core, self._ffi, self._lib = core, core.ffi, core.lib
        self._register_file: RegisterFile | None = None  # made when it is first asked for
        self._machine = machine
        self._host = kvm, run_size
        self._cpu = core.ffi.gc(core.ffi.new("struct hfs_cpu *"), core.lib.hfs_free)
        self._exit = self._cpu.exit
        self._args = core.ffi.buffer(core.ffi.addressof(self._cpu.exit, "args"))
        reply = core.ffi.buffer(core.ffi.addressof(self._cpu, "reply"))
        self._reply = memoryview(reply).cast("B").cast("Q")  # {count, values}
        self._enter, self._hvc = core.lib.hfs_enter, core.lib.HFS_HVC
        self._left = core.ffi.new("int64_t *")
        self._failure: Failed | None = None
        self._condemned: Failed | None = None
        self._fault: Mmio | Fault | None = None
        self._unemulated: tuple[int, int] | None = None  # the last HFS_FETCH {address, `changes`}
        self._open = False
        self._check(self._lib.hfs_open(self._cpu, kvm, vm, index, run_size), "no vCPU can be made")
        self._open = True
        # Where WFI stays in the kernel, only this reports it; KVM_RUN would block the opening.
        self._stats = Stats(self._lib.hfs_stats(self._cpu)) if MACHINE == "aarch64" else None

    def _check(self, result: int, what: str) -> None:
        if result < 0:
            raise InternalError(f"engine kvm: {what}: {os.strerror(-result)}")

    # The protocol, any thread

    def kick(self) -> None:
        """Make the running or the next `enter` return `Kicked`."""
        if self._open:
            self._lib.hfs_kick(self._cpu)

    def condemn(self, reason: str) -> None:
        """Make the running `enter`, and each one after it, return `Failed(reason)`."""
        self._condemned = Failed(reason)
        self.kick()

    def keep_out(self) -> bool:
        """Kick it: a vCPU inside `enter` is in the guest."""
        self.kick()
        return False

    def let_in(self) -> None:
        """Do nothing: no vCPU is kept out."""

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        """Raise or lower the interrupt line."""
        if self._open:
            self._check(self._lib.hfs_set_line(self._cpu, level), "the interrupt line")

    # The protocol, the owner

    def reset(self, pc: int, arg: int) -> None:
        """Put the CPU in its initial state."""
        self._failure = None
        self._fault = None
        self._unemulated = None
        self._check(self._lib.hfs_reset(self._cpu, pc, arg), "reset")

    def enter(self) -> Exit:
        """Run to the next exit."""
        if self._failure is not None:
            return self._failure
        if self._fault is not None and not self._repeat_access():
            return self._fault
        while True:
            kind = self._enter(self._cpu)
            if self._condemned is not None:
                return self._condemned
            if kind == self._hvc:
                return Hypercall(_HVC, _ARGS(self._args))
            lib = self._lib
            if kind == lib.HFS_SMC:
                return Hypercall(_SMC, _ARGS(self._args))
            if kind == lib.HFS_FORCED:
                self._machine.wait()
                continue
            stop = self._other(kind)
            if stop is not None:
                return stop

    def _repeat_access(self) -> bool:
        """Make the guest repeat an unanswered access; return False if it must be reported again."""
        fault = self._fault
        if isinstance(fault, Mmio):
            result = self._lib.hfs_cancel_access(self._cpu)
            self._check(result, "MMIO")
            data = fault.value.to_bytes(8, "little")[: fault.size]
            remains = result == self._lib.HFS_WRITE_REMAINS
            if remains and not self._machine.store(fault.address, data):
                return False
        self._fault = None
        return True

    def _other(self, kind: int) -> Exit | None:
        lib = self._lib
        said = self._exit
        if kind == lib.HFS_KICKED:
            return _KICKED
        if kind == lib.HFS_TIMER:
            return _TIMER
        if kind == lib.HFS_WFI:
            return _WFI
        if kind == lib.HFS_MMIO:
            self._fault = Mmio(said.address, said.size, bool(said.write), said.value)
            return self._fault
        if kind == lib.HFS_UNDECODED:
            write = bool(said.write)
            self._fault = Fault(said.address, said.virtual_address, write=write, fetch=False)
            return self._fault
        if kind == lib.HFS_FETCH:
            return self._fetch()
        return self._fail()

    def _fetch(self) -> Exit | None:
        """Return `Fault` for missing memory, `Failed` for an instruction that KVM cannot emulate.

        None: enter again.
        """
        said = self._exit
        start = said.virtual_address
        for address, virtual in ((said.address, start), (said.value, (start | 4095) + 1)):
            if not self._machine.has(address):
                said.address = address
                self._fault = Fault(address, virtual, write=False, fetch=True)
                return self._fault
        instruction = (start, self._machine.changes)
        if instruction == self._unemulated:
            return self._fail()
        self._unemulated = instruction  # the memory may have been mapped after the fetch
        return None

    def _fail(self) -> Failed:
        self._failure = Failed(self._describer().failure())
        return self._failure

    def _describer(self) -> Describer:
        return Describer(self._core, self._cpu, self._machine.load, arm64=MACHINE == "aarch64")

    def arguments(self, count: int) -> tuple[int, ...]:
        """Return x0 to x(count - 1) of the last hypercall."""
        if count <= ARGUMENTS:
            return _ARGS(self._args)[:count]
        out = self._ffi.new("uint64_t[]", count)
        self._check(self._lib.hfs_arguments(self._cpu, count, out), f"{count} argument registers")
        return tuple(out)

    def reply(self, values: Sequence[int]) -> None:
        """Write x0, x1, ..."""
        count = len(values)
        reply = self._reply
        if count == 1:
            reply[1] = values[0] & _WORD
            reply[0] = 1
            return
        if count > ARGUMENT_REGISTERS:
            raise InternalError(f"engine kvm: {count} values for {ARGUMENT_REGISTERS} registers")
        try:
            _REPLIES[count](reply, 0, count, *values)
        except struct.error:  # a value of more than 64 bits
            _REPLIES[count](reply, 0, count, *(value & _WORD for value in values))

    def complete_mmio(self, value: int) -> None:
        """Finish the last `Mmio` exit."""
        if not isinstance(self._fault, Mmio):
            raise InternalError("complete_mmio without an Mmio exit")
        self._fault = None
        self._check(self._lib.hfs_complete_mmio(self._cpu, value & _WORD), "MMIO")

    def inject_abort(self) -> None:
        """Deliver the last `Mmio` or `Fault` exit as an abort."""
        fault, self._fault = self._fault, None
        if fault is None:
            raise InternalError("no Mmio or Fault exit to answer")
        fetch = isinstance(fault, Fault) and fault.fetch
        error = self._lib.hfs_inject_abort(self._cpu, fetch)
        if error:  # a guest can set a state that KVM's ioctls refuse
            place = self._describer().place(self.program_counter())
            self._failure = Failed(
                f"engine kvm: the abort at {fault.address:#x} cannot be delivered:"
                f" {os.strerror(-error)}, {place}"
            )

    def timer_remaining(self) -> int | None:
        """Time in ns until the virtual timer fires."""
        result = self._lib.hfs_timer_remaining(self._cpu, self._left)
        self._check(result, "the timer")
        return self._left[0] if result == self._lib.HFS_TIMER_ARMED else None

    def waits(self) -> bool:
        """Return whether the guest waits in the kernel for an interrupt (arm64)."""
        return self._open and self._stats is not None and self._stats.blocking()

    def mask_timer(self) -> None:
        """Set the mask bit of the virtual timer."""
        self._check(self._lib.hfs_mask_timer(self._cpu), "the timer")

    def program_counter(self) -> int:
        """Return the address of the next instruction."""
        out = self._ffi.new("uint64_t *")
        self._check(self._lib.hfs_program_counter(self._cpu, out), "the program counter")
        return int(out[0])

    def registers(self) -> Registers:
        """Return the registers by name."""
        return self._file().read()

    def set_registers(self, values: Mapping[str, int | bytes]) -> None:
        """Write registers by name."""
        if self._fault is not None and not self._repeat_access():
            raise UserError("engine kvm: the write of a device must be answered first")
        self._file().write(values)

    def _file(self) -> RegisterFile:
        if self._register_file is None:
            self._register_file = RegisterFile(self._core, self._cpu)
        return self._register_file

    def save(self) -> bytes:
        """Return every register; only a KVM of the same architecture can use it."""
        return bytes(self._ffi.buffer(self._saved()))

    def _saved(self) -> Any:
        size = self._lib.hfs_saved_size()
        out = self._ffi.new("uint8_t[]", size)
        self._check(self._lib.hfs_save(self._cpu, out, size), "save")
        return out

    def restore(self, data: bytes) -> None:
        """Restore what `save` returned; raises `UserError` for other data."""
        self._failure = None
        self._fault = None
        self._unemulated = None
        result = self._lib.hfs_restore(self._cpu, data, len(data))
        if result < 0:
            raise UserError(
                f"engine kvm: {len(data)} bytes are no saved CPU state: {os.strerror(-result)}"
            )

    def portable(self) -> PortableCpu | None:
        """Return the state by register names; None on x86-64, whose guests no other engine runs."""
        if MACHINE != "aarch64":
            return None
        try:
            used = beyond(self.save(), first_values(self._core, *self._host))
        except (
            InternalError
        ) as exc:  # out of descriptors: it can be restored here, and nowhere else
            used = (str(exc),)
        return portable_of(self.registers(), used)

    def adopt(self, state: PortableCpu) -> None:
        """Take over the state of a CPU of another engine; raises UserError."""
        if MACHINE != "aarch64":
            raise UserError("engine kvm: no other engine runs x86-64 guests")
        values = checked(state)
        self.reset(0, 0)
        file = self._file()
        known = frozenset(file.read())
        if missing := missing_here(values, known):
            raise UserError(f"engine kvm: this CPU has no register {', '.join(missing)}")
        for name, value in values.items():  # one at a time, so that one that KVM refuses is named
            if name in known:
                file.write({name: value})

    def state_key(self) -> object:
        """Return a digest of the registers, except counters, which advance by themselves."""
        saved = self._saved()
        self._lib.hfs_clear_counters(saved)
        return hashlib.blake2b(self._ffi.buffer(saved), digest_size=16).digest()

    # For the space

    def set_tables(self, address: int) -> None:
        """Set the address of the first page tables (x86-64)."""
        self._cpu.tables = address

    def clock(self) -> int:
        """Return the guest's counter, in its own units."""
        out = self._ffi.new("uint64_t *")
        self._check(self._lib.hfs_read_clock(self._cpu, out), "the clock")
        return int(out[0])

    @property
    def counter_hz(self) -> int:
        """How often the guest's counter advances in a second."""
        return int(self._lib.hfs_ticks(1_000_000_000))

    def count_before(self, ns: int) -> int:
        """Return what the guest's counter has shown `ns` ago, at least 0; negative: what it shows in so long."""
        if ns < 0:
            return (self.clock() + int(self._lib.hfs_ticks(-ns))) & (1 << 64) - 1
        return max(0, self.clock() - int(self._lib.hfs_ticks(ns)))

    def freeze(self, count: int) -> None:
        """Make the guest's counter show `count`."""
        self._lib.hfs_freeze(self._cpu, count)

    def thaw(self, first: KvmVcpu) -> None:
        """Resume it; call this for `first`, the space's first vCPU, first."""
        self._check(self._lib.hfs_thaw(self._cpu, first._cpu), "the clock")

    def force_exit(self) -> None:
        """Make the CPU leave the guest and come to the gate, now or before it enters."""
        self._lib.hfs_force_exit(self._cpu)

    def wait_outside(self) -> None:
        """Wait until it has left."""
        self._lib.hfs_wait_outside(self._cpu)

    def close(self) -> None:
        """Free the vCPU; later kicks do nothing."""
        if self._open:
            self._open = False
            self._failure = Failed("the machine is closed")
            self._lib.hfs_close(self._cpu)
            if self._stats is not None:
                self._stats.close()
