"""A script guest's memory, its CPUs, and the engine that makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from hfsched.errors import InternalError, UserError
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.vcpu.clock import Clock
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.registers import ARM64_ARGUMENTS
from hfsched.vcpu.script.cpu import Cpu, Program
from hfsched.vcpu.script.journal import Journal
from hfsched.vcpu.turn import Turn

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["ScriptEngine", "ScriptSpace"]


_WORD = 4  # bytes between two programs' addresses


class _Mapped(NamedTuple):
    """A part of another RAM than the VM's, mapped at `ipa` for good."""

    ipa: int
    size: int
    ram: Ram
    offset: int
    permissions: Permissions


class ScriptSpace:
    """One VM's memory and CPUs; see hfsched.vcpu.engine.Space.

    All of one RAM is the VM's memory.  Parts of others may be mapped beside it, before its CPUs run; what is
    not in the VM's memory stays as it was mapped.

    Implementation note.  Guests' accesses take no lock, so what stage 2 allows is an immutable table in
    a cell.  Who changes it (under the VM's lock, by the protocol) replaces it whole.  Each CPU has its own
    table of programs, which it alone adds to; so has the VM, before its CPUs run.  Other CPUs read an entry
    that they have been given the address of, by CPU_ON.
    """

    def __init__(
        self,
        runtime: Runtime,
        name: str,
        vcpus: int,
        *,
        recording: bool = False,
        turn: Turn | None = None,
    ) -> None:
        self.name = name
        self.argument_registers = ARM64_ARGUMENTS
        self.base = 0
        self._ram: Ram | None = None
        self._stage2 = (
            b""  # a byte for each page of RAM, its permissions: as it was last published,
        )
        self._published = runtime.cell(f"{name}.stage2", self._stage2)  # and for guests' accesses
        self._others: tuple[_Mapped, ...] = ()  # before its CPUs run
        # From number to program: the VM's, and each CPU's.
        self._programs: list[dict[int, Program]] = [{} for _ in range(1 + vcpus)]
        self.clock = Clock(runtime.now)
        self._cpus = [
            Cpu(runtime, self, index, Journal() if recording else None, turn)
            for index in range(vcpus)
        ]

    @property
    def ram(self) -> Ram:
        """The VM's RAM."""
        if self._ram is None:
            raise InternalError(f"vm {self.name}: no memory is mapped")
        return self._ram

    def vcpu(self, index: int) -> Cpu:
        return self._cpus[index]

    def map(self, ipa: int, ram: Ram, offset: int, size: int, permissions: Permissions) -> None:
        if self._ram not in (None, ram) and self._apart(ipa, size):
            self._others += (_Mapped(ipa, size, ram, offset, permissions),)
            return
        if self._ram not in (None, ram) or offset:
            raise InternalError(f"vm {self.name}: engine script maps one whole RAM")
        if self._ram is None:
            self._stage2 = bytes(ram.size // PAGE_SIZE)
        self._ram = ram
        self.base = ipa
        self.protect(ipa, size, permissions)

    def unmap(self, ipa: int, size: int) -> None:
        first = max(ipa, self.base)
        end = min(ipa + size, self.base + self.ram.size)
        if first < end:  # elsewhere nothing is mapped
            self.protect(first, end - first, Permissions(0))

    def protect(self, ipa: int, size: int, permissions: Permissions) -> None:
        if not self.base <= ipa <= ipa + size <= self.base + self.ram.size:
            raise InternalError(f"vm {self.name}: {ipa:#x} + {size:#x} is not in its memory")
        first, count = (ipa - self.base) // PAGE_SIZE, size // PAGE_SIZE
        old = self._stage2
        self._stage2 = old[:first] + bytes([permissions]) * count + old[first + count :]
        self._published.set(self._stage2)

    def freeze(self) -> None:
        self.clock.freeze()

    def thaw(self) -> None:
        self.clock.thaw()

    def set_back(self, ns: int) -> None:
        """Set them back while they are stopped."""
        self.clock.set_back(ns)

    @property
    def counter_hz(self) -> int:
        """See `engine.Space`."""
        return 1_000_000_000

    def counter(self) -> int:
        """Return what they show while they are stopped, in ns."""
        return self.clock.read()

    def set_counter(self, count: int) -> None:
        """Make them show `count` while they are stopped."""
        self.clock.set(count)

    def set_counter_hz(self, frequency: int) -> None:
        """See `engine.Space`."""
        if frequency != self.counter_hz:
            raise UserError(f"vm {self.name}: engine script counts ns, not {frequency} Hz")

    def ticks(self) -> int:
        """Return the same: the counter counts ns."""
        return self.counter()

    def set_ticks(self, ticks: int) -> None:
        """Make them show `ticks` while they are stopped."""
        self.set_counter(ticks)

    def close(self) -> None:
        for cpu in self._cpus:
            cpu.close()

    def address_of(self, program: Program, cpu: int | None = None) -> int:
        """Return the address at which `reset` finds the program; on a CPU's thread, with its index.

        A program has one address from each CPU, and one from the VM (None), for before they run.
        """
        owner = 0 if cpu is None else 1 + cpu
        own = self._programs[owner]
        number = next((each for each, known in own.items() if known == program), None)
        if number is None:
            number = len(own)
            own[number] = program
        return self.base + _WORD * (number * len(self._programs) + owner)

    def program_at(self, address: int) -> Program | None:
        """Return the program at an address, None without one."""
        word, rest = divmod(address - self.base, _WORD)
        number, owner = divmod(word, len(self._programs))
        return None if rest else self._programs[owner].get(number)

    def place(self, ipa: int, size: int) -> tuple[Ram, int]:
        """Return the RAM, and the offset there, of what is mapped in `size` bytes at `ipa`; may be outside of it."""
        offset = ipa - self.base
        if not 0 <= offset < self.ram.size:
            other = self._other(ipa, size)
            if other is not None:
                return other.ram, other.offset + ipa - other.ipa
        return self.ram, offset

    def _other(self, ipa: int, size: int) -> _Mapped | None:
        """Return what of another RAM is mapped in all of [ipa, ipa + size)."""
        for each in self._others:
            if each.ipa <= ipa and ipa + size <= each.ipa + each.size:
                return each
        return None

    def _apart(self, ipa: int, size: int) -> bool:
        """Return whether nothing of the VM's RAM is in [ipa, ipa + size)."""
        return ipa + size <= self.base or self.base + self.ram.size <= ipa

    def first_fault(self, ipa: int, size: int, wanted: Permissions) -> int | None:
        """Return the first address of an access that stage 2 does not allow, None without one."""
        first = (ipa - self.base) // PAGE_SIZE
        stop = (ipa + size - 1 - self.base) // PAGE_SIZE + 1
        pages = self.ram.size // PAGE_SIZE
        if not 0 <= first < pages:
            other = self._other(ipa, size)
            return None if other is not None and wanted in other.permissions else ipa
        table = self._published.get()
        for page in range(first, stop):
            if page >= pages or wanted not in Permissions(table[page]):
                return max(ipa, self.base + page * PAGE_SIZE)
        return None


class ScriptEngine:
    """Makes `ScriptSpace`s; see hfsched.vcpu.engine.Engine.

    `recording`: its CPUs can be saved and restored.  Each keeps a journal for that, which grows with
    every step of its guest (`hfsched.vcpu.script.journal`), by 30 to 60 bytes for a hypercall.
    `by_turns`: one CPU of all executes at a time, to its next exit or `Step`, as on Unicorn.
    """

    name = "script"

    def __init__(
        self, runtime: Runtime, *, recording: bool = False, by_turns: bool = False
    ) -> None:
        self._runtime = runtime
        self._recording = recording
        self._turn = Turn(runtime, "script") if by_turns else None

    def space(self, name: str, vcpus: int) -> ScriptSpace:
        return ScriptSpace(self._runtime, name, vcpus, recording=self._recording, turn=self._turn)

    def close(self) -> None:
        pass
