"""A small x86-64 guest for tests of the engine: code at its start, an IDT, stacks."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Self

import pytest
import x64
from progress import QUIET_NS

from hfsched.memory.ram import Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Exit, Hypercall, Kicked, Permissions
from hfsched.vcpu.kvm import device
from hfsched.vcpu.kvm.cpu import KvmVcpu
from hfsched.vcpu.kvm.engine import KvmEngine

BASE = 0x7F00_0000
SIZE = 1 << 20
GDT, IDT, HANDLERS, STACK = 0x8000, 0x9000, 0xA000, 0xC000
DATA = BASE + 0x1_0000
HOLE = 0x3000_0000  # where nothing is
SECOND = 1_000_000_000
WITHIN = QUIET_NS  # for one thing that is waited for

WHY_NOT = device.problem() if device.MACHINE == "x86_64" else "this is no x86-64 machine"
needs_kvm = pytest.mark.skipif(WHY_NOT is not None, reason=f"engine kvm: {WHY_NOT}")

# Handlers.  Of an interrupt: RAX = the vector, and no other register changes.
REPORT = x64.mov("rax", 0x20) + x64.out(x64.HVC) + x64.IRETQ
# Of an exception with an error code: one call with the registers as they were, then one with
# RDI = the error code, RSI = RIP, RDX = CR2, R8 = the flags, R9 = RSP.
REPORT_ALL = (
    x64.out(x64.HVC)
    + b"".join(x64.pop(register) for register in ("rdi", "rsi", "rcx", "r8", "r9"))
    + x64.mov_from_cr2("rdx")
    + x64.out(x64.HVC)
)
PAGE_FAULT, INTERRUPT = 14, 0x20


class Guest:
    """One VM, all of whose CPUs are at its code.  A CPU that hangs is kicked at the end.

    With `handlers`, by vector, the code runs with a GDT, an IDT and a stack.
    """

    def __init__(
        self, code: bytes = b"", *, vcpus: int = 1, handlers: dict[int, bytes] | None = None
    ) -> None:
        self.runtime = ThreadRuntime()
        self.engine = KvmEngine(self.runtime)
        self.ram = Ram("test", SIZE)
        self.space = self.engine.space("test", vcpus)
        self.space.map(BASE, self.ram, 0, SIZE, Permissions.RWX)
        setup = b"" if handlers is None else self._tables(handlers)
        self.ram.write(0, setup + code)
        self.start = BASE + len(setup)
        self.vcpus = [self._vcpu(index) for index in range(vcpus)]
        self.cpu = self.vcpus[0]
        self._done = threading.Event()
        self._dog = threading.Thread(target=self._watch)
        self._dog.start()

    def _watch(self) -> None:
        wait = WITHIN / SECOND
        while not self._done.wait(wait):
            wait = 0.1
            for vcpu in self.vcpus:
                vcpu.kick()

    def _vcpu(self, index: int) -> KvmVcpu:
        vcpu = self.space.vcpu(index)
        assert isinstance(vcpu, KvmVcpu)
        vcpu.reset(BASE, 0x1234)
        return vcpu

    def _tables(self, handlers: dict[int, bytes]) -> bytes:
        """Write a GDT, an IDT with these handlers, and return code that loads them."""
        self.ram.write(GDT, struct.pack("<QQQ", 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF))
        place = HANDLERS
        for vector, code in handlers.items():
            address = BASE + place
            self.ram.write(place, code)
            place += len(code)
            gate = struct.pack(
                "<HHBBHII", address & 0xFFFF, 8, 0, 0x8E, address >> 16 & 0xFFFF, address >> 32, 0
            )
            self.ram.write(IDT + 16 * vector, gate)
        self.ram.write(GDT + 0x100, struct.pack("<HQ", 23, BASE + GDT))
        self.ram.write(GDT + 0x110, struct.pack("<HQ", 4095, BASE + IDT))
        return (
            x64.mov("rsp", BASE + STACK)
            + x64.mov("rax", BASE + GDT + 0x100)
            + x64.lgdt("rax")
            + x64.mov("rax", BASE + GDT + 0x110)
            + x64.lidt("rax")
        )

    def enter(self) -> Exit:
        return self.cpu.enter()

    def call(self) -> tuple[int, ...]:
        """Enter CPU 0, which makes a hypercall; return its arguments."""
        return args(self.cpu.enter())

    def word(self, address: int) -> int:
        return int.from_bytes(self.ram.read(address - BASE, 8), "little")

    def together(self, *bodies: Callable[[], object]) -> None:
        """Run each in a thread of its own, to the end; what one raises is raised."""
        errors: list[BaseException] = []

        def guarded(body: Callable[[], object]) -> None:
            try:
                body()
            except BaseException as exc:  # noqa: BLE001 - raised below
                errors.append(exc)

        threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * WITHIN / SECOND)
            assert not thread.is_alive()
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._dog.join()
        self.engine.close()
        self.ram.close()


def storm(guest: Guest, kicks: int) -> list[int]:
    """Kick a guest that calls for ever so often, each time while it runs.

    Returns the first argument of its calls, and of one more.
    """
    go = threading.Semaphore(0)
    calls: list[int] = []
    kicked = 0

    def kick() -> None:
        nonlocal kicked
        for _ in range(kicks):
            assert go.acquire(timeout=WITHIN / SECOND)
            kicked += 1
            guest.cpu.kick()

    def run() -> None:
        for answered in range(kicks):
            go.release()
            while (stop := guest.enter()) != Kicked():
                calls.append(args(stop)[1])
            assert kicked == answered + 1  # each kick, once

    guest.together(run, kick)
    return [*calls, guest.call()[1]]


def args(stop: Exit) -> tuple[int, ...]:
    assert isinstance(stop, Hypercall), stop
    return stop.args
