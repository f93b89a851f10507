"""One CPU of a script guest."""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from hfsched.errors import InternalError, UserError
from hfsched.vcpu.engine import Exit, Failed, Hypercall, Kicked, Mmio, Permissions, Timer
from hfsched.vcpu.engine import Wfi as WfiExit
from hfsched.vcpu.registers import ARM64_ARGUMENTS, SCRIPT, encode
from hfsched.vcpu.script import saving
from hfsched.vcpu.script.actions import (
    REGISTERS,
    WORD,
    Abort,
    Action,
    Hvc,
    Load,
    Step,
    Store,
    Wfi,
)
from hfsched.vcpu.script.journal import (
    BEGAN,
    RAISED,
    RETURNED,
    Journal,
    Kind,
    Outcome,
    Tape,
    action_of,
)
from hfsched.vcpu.script.mistakes import no_generator, raised, yielded
from hfsched.vcpu.script.statekey import frames, key_of

if TYPE_CHECKING:
    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.portable import PortableCpu
    from hfsched.vcpu.registers import Registers
    from hfsched.vcpu.script.space import ScriptSpace
    from hfsched.vcpu.turn import Turn

__all__ = ["Cpu", "Guest", "Program"]

# Any exception of a guest ends the guest; GreenletExit, which unwinds a greenlet, is none of these.
GUESTS_MISTAKES = (Exception, SystemExit, KeyboardInterrupt)

RETURNS = "the guest function returned"

Owed: TypeAlias = tuple[int, ...] | Abort | list[int] | Load | Store | None
Guest: TypeAlias = Generator[Action, tuple[int, ...], None]
Program: TypeAlias = Callable[["Cpu"], Guest]


class _Frame:
    """A generator that runs, its registers, and what it is given when it resumes.

    `owed` is what `send` will give it (None starts it), an `Abort` to raise in it, the list of the
    registers themselves after a call, or an access that is still to be done.  `address` is its program's,
    0 for a handler.
    """

    __slots__ = ("address", "guest", "owed", "regs")

    def __init__(self, address: int, guest: Guest, arg: int) -> None:
        self.address = address
        self.guest = guest
        self.regs = [arg] + [0] * (REGISTERS - 1)
        self.owed: Owed = None

    def key(self) -> Hashable:
        owed = self.owed
        if isinstance(owed, Abort):
            return (frames(self.guest), (*self.regs,), "abort", owed.address)
        if isinstance(owed, list):
            return (frames(self.guest), (*self.regs,), "call")
        return (frames(self.guest), (*self.regs,), owed)


