"""A vCPU on Unicorn: runs the guest a slice at a time, and answers other threads.

How an interrupt is taken: the line is HCR_EL2.VI, and Unicorn (unlike for the exceptions that an
instruction raises) enters the vector by itself, at the very instruction that unmasks it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from hfsched.errors import InternalError, UserError
from hfsched.runtime.base import guards_nothing
from hfsched.vcpu.engine import Conduit, Exit, Failed, Hypercall, Kicked, Timer
from hfsched.vcpu.portable import PortableCpu, checked, portable_of
from hfsched.vcpu.registers import ARM64_ARGUMENTS
from hfsched.vcpu.unicorn import registers
from hfsched.vcpu.unicorn.exceptions import Ec
from hfsched.vcpu.unicorn.library import ERR_EXCEPTION, ERR_OK
from hfsched.vcpu.unicorn.state import digest
from hfsched.vcpu.unicorn.timer import VirtualTimer
from hfsched.vcpu.unicorn.timerhooks import TimerHooks
from hfsched.vcpu.unicorn.traps import Traps

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hfsched.runtime.base import Runtime
    from hfsched.vcpu.registers import Registers
    from hfsched.vcpu.turn import Turn
    from hfsched.vcpu.unicorn.machine import BlockHandler, Machine, TimerHandler
    from hfsched.vcpu.unicorn.space import UnicornSpace

__all__ = ["SLICE", "UnicornVcpu"]

SLICE = 100_000  # instructions: bounds how long a stop may be lost, and another vCPU wait
NEW_BLOCKS = 500  # translated blocks a slice

# Finding an enumeration's member takes as long as a call.
_EC_HVC, _EC_SMC = int(Ec.HVC), int(Ec.SMC)
_HVC, _SMC = Conduit.HVC, Conduit.SMC
_KICKED = Kicked()
_TIMER = Timer()

# ctl, cval, pending syndrome, address, IPA; then the register image.
_HEADER = struct.Struct("<8sQQQQQ")
_MAGIC = b"hfs-uc1\0"


class UnicornVcpu:
    """See `hfsched.vcpu.engine.Vcpu`."""

    def __init__(
        self,
        runtime: Runtime,
        turn: Turn,
        space: UnicornSpace,
        index: int,
        make: Callable[[BlockHandler, TimerHandler], Machine],
    ) -> None:
        self.index = index
        self._space = space
        self._now = space.clock.read
        self._share(runtime, turn, irq=False)
        self._timer = VirtualTimer(space.counter_hz)
        self._stale_tlb = False
        self._stale_code = False
        # How many instructions the next slice may have; None: SLICE.  For explorers.
        self.cut: Callable[[], int] | None = None
        self._failure: Failed | None = None
        self._condemned: Failed | None = None
        self._hooks = TimerHooks(self._timer, self._now, self._discard_code, make)
        self._machine = self._hooks.machine
        self._traps = Traps(self._machine, space.invalidate)

    def _share(self, runtime: Runtime, turn: Turn, *, irq: bool) -> None:
        """Make what other threads access too, on a runtime with its turn."""
        name = f"{self._space.name}.{self.index}"
        self._turn = turn
        self._place = turn.place(name)
        # Keeps `stop` from a machine that was freed; held for a microsecond.
        self._mutex = runtime.lock(f"unicorn {self._space.name}/{self.index}", state=guards_nothing)
        # Written by others: a flag first, then a stop if the CPU runs; read again before each slice.
        self._kicked = runtime.cell(f"{name}.kick", value=False)
        self._irq = runtime.cell(f"{name}.irq", value=irq)
        self._changed = runtime.cell(f"{name}.changed", value=False)  # the line, or a stale one
        self._running = runtime.flag(f"{name}.running", value=False)

    # The protocol, any thread

    def kick(self) -> None:
        """Make the running or the next `enter` return `Kicked`."""
        self._kicked.set(True)
        if not self._stop():
            self._turn.dismiss(self._place)

    def keep_out(self) -> bool:
        """Keep it from executing if it waits for the turn, else kick it."""
        if self._turn.keep_out(self._place):
            return True
        self.kick()
        return False

    def let_in(self) -> None:
        """End what `keep_out` began."""
        self._turn.let_in(self._place)

    def condemn(self, reason: str) -> None:
        """Make the running `enter`, and each one after it, return `Failed(reason)`."""
        self._condemned = Failed(reason)
        self.kick()

    def set_irq(self, level: bool) -> None:  # noqa: FBT001
        """Raise or lower the interrupt line."""
        self._irq.set(level)
        self._changed.set(True)
        self._stop()

    def _stop(self) -> bool:
        """Stop the machine; return False if it does not run."""
        if self._running.get():
            with self._mutex:
                if self._running.get():
                    self._machine.stop()
                    return True
        return False

    # The protocol, the owner

    def reset(self, pc: int, arg: int) -> None:
        """Put the CPU in its initial state."""
        self._load(None)
        self.invalidate(code=True)
        self._timer.set(0, 0)
        self._traps.pending = None
        self._machine.pc[0] = pc
        self._machine.x[0] = arg

    def enter(self) -> Exit:
        """Run to the next exit, a slice at a time; other vCPUs run between slices."""
        if self._failure is not None:
            return self._failure
        turn, kicked = self._turn, self._kicked
        while True:
            if not turn.take(self._place, kicked.get):
                if kicked.exchange(False):
                    return _KICKED
                continue
            try:
                stop = self._slice()
            finally:
                turn.give()
            if self._condemned is not None:
                return self._condemned
            if stop is not None:
                return stop

    def arguments(self, count: int) -> tuple[int, ...]:
        """Return x0 to x(count - 1) of the last hypercall."""
        if count > ARM64_ARGUMENTS:
            raise InternalError(f"engine unicorn: {count} of {ARM64_ARGUMENTS} argument registers")
        return tuple(self._machine.x[:count])

    def reply(self, values: Sequence[int]) -> None:
        """Write x0, x1, ..."""
        count = len(values)
        if count > ARM64_ARGUMENTS:
            raise InternalError(f"engine unicorn: {count} values for {ARM64_ARGUMENTS} registers")
        self._machine.x[:count] = list(values)

    def complete_mmio(self, value: int) -> None:
        """Finish the last `Mmio` exit."""
        self._traps.complete_mmio(value)

    def inject_abort(self) -> None:
        """Deliver the last `Mmio` or `Fault` exit as an abort to EL1."""
        self._failure = self._traps.inject_abort()

    def timer_remaining(self) -> int | None:
        """Time in ns until the virtual timer fires."""
        return self._timer.remaining(self._now())

    def waits(self) -> bool:
        """Return False: WFI is an exit."""
        return False

    def mask_timer(self) -> None:
        """Set the mask bit of the virtual timer."""
        self._timer.mask()

    def program_counter(self) -> int:
        """Return the address of the next instruction."""
        return int(self._machine.pc[0])

    def registers(self) -> Registers:
        """Return the registers by name."""
        return registers.read(self._machine, self._timer)

    def set_registers(self, values: Mapping[str, int | bytes]) -> None:
        """Write registers by name."""
        registers.write(self._machine, self._timer, values)
        self._traps.pending = None
        self.invalidate(code=True)

    def save(self) -> bytes:
        """Return every register; only this version of Unicorn can use it."""
        timer = self._timer
        return (
            _HEADER.pack(_MAGIC, timer.ctl, timer.cval, *(self._traps.pending or (0, 0, 0)))
            + self._machine.image()
        )

    def restore(self, data: bytes) -> None:
        """Restore what `save` returned; raises `UserError` for other data."""
        self._restore(data)
        self.invalidate(code=True)

    def rewind(self, data: bytes, *, irq: bool) -> None:
        """Restore what this same CPU has saved; the guest's code must be unchanged.

        The CPU is not in use.  Kicks are discarded, and the line is set to `irq`.
        """
        self._kicked.set(False)
        self._irq.set(irq)
        self._restore(data)

    def _restore(self, data: bytes) -> None:
        if len(data) < _HEADER.size or not data.startswith(_MAGIC):
            raise UserError("engine unicorn: no saved CPU state")
        _, ctl, cval, *pending = _HEADER.unpack_from(data)
        self._load(data[_HEADER.size :])
        self._timer.set(ctl, cval)
        self._traps.pending = (pending[0], pending[1], pending[2]) if pending[0] else None

    def portable(self) -> PortableCpu:
        """Return the state by register names."""
        return portable_of(self.registers())

    def adopt(self, state: PortableCpu) -> None:
        """Take over the state of a CPU of another engine; raises UserError."""
        values = checked(state)
        self.reset(0, 0)
        self.set_registers(values)

    def state_key(self) -> object:
        """Return a digest of the registers that the architecture defines, and of the timer."""
        timer = self._timer
        return digest(self._machine, (timer.ctl, timer.cval, self._failure is not None))

    # For the space

    def invalidate(self, *, code: bool) -> None:
        """Discard translations of addresses, and with `code` of instructions, before the next slice."""
        self._stale_tlb = True
        self._stale_code |= code
        self._changed.set(True)

    def _discard_code(self) -> None:
        self._stale_code = True
        self._changed.set(True)

    def set_counter_hz(self, frequency: int) -> None:
        """Make the guest's counter advance so often a second."""
        self._timer.frequency = frequency

    def belong(self, runtime: Runtime, turn: Turn) -> None:
        """Use another runtime from now on, with its turn."""
        self._share(runtime, turn, irq=self._irq.get())

    def map(self, physical: int, size: int, host: int) -> None:
        """Map host memory at a physical address."""
        self._machine.map(physical, size, host)

    def close(self) -> None:
        """Free the machine; later kicks do nothing."""
        with self._mutex:
            self._failure = Failed("the machine is closed")
            self._machine.close()
        self._turn.forget(self._place)

    # Running

    def _load(self, image: bytes | None) -> None:
        self._failure = None
        self._machine.load(image, irq=self._irq.get())

    def _slice(self) -> Exit | None:
        machine = self._machine
        # From here on a kick or a changed line stops the machine; before, it is seen below.
        self._running.set(True)
        try:
            if self._kicked.get() and self._kicked.exchange(False):
                return _KICKED
            if self._changed.get():
                self._update()
            count = SLICE if self.cut is None else self.cut()
            if self._timer.armed:
                left = self._timer.remaining(self._now())
                if not left:
                    return _TIMER
                # A tenth of an instruction a ns is slower than any host: the deadline is approached
                # in steps, and hardly ever passed.
                count = min(count, 100 + left // 10)
            self._hooks.blocks_left = NEW_BLOCKS
            error = machine.run(count)
        finally:
            self._running.set(False)
        if error != ERR_EXCEPTION:
            return None if error == ERR_OK else self._failed(error)
        esr = machine.exception.syndrome
        ec = esr >> 26
        if ec == _EC_HVC:
            return Hypercall(_HVC, tuple(machine.x[:8]))
        if ec == _EC_SMC:
            return Hypercall(_SMC, tuple(machine.x[:8]))
        stop = self._traps.handle(esr, machine.exception.address, irq=self._irq.get())
        if isinstance(stop, Failed):
            self._failure = stop
        return stop

    def _update(self) -> None:
        """Apply to the machine what other threads have changed."""
        machine = self._machine
        self._changed.exchange(False)  # first: a change from now on is seen the next time
        if machine.irq != self._irq.get():
            machine.set_irq(not machine.irq)
        if self._stale_code:
            self._stale_code = False
            machine.flush_code()
        if self._stale_tlb:
            self._stale_tlb = False
            machine.flush_tlb()

    def _failed(self, error: int) -> Failed:
        reason = self._machine.describe(error)
        self._failure = Failed(
            f"engine unicorn: {reason}, {self._traps.place(self._machine.pc[0])}"
        )
        return self._failure
