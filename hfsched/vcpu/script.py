"""The engine `script`: guests written as Python generators, for tests and for exploration.

A guest is a function of a `Cpu` that yields what a CPU would do and is sent what it would see::

    def guest(cpu):
        regs = yield Hvc(0x84000069)      # the registers x0..x7 after the call
        cpu.write(cpu.base, b"hello")     # memory: the whole VM's, shared by its CPUs
        yield Wfi()

An interrupt is delivered between two yields: while the line is up, `cpu.masked` is False and
`cpu.handler` is set, the handler runs (masked) to its end before the guest goes on.  An abort that
the hypervisor injects is raised in the guest as `Abort`.

Implementation note.  Everything that other threads touch (kick, line) is a cell of the runtime, so
that an explorer sees it; the rest belongs to the thread inside `enter`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from hfsched.errors import InternalError, UserError
from hfsched.memory.ram import PAGE_SIZE, Ram
from hfsched.vcpu.engine import (
    Conduit,
    Exit,
    Hypercall,
    Kicked,
    Mmio,
    Off,
    Permissions,
    Timer,
)
from hfsched.vcpu.engine import Wfi as WfiExit

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime

__all__ = [
    "Abort",
    "Action",
    "Cpu",
    "Guest",
    "Hvc",
    "Load",
    "Program",
    "ScriptEngine",
    "ScriptSpace",
    "Smc",
    "Step",
    "Store",
    "Wfi",
]

_X = 0xFFFF_FFFF_FFFF_FFFF
_REGISTERS = 8


class Abort(Exception):  # noqa: N818 - the architecture's word
    """A synchronous external abort, as the guest takes it; the address is its IPA."""

    def __init__(self, address: int) -> None:
        super().__init__(f"abort at {address:#x}")
        self.address = address


class Hvc:
    """HVC with x0, x1, ...; the others are 0.  Sent back: x0..x7."""

    __slots__ = ("args",)
    conduit = Conduit.HVC

    def __init__(self, *args: int) -> None:
        self.args = tuple(arg & _X for arg in args) + (0,) * (_REGISTERS - len(args))


class Smc(Hvc):
    """SMC, likewise."""

    __slots__ = ()
    conduit = Conduit.SMC


@dataclass(frozen=True, slots=True)
class Wfi:
    """Wait for an interrupt; over at once while the line is up, masked or not."""


@dataclass(frozen=True, slots=True)
class Step:
    """Some instructions that no one else sees; interrupts and kicks are looked at."""


@dataclass(frozen=True, slots=True)
class Load:
    """Read `size` bytes (at most 8) at an IPA through stage 2.  Sent back: {value}."""

    address: int
    size: int = 8


@dataclass(frozen=True, slots=True)
class Store:
    """Write a value of `size` bytes (at most 8) at an IPA through stage 2."""

    address: int
    value: int
    size: int = 8


Action: TypeAlias = Hvc | Wfi | Step | Load | Store
Guest: TypeAlias = Generator[Action, tuple[int, ...], None]
Program: TypeAlias = Callable[["Cpu"], Guest]


class Cpu:
    """One CPU of a `ScriptSpace`: the guest's side (public), and the engine's `Vcpu`."""

    def __init__(self, runtime: Runtime, space: ScriptSpace, index: int) -> None:
        self._runtime = runtime
        self._space = space
        self.index = index
        self.arg = 0
        self.masked = True
        self.handler: Program | None = None
        self.timer: int | None = None
        self.timer_masked = False
        name = f"{space.name}.{index}"
        self._kick = runtime.cell(f"{name}.kick", value=False)
        self._line = runtime.cell(f"{name}.irq", value=False)
        self._stack: list[Guest] = []
        self._regs = [0] * _REGISTERS
        self._sent: tuple[int, ...] | None = None  # what the next resumption sends
        self._raised: Abort | None = None
        self._call = False  # the registers are to be sent
        self._access: Mmio | None = None
        self._missing: str | None = "it was never started"

    # For the guest.

    @property
    def base(self) -> int:
        """The IPA of the VM's memory."""
        return self._space.base

    @property
    def size(self) -> int:
        """The size of the VM's memory in bytes."""
        return self._space.ram.size

    def read(self, ipa: int, size: int) -> bytes:
        """Read the VM's memory; no permission is checked (yield `Load` for that)."""
        return self._space.ram.read(ipa - self._space.base, size)

    def write(self, ipa: int, data: bytes) -> None:
        """Write the VM's memory; no permission is checked (yield `Store` for that)."""
        self._space.ram.write(ipa - self._space.base, data)

    def arm(self, delay: int | None) -> None:
        """Set the virtual timer to fire in `delay` ns, unmasked; None switches it off."""
        self.timer = None if delay is None else self._runtime.now() + delay
        self.timer_masked = False

    def address_of(self, program: Program) -> int:
        """Return an entry address for CPU_ON."""
        return self._space.address_of(program)

    # The engine's side: see hfsched.vcpu.engine.Vcpu.

    def reset(self, pc: int, arg: int) -> None:
        program = self._space.program_at(pc)
        self.arg = arg
        self.masked = True
        self.handler = None
        self.timer = None
        self.timer_masked = False
        self._regs = [arg] + [0] * (_REGISTERS - 1)
        self._sent = self._raised = self._access = None
        self._call = False
        self._missing = f"no code at {pc:#x}"
        self._stack = []
        if program is not None:
            self._missing = None
            self._stack = [program(self)]

    def enter(self) -> Exit:
        while True:
            if self._kick.get() and self._kick.exchange(False):  # noqa: FBT003
                return Kicked()
            if self.timer_remaining() == 0:
                return Timer()
            if self.handler is not None and not self.masked and self._line.get():
                self.masked = True
                self._stack.append(self.handler(self))
                self._stash()
            action = self._resume()
            if isinstance(action, str):
                return Off(action)
            if action is None:
                continue
            leave = self._act(action)
            if leave is not None:
                return leave

    def kick(self) -> None:
        self._kick.set(True)  # noqa: FBT003

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        self._line.set(level)

    def reply(self, values: Sequence[int]) -> None:
        self._regs[: len(values)] = [value & _X for value in values]

    def complete_mmio(self, value: int) -> None:
        self._sent = (value,)
        self._access = None

    def inject_abort(self) -> None:
        assert self._access is not None
        self._raised = Abort(self._access.address)
        self._access = None

    def timer_remaining(self) -> int | None:
        if self.timer is None or self.timer_masked:
            return None
        return max(0, self.timer - self._runtime.now())

    def mask_timer(self) -> None:
        self.timer_masked = True

    def save(self) -> bytes:
        raise UserError(f"vm {self._space.name}: engine script cannot save a Python generator")

    def restore(self, data: bytes) -> None:  # noqa: ARG002
        raise UserError(f"vm {self._space.name}: engine script cannot restore a Python generator")

    def state_key(self) -> Hashable:
        frames = tuple(_frames(guest) for guest in self._stack)
        flags = (self.masked, self.timer, self.timer_masked, self.handler, self._call)
        return (frames, flags, (*self._regs,), self._kick.get(), self._line.get())

    # Inside.

    def _stash(self) -> None:
        """Keep what the interrupted generator is owed for when the handler has returned."""
        self._space.owed[self.index].append((self._sent, self._call))
        self._sent = None
        self._call = False

    def _resume(self) -> Action | str | None:
        """Run the guest to its next action; None: a handler returned; a text: it cannot go on."""
        if not self._stack:
            return self._missing or "the guest function returned"
        guest = self._stack[-1]
        raised, self._raised = self._raised, None
        sent = tuple(self._regs) if self._call else self._sent
        self._sent = None
        self._call = False
        try:
            if raised is not None:
                return guest.throw(raised)
            return guest.send(sent)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration:
            self._stack.pop()
            if not self._stack:
                return "the guest function returned"
            self.masked = False
            self._sent, self._call = self._space.owed[self.index].pop()
            return None
        except Exception as exc:  # noqa: BLE001 - whatever a guest does, it is the guest's
            self._stack.clear()
            self._missing = f"the guest function raised {exc!r}"
            return self._missing

    def _act(self, action: Action) -> Exit | None:
        if isinstance(action, Hvc):
            self._regs = list(action.args)
            self._call = True
            return Hypercall(action.conduit, action.args)
        if isinstance(action, Wfi):
            self._sent = ()
            return None if self._line.get() else WfiExit()
        if isinstance(action, Step):
            self._sent = ()
            return None
        if isinstance(action, Load):
            value = self._space.load(action.address, action.size)
            if value is not None:
                self._sent = (value,)
                return None
            self._access = Mmio(action.address, action.size, write=False, value=0)
            return self._access
        if isinstance(action, Store):
            value = action.value & ((1 << 8 * action.size) - 1)
            if self._space.store(action.address, action.size, value):
                self._sent = ()
                return None
            self._access = Mmio(action.address, action.size, write=True, value=value)
            return self._access
        raise InternalError(f"vm {self._space.name}: a guest yielded {action!r}")