class Cpu:
    """One CPU of a `ScriptSpace`: the guest's side (public), and the engine's `Vcpu`."""

    def __init__(
        self,
        runtime: Runtime,
        space: ScriptSpace,
        index: int,
        journal: Journal | None = None,
        turn: Turn | None = None,
    ) -> None:
        self._runtime = runtime
        self._space = space
        self.index = index
        self.arg = 0
        self.masked = True
        self.handler: Program | None = None
        self.timer: int | None = None
        self.timer_masked = False
        self._name = name = f"{space.name}.{index}"
        self._kick = runtime.cell(f"{name}.kick", value=False)
        self._condemned: str | None = None  # read once it was kicked
        self._line = runtime.cell(f"{name}.irq", value=False)
        self._stack: list[_Frame] = []  # the guest, and a handler that interrupted it
        self._missing = "it was never started"  # why the stack is empty
        self._start = 0  # the address of the last reset
        self._turn = turn
        self._place = None if turn is None else turn.place(name)
        self._has_turn = False
        self._journal = journal
        self._tape: Tape | None = None  # while the guest's own code runs, and that is recorded

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
        """Read what is mapped; no permission is checked (yield `Load` for that)."""
        ram, offset = self._space.place(ipa, size)
        if self._tape is None:
            return ram.read(offset, size)
        return self._tape.take(b"%d %d" % (ipa, size), lambda: ram.read(offset, size))

    def write(self, ipa: int, data: bytes) -> None:
        """Write the VM's memory; no permission is checked (yield `Store` for that)."""
        if self._tape is None or self._tape.give(ipa, data):
            self._space.ram.write(ipa - self._space.base, data)

    def arm(self, delay: int | None) -> None:
        """Set the virtual timer to fire in `delay` ns, unmasked; None switches it off."""
        self.timer = None if delay is None else self._now() + delay
        self.timer_masked = False

    def _now(self) -> int:
        clock = self._space.clock
        return clock.read() if self._tape is None else self._tape.take(b"now", clock.read)

    def address_of(self, program: Program) -> int:
        """Return an entry address for CPU_ON."""
        address = self._space.address_of(program, self.index)
        if self._tape is not None:
            self._tape.give(address, b"")  # it must be the same when the CPU is restored
        return address

    # The engine's side: see hfsched.vcpu.engine.Vcpu.

    def reset(self, pc: int, arg: int) -> None:
        program = self._space.program_at(pc)
        self._start = pc
        if self._journal is not None:
            self._journal.clear()
        self.arg = arg
        self.masked = True
        self.handler = None
        self.timer = None
        self.timer_masked = False
        self._missing = f"no code at {pc:#x}"
        self._stack = []
        if program is not None:
            self._begin(program, arg, "guest")

    def enter(self) -> Exit:
        turn, place = self._turn, self._place
        while True:
            if turn is None or place is None:
                leave = self._slice()
            elif turn.take(place, self._kick.get):
                self._has_turn = True
                try:
                    leave = self._slice()
                finally:
                    self._has_turn = False
                    turn.give()
            else:
                leave = Kicked() if self._kicked() else None
            if leave is not None:
                return leave

    def _kicked(self) -> bool:
        """Clear a kick; return whether to leave for it.  A kick that condemns makes the CPU fail instead."""
        if not (self._kick.get() and self._kick.exchange(False)):
            return False
        if self._condemned is None:
            return True
        self._stack, self._missing = [], self._condemned
        return False

    def _slice(self) -> Exit | None:
        """Run to an exit, or past a `Step` (None)."""
        while True:
            if self._kicked():
                return Kicked()
            if self.timer_remaining() == 0:
                return Timer()
            if not self._stack:
                return Failed(self._missing)
            if self.handler is not None and not self.masked and self._line.get():
                self.masked = True
                self._begin(self.handler, 0, "handler")
                continue
            frame = self._stack[-1]
            action = self._resume(frame)
            leave = None if action is None else self._act(frame, action)
            if leave is not None or isinstance(action, Step):
                return leave

    def kick(self) -> None:
        self._kick.set(True)
        if self._turn is not None and self._place is not None:
            self._turn.dismiss(self._place)

    def condemn(self, reason: str) -> None:
        self._condemned = reason
        self.kick()

    def keep_out(self) -> bool:
        """Keep it from executing if it waits for its turn, else kick it."""
        if self._turn is not None and self._place is not None and self._turn.keep_out(self._place):
            return True
        self.kick()
        return False

    def let_in(self) -> None:
        """End what `keep_out` began."""
        if self._turn is not None and self._place is not None:
            self._turn.let_in(self._place)

    @property
    def executes(self) -> bool:
        """Whether `enter` may execute now, and not only wait for its turn: for oracles, which look between steps."""
        return self._turn is None or self._has_turn

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        self._line.set(level)

    def arguments(self, count: int) -> tuple[int, ...]:
        if count > ARM64_ARGUMENTS:
            raise InternalError(f"engine script: {count} of {ARM64_ARGUMENTS} argument registers")
        regs = self._stack[-1].regs if self._stack else []
        return (*regs, *(0,) * (count - len(regs)))[:count]

    def reply(self, values: Sequence[int]) -> None:
        count = len(values)
        if count > ARM64_ARGUMENTS:
            raise InternalError(f"engine script: {count} values for {ARM64_ARGUMENTS} registers")
        if self._stack:
            if count > REGISTERS:
                self._extend()
            self._stack[-1].regs[:count] = [value & WORD for value in values]

    def _extend(self) -> None:
        """Give the generator x8 to x17 too."""
        regs = self._stack[-1].regs
        regs += [0] * (ARM64_ARGUMENTS - len(regs))

    def complete_mmio(self, value: int) -> None:
        action = self._accessing().owed
        self._accessing().owed = (value,) if isinstance(action, Load) else ()

    def inject_abort(self) -> None:
        frame = self._accessing()
        assert isinstance(frame.owed, Load | Store)
        frame.owed = Abort(frame.owed.address)

    def _accessing(self) -> _Frame:
        if not self._stack or not isinstance(self._stack[-1].owed, Load | Store):
            raise InternalError(f"vm {self._space.name}: no Mmio exit to answer")
        return self._stack[-1]

    def timer_remaining(self) -> int | None:
        if self.timer is None or self.timer_masked:
            return None
        return max(0, self.timer - self._space.clock.read())

    def waits(self) -> bool:
        return False

    def mask_timer(self) -> None:
        self.timer_masked = True
        if self._journal is not None:
            self._journal.add("mask", [])

    def program_counter(self) -> int:
        """Return the address of the program that runs, 0 for an interrupt handler and without one."""
        return self._stack[-1].address if self._stack else 0

    def registers(self) -> Registers:
        values = self.arguments(ARM64_ARGUMENTS)
        found: Registers = {f"x{number}": value for number, value in enumerate(values)}
        found["pc"] = self.program_counter()
        return found

    def set_registers(self, values: Mapping[str, int | bytes]) -> None:
        stored = encode(values, SCRIPT)
        numbers = {name: int.from_bytes(raw, "little") for name, raw in stored.items()}
        where = f"vm {self._space.name}: engine script"
        if numbers.pop("pc", self.program_counter()) != self.program_counter():
            raise UserError(f"{where} cannot set pc: a Python generator has no jump")
        if numbers and not self._stack:
            raise UserError(f"{where}: no registers: {self._missing}")
        for name, number in numbers.items():
            if int(name[1:]) >= REGISTERS:
                self._extend()
            self._stack[-1].regs[int(name[1:])] = number

    def save(self) -> bytes:
        """See `engine.Vcpu`; raises UserError unless the engine records.

        Neither the interrupt line nor a kick is in it: they are not the CPU's own.
        """
        return saving.save(self, self._recording())

    def restore(self, data: bytes) -> None:
        """See `engine.Vcpu`: run the guest once more, given the same (`journal` has the conditions).

        The VM's memory is not touched.  Programs have the addresses that they had when saved: a VM's
        CPUs are restored in the order of their indices.  Raises UserError for bytes that `save` did not
        return, for a guest that now does something else, and unless the engine records.
        """
        saving.restore(self, self._recording(), data)

    def portable(self) -> None:
        """Return None: a Python generator runs on no other engine."""

    def adopt(self, state: PortableCpu) -> None:  # noqa: ARG002 - the protocol's
        """Refuse it."""
        raise UserError(
            f"vm {self._space.name}: engine script has no CPU for another engine's state"
        )

    def _recording(self) -> Journal:
        if self._journal is None:
            raise UserError(
                f"vm {self._space.name}: engine script saves and restores a Python generator only"
                " where it records: ScriptEngine(runtime, recording=True)"
            )
        return self._journal

    def key(self) -> Hashable:
        """Return which CPU of its VM it is, for a guest that holds it; `state_key` has its state."""
        return self.index

    def state_key(self) -> Hashable:
        stack = tuple(frame.key() for frame in self._stack)
        timer = (self.timer, self.timer_masked)
        handler = key_of(self.handler, f"the interrupt handler of {self._name}")
        flags = (self.masked, handler, self.arg, self._missing)
        return (stack, timer, flags, self._kick.get(), self._line.get())

    def close(self) -> None:
        """End the guest, and give up its place."""
        self.reset(-1, 0)
        if self._turn is not None and self._place is not None:
            self._turn.forget(self._place)

    # Inside.

    def _begin(self, program: Program, arg: int, kind: Kind) -> None:
        """Begin a guest or a handler; `kind` says which."""
        journal = self._tape = self._journal
        self._push(program, arg)
        if journal is not None:
            self._tape = None
            journal.add(kind, [BEGAN])

    def _push(self, program: Program, arg: int) -> None:
        try:
            guest = program(self)
        except GUESTS_MISTAKES as exc:
            self._die(raised(exc))
            return
        if isinstance(guest, Generator):
            self._stack.append(_Frame(0 if self._stack else self._start, guest, arg))
        else:
            self._die(no_generator(guest))

    def _die(self, why: str) -> None:
        self._stack.clear()
        self._missing = why

    def _resume(self, frame: _Frame) -> Action | None:
        """Run a generator to its next action; None: it ended, or yielded no action."""
        owed, frame.owed = frame.owed, ()
        if isinstance(owed, Load | Store):
            return owed
        if isinstance(owed, list):
            owed = tuple(owed)
        journal = self._tape = self._journal
        action = self._step(frame, owed)
        if journal is not None:
            self._tape = None
            journal.add(owed, self.outcome_of(action))
        return action

    def outcome_of(self, action: Action | None) -> Outcome:
        """Return what a step came to, as a journal has it."""
        return self.ending() if action is None else action_of(action)

    def ending(self) -> Outcome:
        """Return how the last generator that ended did."""
        return [RETURNED if self._missing == RETURNS else RAISED]

    def _step(self, frame: _Frame, owed: tuple[int, ...] | Abort | None) -> Action | None:
        try:
            if isinstance(owed, Abort):
                return frame.guest.throw(owed)
            return frame.guest.send(owed)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration:
            self._stack.pop()
            self._missing = RETURNS
            self.masked = False
        except GUESTS_MISTAKES as exc:
            self._die(raised(exc))
        return None

    def _act(self, frame: _Frame, action: Action) -> Exit | None:
        if isinstance(action, Hvc):
            frame.regs[:] = action.args
            frame.owed = frame.regs
            args = action.args
            return Hypercall(action.conduit, args if len(args) == REGISTERS else args[:REGISTERS])
        if isinstance(action, Wfi):
            return None if self._line.get() else WfiExit()
        if isinstance(action, Step):
            return None
        if isinstance(action, Load | Store):
            return self._access(frame, action)
        self._die(yielded(action))
        return None

    def _access(self, frame: _Frame, action: Load | Store) -> Exit | None:
        write = isinstance(action, Store)
        wanted = Permissions.WRITE if write else Permissions.READ
        fault = self._space.first_fault(action.address, action.size, wanted)
        if fault is not None:
            frame.owed = action  # done again unless the exit is answered otherwise
            value = action.masked() if isinstance(action, Store) else 0
            return Mmio(fault, action.size, write, value)
        if isinstance(action, Store):
            self.write(action.address, action.masked().to_bytes(action.size, "little"))
        else:
            frame.owed = (int.from_bytes(self.read(action.address, action.size), "little"),)
        return None
