"""The engine protocol: one machine a VM (`Space`), its CPUs (`Vcpu`), and why a CPU stopped (`Exit`).

Addresses are intermediate physical addresses (IPA) unless said otherwise; sizes are bytes; times
are nanoseconds.

A vCPU is owned by one thread, the one that calls `enter` and everything else but `kick`,
`set_irq`, `keep_out`, `let_in` and `close`.  The first four may come from any thread, never block, and are never
lost.

Exceptions that a CPU takes to EL1 by itself (SVC, stage-1 aborts, undefined instructions, IRQs)
are handled by the engine and are no exit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum, IntFlag
from typing import TYPE_CHECKING, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from hfsched.memory.ram import Ram
    from hfsched.vcpu.portable import PortableCpu
    from hfsched.vcpu.registers import Registers

__all__ = [
    "Conduit",
    "Engine",
    "Exit",
    "Failed",
    "Fault",
    "Hypercall",
    "Kicked",
    "Mmio",
    "Permissions",
    "Space",
    "Timer",
    "Vcpu",
    "Wfi",
]


class Permissions(IntFlag):
    """What a VM may do with a page at stage 2."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
    RX = READ | EXECUTE
    RW = READ | WRITE
    RWX = READ | WRITE | EXECUTE


class Conduit(Enum):
    """The instruction of a hypercall."""

    HVC = "hvc"
    SMC = "smc"


class Hypercall(Struct, frozen=True):
    """HVC or SMC; the PC is past it.  `args` are x0..x7, each 64 bits, unsigned.

    x86-64 has others in their place (docs/x86-abi.md).  `Vcpu.arguments` reads more than these eight.

    Answer with `Vcpu.reply` before the next `enter`; registers not written keep their values.
    """

    conduit: Conduit
    args: tuple[int, ...]


class Wfi(Struct, frozen=True):
    """The guest waits for an interrupt, and none is up; the PC is past the instruction."""


class Timer(Struct, frozen=True):
    """The virtual timer fired (enabled, unmasked, condition met) while the guest ran."""


class Kicked(Struct, frozen=True):
    """`kick` was called; nothing else happened."""


class Failed(Struct, frozen=True):
    """The CPU cannot run any more: the engine failed, or the guest is stuck in its own vectors.

    `reason` is one line for the user.  Each later `enter` returns the same.
    """

    reason: str


class Mmio(Struct, frozen=True):
    """A stage-2 fault at an address without RAM, decoded.  The PC is at the instruction.

    Answer with `Vcpu.complete_mmio(value)` (which also steps past it) or `Vcpu.inject_abort`.
    """

    address: int
    size: int
    write: bool
    value: int


class Fault(Struct, frozen=True):
    """Any other stage-2 fault: no decoded access, a fetch, or a permission.  PC at the instruction.

    `address` is the IPA, `virtual` what the guest used.  Answer with `Vcpu.inject_abort`, or repair
    the mapping and enter again.
    """

    address: int
    virtual: int
    write: bool
    fetch: bool


Exit: TypeAlias = Hypercall | Wfi | Timer | Kicked | Failed | Mmio | Fault


