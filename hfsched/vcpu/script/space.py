"""A script guest's memory, its CPUs, and the engine that makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfsched.errors import InternalError
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.vcpu.clock import Clock
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.registers import ARM64_ARGUMENTS
from hfsched.vcpu.script.cpu import Cpu, Program
from hfsched.vcpu.script.journal import Journal

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = ["ScriptEngine", "ScriptSpace"]


class ScriptSpace:
    """One VM's memory and CPUs; see hfsched.vcpu.engine.Space."""

    def __init__(self, runtime: Runtime, name: str, vcpus: int, *, recording: bool = False) -> None:
        self.name = name
        self.argument_registers = ARM64_ARGUMENTS
        self.base = 0
        self._ram: Ram | None = None
        self._pages: dict[int, Permissions] = {}
        self._programs: list[Program] = []
        self.clock = Clock(runtime.now)
        self._cpus = [
            Cpu(runtime, self, index, Journal() if recording else None) for index in range(vcpus)
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
        if self._ram not in (None, ram) or offset:
            raise InternalError(f"vm {self.name}: engine script maps one whole RAM")
        self._ram = ram
        self.base = ipa
        self.protect(ipa, size, permissions)

    def unmap(self, ipa: int, size: int) -> None:
        for page in range(ipa // PAGE_SIZE, (ipa + size) // PAGE_SIZE):
            self._pages.pop(page, None)

    def protect(self, ipa: int, size: int, permissions: Permissions) -> None:
        for page in range(ipa // PAGE_SIZE, (ipa + size) // PAGE_SIZE):
            self._pages[page] = permissions

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

    def close(self) -> None:
        for cpu in self._cpus:
            cpu.reset(-1, 0)

    def address_of(self, program: Program) -> int:
        """Return the address at which `reset` finds the program."""
        if program not in self._programs:
            self._programs.append(program)
        return self.base + 4 * self._programs.index(program)

    def known_address(self, program: Program) -> int:
        """Return the address of a program, 0 if `address_of` never gave it one."""
        if program not in self._programs:
            return 0
        return self.base + 4 * self._programs.index(program)

    def program_at(self, address: int) -> Program | None:
        """Return the program at an address, None without one."""
        index, rest = divmod(address - self.base, 4)
        return self._programs[index] if not rest and 0 <= index < len(self._programs) else None

    def first_fault(self, ipa: int, size: int, wanted: Permissions) -> int | None:
        """Return the first address of an access that stage 2 does not allow, None without one."""
        for page in range(ipa // PAGE_SIZE, (ipa + size - 1) // PAGE_SIZE + 1):
            if wanted not in self._pages.get(page, Permissions(0)):
                return max(ipa, page * PAGE_SIZE)
        return None


class ScriptEngine:
    """Makes `ScriptSpace`s; see hfsched.vcpu.engine.Engine.

    `recording`: its CPUs can be saved and restored.  Each keeps a journal for that, which grows with
    every step of its guest (`hfsched.vcpu.script.journal`), by 30 to 60 bytes for a hypercall.
    """

    name = "script"

    def __init__(self, runtime: Runtime, *, recording: bool = False) -> None:
        self._runtime = runtime
        self._recording = recording

    def space(self, name: str, vcpus: int) -> ScriptSpace:
        return ScriptSpace(self._runtime, name, vcpus, recording=self._recording)

    def close(self) -> None:
        pass
