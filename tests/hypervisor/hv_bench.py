"""A bench for the hypervisor: VMs whose CPUs do what a test tells them to, and a clock that stands.

The test is the primary: it calls the interface itself.  A guest has no program of its own; it takes
actions from a queue, one after another, keeps what each of them returned, and gives the CPU back
(RUN returns `Preempted`) when nothing is left to do::

    bench = Bench()
    vm = bench.vm()
    assert vm.call(FfaId.ID_GET) == ok(vm.id)          # one call, that does not switch
    assert vm.run(Hvc(FfaId.YIELD)) == Yield()         # one that does: what RUN returned
    assert vm.resume() == ok()                         # ... and what the guest saw of it
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from hfsched.abi.ffa import CONVENTION_64, FfaError, FfaId, PsciId
from hfsched.hypervisor.interface import Preempted, RunResult, WakeUp
from hfsched.hypervisor.vm import NIL_UUID
from hfsched.memory.guestmemory import GuestMemory
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.runtime.threads import ThreadRuntime
from hfsched.vcpu.engine import Permissions
from hfsched.vcpu.script import Abort, Action, Cpu, Hvc, ScriptEngine, Smc, Step
from hfsched.vmm.assembly import Callbacks, VmParts, assemble

if TYPE_CHECKING:
    from uuid import UUID

    from hfsched.vcpu.script import Guest

__all__ = [
    "BASE",
    "JUNK",
    "MINUS_1",
    "PAGES",
    "RX",
    "TX",
    "WAYS",
    "Bench",
    "FakeClock",
    "Machine",
    "Regs",
    "Way",
    "error",
    "full",
    "hf",
    "ids",
    "interrupted",
    "message",
    "ok",
]

Regs: TypeAlias = tuple[int, ...]
Seen: TypeAlias = Regs | Abort
Way: TypeAlias = tuple[type[Hvc], int]
Do: TypeAlias = Action | Callable[[Cpu], Action]

BASE = 0x4000_0000
PAGES = 8
TX = BASE + 1 * PAGE_SIZE
RX = BASE + 2 * PAGE_SIZE
MINUS_1 = 0xFFFF_FFFF_FFFF_FFFF

# What the guest has in the registers that a call does not use: an answer must not depend on them,
# and must (FF-A) or must not (everything else) wipe them out.
JUNK = tuple(0xABCD_0000_1111_0000 + 0x0101 * i for i in range(8))

WAYS = [(Hvc, 0), (Hvc, CONVENTION_64), (Smc, 0), (Smc, CONVENTION_64)]
"""How FF-A and PSCI can be asked: the instruction, and the bit of the 64-bit convention."""


def ids(way: Way) -> str:
    """Name a way of calling, for the parameters of a test."""
    return f"{way[0].__name__.lower()}{64 if way[1] else 32}"


def full(*args: int) -> Regs:
    """Return x0..x7 of a call: the arguments, then junk."""
    return tuple(args) + JUNK[len(args) :]


def ok(w2: int = 0) -> Regs:
    """FFA_SUCCESS, all of x0..x7."""
    return (0x8400_0061, 0, w2, 0, 0, 0, 0, 0)


def error(code: FfaError) -> Regs:
    """FFA_ERROR with a code, sign-extended to 64 bits; all of x0..x7."""
    return (0x8400_0060, 0, code.value + (1 << 64), 0, 0, 0, 0, 0)


def interrupted() -> Regs:
    """FFA_INTERRUPT, all of x0..x7."""
    return (0x8400_0062, 0, 0, 0, 0, 0, 0, 0)


def message(sender: int, receiver: int, size: int) -> Regs:
    """FFA_MSG_SEND as a receiver sees it, all of x0..x7."""
    return (0x8400_006E, sender << 16 | receiver, 0, size, 0, 0, 0, 0)


def hf(value: int, *args: int) -> Regs:
    """Return x0..x7 after a call that writes x0 alone, given the call's x1, x2, ..."""
    return full(value & MINUS_1, *args)