class ScriptSpace:
    """One VM's memory and CPUs; see hfsched.vcpu.engine.Space."""

    def __init__(self, runtime: Runtime, name: str, vcpus: int) -> None:
        self.name = name
        self.base = 0
        self._ram: Ram | None = None
        self._pages: dict[int, Permissions] = {}
        self._programs: list[Program] = []
        self.owed: list[list[tuple[tuple[int, ...] | None, bool]]] = [[] for _ in range(vcpus)]
        self._cpus = [Cpu(runtime, self, index) for index in range(vcpus)]

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

    def close(self) -> None:
        for cpu in self._cpus:
            cpu.reset(-1, 0)

    def address_of(self, program: Program) -> int:
        """Return the address at which `reset` finds the program."""
        if program not in self._programs:
            self._programs.append(program)
        return self.base + 4 * self._programs.index(program)

    def program_at(self, address: int) -> Program | None:
        """Return the program at an address, None without one."""
        index, rest = divmod(address - self.base, 4)
        return self._programs[index] if not rest and 0 <= index < len(self._programs) else None

    def load(self, ipa: int, size: int) -> int | None:
        """Read through stage 2; None: not allowed."""
        if not self._allows(ipa, size, Permissions.READ):
            return None
        return int.from_bytes(self.ram.read(ipa - self.base, size), "little")

    def store(self, ipa: int, size: int, value: int) -> bool:
        """Write through stage 2; False: not allowed."""
        if not self._allows(ipa, size, Permissions.WRITE):
            return False
        self.ram.write(ipa - self.base, value.to_bytes(size, "little"))
        return True

    def _allows(self, ipa: int, size: int, wanted: Permissions) -> bool:
        pages = range(ipa // PAGE_SIZE, (ipa + size - 1) // PAGE_SIZE + 1)
        return all(wanted in self._pages.get(page, Permissions(0)) for page in pages)


class ScriptEngine:
    """Makes `ScriptSpace`s; see hfsched.vcpu.engine.Engine."""

    name = "script"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def space(self, name: str, vcpus: int) -> ScriptSpace:
        return ScriptSpace(self._runtime, name, vcpus)

    def close(self) -> None:
        pass


def _frames(guest: Guest) -> Hashable:
    """Return where a generator (and those it delegates to) stands, with its locals, hashable."""
    out = []
    inner: object = guest
    while isinstance(inner, Generator):
        frame = getattr(inner, "gi_frame", None)
        if frame is None:
            break
        local = tuple((name, _plain(value)) for name, value in sorted(frame.f_locals.items()))
        out.append((frame.f_code.co_qualname, frame.f_lasti, local))
        inner = getattr(inner, "gi_yieldfrom", None)
    return tuple(out)


def _plain(value: object) -> Hashable:
    if isinstance(value, (int, str, bytes, bool, type(None))):
        return value
    if isinstance(value, (tuple, list)):
        return tuple(_plain(item) for item in value)
    if isinstance(value, dict):
        return tuple((_plain(key), _plain(item)) for key, item in value.items())
    return type(value).__qualname__