class Vcpu(Protocol):
    """One CPU of a space."""

    index: int

    def reset(self, pc: int, arg: int) -> None:
        """Put the CPU in its initial state: EL1h, DAIF masked, MMU off, x0 = `arg`, the rest 0."""

    def enter(self) -> Exit:
        """Run the guest to its next exit.  Blocks; the interpreter lock is free meanwhile."""

    def kick(self) -> None:
        """Make the running or the next `enter` return `Kicked`.  Any thread; sticky; never lost."""

    def keep_out(self) -> bool:
        """Keep a vCPU that waits inside `enter` to execute, and does not, from executing before `let_in`.

        Returns True; its thread sleeps on, and a `kick` makes it leave all the same.  Else it is kicked, and False
        is returned.  Any thread.
        """

    def let_in(self) -> None:
        """End what `keep_out` began; nothing without it.  Any thread."""

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        """Raise or lower the interrupt line.  Any thread; sticky; never blocks."""

    def condemn(self, reason: str) -> None:
        """Make the running `enter`, and each one after it, return `Failed(reason)`.  Any thread; never blocks.

        Of a vCPU that waits for memory: what it does when that has come has no effect.
        """

    def waits(self) -> bool:
        """Return whether the guest waits for an interrupt inside `enter`.  Any thread; a hint."""

    def arguments(self, count: int) -> tuple[int, ...]:
        """Return x0 to x(count - 1) of the last `Hypercall` exit, before the next `enter`.

        Raises InternalError if `count` is above `Space.argument_registers`.
        """

    def reply(self, values: Sequence[int]) -> None:
        """Write x0, x1, ... (masked to 64 bits); the registers beyond stay.

        Raises InternalError for more than `Space.argument_registers` values.
        """

    def complete_mmio(self, value: int) -> None:
        """Finish the last `Mmio` exit: give `value` to a read, and step past the instruction."""

    def inject_abort(self) -> None:
        """Deliver the last `Mmio` or `Fault` exit to the guest as a synchronous EL1 abort."""

    def timer_remaining(self) -> int | None:
        """Time until the virtual timer fires, 0 when it has; None when off or masked.  In ns."""

    def mask_timer(self) -> None:
        """Set the mask bit of the virtual timer."""

    def registers(self) -> Registers:
        """Return the registers by architectural name: general, SIMD, system (`vcpu.registers`).

        Of a vCPU inside `enter`: `kick` it, and call this (or `program_counter`) when `enter` has
        returned `Kicked`.
        """

    def set_registers(self, values: Mapping[str, int | bytes]) -> None:
        """Write registers by name, all others stay; an unanswered exit is cancelled.

        Raises UserError for an unknown name, or a value out of range or refused by the engine.
        """

    def program_counter(self) -> int:
        """Return the address of the next instruction; the cheap part of `registers`."""

    def save(self) -> bytes:
        """Return every register, in this engine's own encoding."""

    def restore(self, data: bytes) -> None:
        """Restore what `save` returned; raises UserError for other bytes."""

    def portable(self) -> PortableCpu | None:
        """Return the state by register names, for another engine; None: no other runs such guests."""

    def adopt(self, state: PortableCpu) -> None:
        """Take over the state that another engine's `portable` has returned; the interrupt line stays as it is.

        Raises UserError, which names the register, for what this engine does not know, and for a record that no CPU
        can have.
        """

    def state_key(self) -> object:
        """Return a hashable digest of the CPU's state, equal for equal states."""


class Space(Protocol):
    """One VM's machine: guest-physical memory and CPUs.

    `map`, `unmap` and `protect` may come from any thread while vCPUs run: the engine stops what it
    must (a guest can ask for it by RXTX_MAP while its other CPUs run), and every vCPU sees the
    change before its next instruction.  All addresses and sizes are multiples of 4096.

    `argument_registers`: how many registers a hypercall and its answer may use, 18 or 8; `counter_hz`: how
    often a second the counter advances that the guests see.
    """

    argument_registers: int

    @property
    def counter_hz(self) -> int: ...

    def set_counter_hz(self, frequency: int) -> None:
        """Make the counter advance so often a second, before a vCPU runs; raises UserError where it cannot."""

    def vcpu(self, index: int) -> Vcpu:
        """Return CPU `index`, made at the first call."""

    def map(self, ipa: int, ram: Ram, offset: int, size: int, permissions: Permissions) -> None: ...
    def unmap(self, ipa: int, size: int) -> None: ...
    def protect(self, ipa: int, size: int, permissions: Permissions) -> None: ...
    def freeze(self) -> None:
        """Stop the guests' counters and timers; no vCPU may be inside `enter` until `thaw`, unless it is kept out."""

    def thaw(self) -> None:
        """Resume them from where they stopped."""

    def set_back(self, ns: int) -> None:
        """Set the counters back, between `freeze` and `thaw`: that time has not passed for the guests.

        Negative: it has passed, though they were stopped or were not there.
        """

    def counter(self) -> int:
        """Return what the guests' counters show, in the engine's units, between `freeze` and `thaw`."""

    def set_counter(self, count: int) -> None:
        """Make them show what `counter` returned, here or in another process, between `freeze` and `thaw`."""

    def ticks(self) -> int:
        """Return the same in the counter's own units, of 64 bits, as any engine takes it."""

    def set_ticks(self, ticks: int) -> None:
        """Make them show what `ticks` of a machine with the same `counter_hz` returned; raises UserError."""

    def close(self) -> None:
        """Free the machine; no vCPU may be inside `enter`."""


class Engine(Protocol):
    """A way to make spaces."""

    name: str

    def space(self, name: str, vcpus: int) -> Space:
        """Return the machine of VM `name` with `vcpus` CPUs and no memory."""

    def close(self) -> None: ...