class FakeClock(ThreadRuntime):
    """A runtime whose time is what the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 1_000_000

    def now(self) -> int:
        return self.time


class Machine:
    """One VM on the bench."""

    def __init__(
        self,
        bench: Bench,
        name: str,
        vcpus: int,
        uuid: UUID,
        program: Callable[[Cpu], Guest] | None,
    ) -> None:
        self.bench = bench
        self.hv = bench.hv
        self.ram = Ram(name, PAGES * PAGE_SIZE)
        self.space = ScriptEngine(bench.clock).space(name, vcpus)
        self.space.map(BASE, self.ram, 0, self.ram.size, Permissions.RWX)
        self.todo: list[deque[Do]] = [deque() for _ in range(vcpus)]
        self.seen: list[list[Seen]] = [[] for _ in range(vcpus)]
        self.entry = self.space.address_of(program or self._obey)
        self.record = bench.assembly.add(
            VmParts(
                name, self.space, GuestMemory.whole(self.ram, BASE), vcpus, self.entry, uuid=uuid
            )
        ).record
        self.id = self.record.id

    def _obey(self, cpu: Cpu) -> Guest:
        todo = self.todo[cpu.index]
        seen = self.seen[cpu.index]
        while True:
            if not todo:
                cpu.kick()
                yield Step()
                continue
            action = todo.popleft()
            try:
                seen.append((yield action(cpu) if callable(action) else action))
            except Abort as abort:
                seen.append(abort)

    # What the test says.

    def run(self, *actions: Do, vcpu: int = 0) -> RunResult:
        """Queue actions for a vCPU, and RUN it once."""
        self.todo[vcpu].extend(actions)
        return self.hv.run(self.id, vcpu)

    def call(self, *args: int, vcpu: int = 0, by: type[Hvc] = Hvc) -> Regs:
        """Make the vCPU do one call that does not switch (junk fills x0..x7); return the answer."""
        assert self.run(by(*full(*args)), vcpu=vcpu) == Preempted()
        return self.last(vcpu)

    def switch(self, *args: int, vcpu: int = 0, by: type[Hvc] = Hvc) -> RunResult:
        """Make the vCPU do one call that switches (junk fills x0..x7); return RUN's result."""
        before = len(self.seen[vcpu])
        result = self.run(by(*full(*args)), vcpu=vcpu)
        assert len(self.seen[vcpu]) == before
        return result

    def resume(self, vcpu: int = 0) -> Regs:
        """RUN the vCPU, which can go on; return the answer of the call that it was in."""
        before = len(self.seen[vcpu])
        assert self.run(vcpu=vcpu) == Preempted()
        assert len(self.seen[vcpu]) == before + 1
        return self.last(vcpu)

    def last(self, vcpu: int = 0) -> Regs:
        """Return what the last action of the vCPU got."""
        seen = self.seen[vcpu][-1]
        assert not isinstance(seen, Abort), seen
        return seen

    def abort(self, vcpu: int = 0) -> int:
        """Return the address of the abort that the last action of the vCPU got."""
        seen = self.seen[vcpu][-1]
        assert isinstance(seen, Abort), seen
        return seen.address

    # What tests begin with.

    def map(self) -> None:
        """Give the VM its RX and TX."""
        assert self.call(FfaId.RXTX_MAP | CONVENTION_64, TX, RX, 1) == ok()

    def turn_on(self, vcpu: int) -> None:
        """Turn on a further vCPU; it has done its first RUN, too."""
        assert self.switch(PsciId.CPU_ON, vcpu, self.entry, 0) == WakeUp(self.id, vcpu)
        assert self.resume()[0] == 0
        assert self.run(vcpu=vcpu) == Preempted()

    def enable(self, *intids: int, vcpu: int = 0) -> None:
        """Enable interrupt ids of a vCPU."""
        for intid in intids:
            assert self.call(0xFF03, intid, 1, vcpu=vcpu)[0] == 0

    def put(self, data: bytes) -> None:
        """Write TX, as the guest would."""
        self.ram.write(TX - BASE, data)

    def get(self, size: int) -> bytes:
        """Read RX, as the guest would."""
        return self.ram.read(RX - BASE, size)

    def send(self, to: int, size: int, notify: int = 0, vcpu: int = 0) -> RunResult:
        """MSG_SEND by the guest; return RUN's result."""
        return self.run(Hvc(*full(FfaId.MSG_SEND, self.id << 16 | to, 0, size, notify)), vcpu=vcpu)

    def wait(self, vcpu: int = 0) -> RunResult:
        """MSG_WAIT by the guest; return RUN's result."""
        return self.run(Hvc(*full(FfaId.MSG_WAIT)), vcpu=vcpu)


class Bench:
    """A hypervisor, its VMs, its clock, the lines its guests have printed, and notices of them."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.lines: list[tuple[str, bytes]] = []
        self.notices: list[tuple[str, str]] = []
        callbacks = Callbacks(
            log=lambda vm, line: self.lines.append((vm, line)),
            notice=lambda vm, text: self.notices.append((vm, text)),
        )
        self.assembly = assemble(self.clock, callbacks=callbacks)
        self.hv = self.assembly.interface
        self.registry = self.assembly.hypervisor.registry

    def vm(
        self,
        *,
        vcpus: int = 1,
        mapped: bool = True,
        uuid: UUID = NIL_UUID,
        program: Callable[[Cpu], Guest] | None = None,
    ) -> Machine:
        """Make a VM; all its vCPUs are on and idle, its mailbox is set up (unless told otherwise).

        With a `program` vCPU 0 runs that instead, and nothing has been run yet.
        """
        name = f"vm{len(self.registry.vms) + 2}"
        machine = Machine(self, name, vcpus, uuid, program)
        if program is None:
            assert machine.run() == Preempted()
            for vcpu in range(1, vcpus):
                machine.turn_on(vcpu)
            if mapped:
                machine.map()
        return machine
